#!/bin/bash
# Runs inside the booted container; each line of the result is one step that was seen working.
set -u
exec >/root/result 2>&1
step() { # step NAME COMMAND...: run it, tell how it went, stop at the first failure
    local name=$1
    shift
    if "$@"; then echo "ok $name"; else
        echo "FAILED $name"
        systemctl --no-pager status nekko.service nekko.socket nekko-images.service nekko-images.socket
        journalctl --no-pager -u nekko.service -u nekko-images.service | tail -60
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
mounts_over_the_cache() {
    place=$(nekko mount $URL) && cmp "$place/f.bin" /srv/f.bin && ! touch "$place/new" 2>/dev/null
}
is_mounted() { mountpoint -q "$place" && cmp "$place/f.bin" /srv/f.bin; }
holders() { ask http://n/admin/holds | python3 -c 'import json, sys; print(len(json.load(sys.stdin)["holds"]))'; }
holds_end() {
    for _ in $(seq 100); do
        [ "$(holders)" = 0 ] && return 0
        sleep 0.2
    done
    return 1
}
only_root_sees_images() { ! setpriv --reuid=65534 --regid=65534 --clear-groups ls /run/nekko-images >/dev/null 2>&1; }
G=http://127.0.0.1:8199/g.bin
view_is_made() { nekko pull $G >/dev/null && nekko view $G --as files /srv/view && cmp /srv/view/g.bin /srv/g.bin; }
content_changes() {
    echo newer >/srv/g.bin && touch -d tomorrow /srv/g.bin # for a web server, all of one second is one version
    nekko pull --refresh $G >/dev/null && ! cmp -s /srv/view/g.bin /srv/g.bin
}
view_follows() { systemctl start nekko-views.service && cmp /srv/view/g.bin /srv/g.bin; }
timer_waits() { systemctl enable --quiet --now nekko-views.timer && [ "$(systemctl show -P ActiveState nekko-views.timer)" = active ]; }
stopped_daemon_is_left_alone() { systemctl start nekko-views.service && is ActiveState inactive; }
by_tcp() { # by_tcp STATUS ADDRESS: what it answers
    [ "$(curl -sS --max-time 60 -o /dev/null -w '%{http_code}' "http://127.0.0.1:$2")" = "$1" ]
}
drop_in_adds_an_address() { # as `systemctl edit` does
    mkdir -p /etc/systemd/system/nekko.socket.d
    printf '[Socket]\nListenStream=127.0.0.1:8050\n' >/etc/systemd/system/nekko.socket.d/override.conf
    systemctl daemon-reload && systemctl restart nekko.socket && by_tcp 200 8050/v2/ && by_tcp 200 8050/admin/status
}
socket_of_its_own_has_some_doors() {
    printf '[Socket]\nListenStream=%s\nFileDescriptorName=%s\nService=nekko.service\n[Install]\nWantedBy=sockets.target\n' \
        0.0.0.0:8051 registry,files >/etc/systemd/system/nekko-lan.socket
    systemctl stop nekko.service && systemctl enable --quiet --now nekko-lan.socket &&
        by_tcp 200 8051/v2/ && by_tcp 404 8051/admin/status && by_tcp 200 8050/admin/status
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
step "a drop-in adds an address" drop_in_adds_an_address
step "a socket unit of its own has some of the doors" socket_of_its_own_has_some_doors
step "it restarts" systemctl restart nekko.service
step "content is there after a restart" ask -o /dev/null http://n/content/$B64
step "the watchdog replaces a daemon that hangs" watchdog_restarts
step "the next client is served" ask -o /dev/null http://n/content/$B64
step "images are mounted by a process of their own, and the node sees them" mounts_over_the_cache
step "it is root's alone" only_root_sees_images
step "the cache knows what it keeps" test "$(holders)" = 1
step "its mount outlives its restart" systemctl restart nekko-images.service
step "the mount is there after a restart" is_mounted
step "the mount is there after a restart of the cache's daemon" systemctl restart nekko.service
step "the mount is whole" is_mounted
step "it is removed" nekko umount "$place"
step "the cache keeps nothing for it any more" holds_end
echo first >/srv/g.bin
step "root makes a view" view_is_made
step "its content changes, and it does not" content_changes
step "its service makes it anew" view_follows
step "its timer waits" timer_waits
step "the image API stops" systemctl stop nekko-images.socket nekko-images.service
step "it stops" systemctl stop nekko.service
step "the stop is clean" is Result success
step "its socket stops" systemctl stop nekko.socket nekko-lan.socket
step "views do not start it" stopped_daemon_is_left_alone
echo done
systemctl poweroff
