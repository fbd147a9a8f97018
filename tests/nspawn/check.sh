#!/bin/bash
# Runs inside the booted container; each line of the result is one step that was seen working.
set -u
exec >/root/result 2>&1
step() { # step NAME COMMAND...: run it, tell how it went, stop at the first failure
    local name=$1
    shift
    if "$@"; then echo "ok $name"; else
        echo "FAILED $name"
        systemctl --no-pager status nekko.service nekko.socket
        journalctl --no-pager -u nekko.service | tail -40
        systemctl poweroff
        exit 1
    fi
}
ask() { curl -sS --fail --max-time 60 --unix-socket /run/nekko/nekko.sock "$@"; }
URL=http://127.0.0.1:8199/f.bin
B64=$(printf %s $URL | base64 -w0)
is() { [ "$(systemctl show -P "$1" nekko.service)" = "$2" ]; }
opened_by_another_user() {
    local path
    path=$(find /var/lib/nekko/cache/blobs -size +10k -type f)
    setpriv --reuid=65534 --regid=65534 --clear-groups cmp "$path" /srv/f.bin
}
watchdog_restarts() {
    local before
    before=$(systemctl show -P MainPID nekko.service)
    kill -STOP "$before"
    for _ in $(seq 100); do
        sleep 0.2
        [ "$(systemctl show -P MainPID nekko.service)" != "$before" ] && is ActiveState active && return 0
    done
    return 1
}
outsider_is_refused() { ! setpriv --reuid=65534 --regid=65534 --clear-groups curl -sS --unix-socket /run/nekko/nekko.sock http://n/ >/dev/null 2>&1; }

cd /srv && (python3 -m http.server --bind 127.0.0.1 8199 >/dev/null 2>&1 &)
sleep 1
step "the socket waits and the service does not run" is ActiveState inactive
step "the first client starts it" ask -o /dev/null http://n/health
step "it says that it is ready" is ActiveState active
step "it pulls" ask -o /dev/null http://n/content/ -d "{\"url\":\"$URL\"}"
step "another user opens the file" opened_by_another_user
step "only its group may speak to the socket" outsider_is_refused
step "the command line finds the socket" nekko show $URL
step "it restarts" systemctl restart nekko.service
step "content is there after a restart" ask -o /dev/null http://n/content/$B64
step "the watchdog replaces a daemon that hangs" watchdog_restarts
step "the next client is served" ask -o /dev/null http://n/content/$B64
step "it stops" systemctl stop nekko.service
step "the stop is clean" is Result success
echo done
systemctl poweroff
