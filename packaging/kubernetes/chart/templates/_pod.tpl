{{- define "nekko.pod" -}}
metadata:
  labels:
    {{- include "nekko.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    checksum/config: {{ include "nekko.config" . | sha256sum }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "nekko.serviceAccount" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false # its variables would begin with NEKKO_, and no setting of nekko has their names
  {{- if .Values.hostNetwork }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- range $key := list "imagePullSecrets" "nodeSelector" "tolerations" "affinity" "hostAliases" }}
  {{- with index $.Values $key }}
  {{ $key }}: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- $security := deepCopy .Values.podSecurityContext }}
  {{- if .Values.persistence.claim }}
  {{- $security = mergeOverwrite (dict "fsGroup" $security.runAsGroup "fsGroupChangePolicy" "OnRootMismatch") $security }}
  {{- end }}
  securityContext: {{- toYaml $security | nindent 4 }}
  {{- $prepared := and (include "nekko.isHostPath" .) .Values.persistence.prepare }}
  {{- if or $prepared .Values.initContainers }}
  initContainers:
  {{- if $prepared }}
  - name: own # the kubelet makes the directories of hostPath for root
    image: {{ include "nekko.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command: [chown, "{{ .Values.podSecurityContext.runAsUser }}:{{ .Values.podSecurityContext.runAsGroup }}", /var/lib/nekko, /run/nekko]
    securityContext:
      runAsNonRoot: false
      runAsUser: 0
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop: [ALL]
        add: [CHOWN]
    volumeMounts:
    - name: cache
      mountPath: /var/lib/nekko
    - name: run
      mountPath: /run/nekko
  {{- end }}
  {{- with .Values.initContainers }}{{ toYaml . | nindent 2 }}{{ end }}
  {{- end }}
  containers:
  - name: nekko
    image: {{ include "nekko.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    env:
    - name: CONFIG_FILE
      value: /etc/nekko/nekko.yaml
    {{- with .Values.env }}{{ toYaml . | nindent 4 }}{{ end }}
    {{- with .Values.envFrom }}
    envFrom: {{- toYaml . | nindent 4 }}
    {{- end }}
    ports:
    - name: http
      containerPort: {{ .Values.port }}
      {{- if and .Values.hostPort.enabled (not .Values.hostNetwork) (eq .Values.kind "DaemonSet") }}
      hostPort: {{ .Values.port }}
      hostIP: {{ .Values.hostPort.ip }}
      {{- end }}
    - name: health
      containerPort: {{ .Values.health.port }}
    {{- if .Values.metrics.enabled }}
    - name: metrics
      containerPort: {{ .Values.metrics.port }}
    {{- end }}
    startupProbe: # a long journal of the catalog is read first
      {{- include "nekko.probe" (list . "live") | nindent 6 }}
      periodSeconds: 2
      failureThreshold: 60
    livenessProbe:
      {{- include "nekko.probe" (list . "live") | nindent 6 }}
      periodSeconds: 10
      timeoutSeconds: 5
    readinessProbe:
      {{- include "nekko.probe" (list . "ready") | nindent 6 }}
      periodSeconds: 10
      timeoutSeconds: 5
    resources: {{- toYaml .Values.resources | nindent 6 }}
    securityContext: {{- toYaml .Values.securityContext | nindent 6 }}
    volumeMounts:
    - name: config
      mountPath: /etc/nekko
      readOnly: true
    - name: cache
      mountPath: /var/lib/nekko
    - name: run
      mountPath: /run/nekko
    {{- if .Values.serverTls.enabled }}
    - name: tls
      mountPath: /etc/nekko-tls
      readOnly: true
    {{- end }}
    {{- with .Values.volumeMounts }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with .Values.sidecarContainers }}{{ toYaml . | nindent 2 }}{{ end }}
  volumes:
  - name: config
    configMap:
      name: {{ include "nekko.fullname" . }}
  {{- if include "nekko.isHostPath" . }}
  - name: cache
    hostPath:
      path: {{ .Values.persistence.hostPath }}
      type: DirectoryOrCreate
  - name: run
    hostPath:
      path: {{ .Values.persistence.runPath }}
      type: DirectoryOrCreate
  {{- else }}
  - name: cache
    {{- if .Values.persistence.claim }}
    persistentVolumeClaim:
      claimName: {{ .Values.persistence.claim }}
    {{- else }}
    emptyDir: {}
    {{- end }}
  - name: run
    emptyDir: {}
  {{- end }}
  {{- if .Values.serverTls.enabled }}
  - name: tls
    secret:
      secretName: {{ .Values.serverTls.secretName }}
  {{- end }}
  {{- with .Values.volumes }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}

{{- define "nekko.probe" -}}
{{- $root := index . 0 -}}
httpGet:
  path: /health/{{ index . 1 }}
  port: health
  {{- if $root.Values.hostNetwork }}
  host: 127.0.0.1
  {{- end }}
{{- end }}
