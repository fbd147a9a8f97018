{{- /* nekko's configuration: what the chart decides, and over it what values say. */ -}}
{{- define "nekko.config" -}}
{{- $host := ternary "127.0.0.1" "" .Values.hostNetwork -}}
{{- $listen := list
      (printf "%s:%v=content,registry,hub,ollama,files" $host .Values.port)
      (printf "%s:%v=health" $host .Values.health.port) -}}
{{- if .Values.metrics.enabled -}}
{{- $listen = append $listen (printf ":%v=admin" .Values.metrics.port) -}}
{{- end -}}
{{- $config := dict
      "cacheDir" "/var/lib/nekko/cache"
      "address" (list "/run/nekko/nekko.sock")
      "listen" $listen -}}
{{- with .Values.serverTls -}}
{{- if .enabled -}}
{{- $_ := required "serverTls.secretName names the secret with tls.crt and tls.key" .secretName -}}
{{- $_ := set $config "tlsCert" "/etc/nekko-tls/tls.crt" -}}
{{- $_ := set $config "tlsKey" "/etc/nekko-tls/tls.key" -}}
{{- if ne .clientAuth "none" -}}
{{- $_ := set $config "tlsClientCa" "/etc/nekko-tls/ca.crt" -}}
{{- $_ := set $config "tlsClientAuth" .clientAuth -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{ mergeOverwrite $config (deepCopy .Values.config) | toYaml }}
{{- end }}
