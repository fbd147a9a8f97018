"""The server: listeners, connections and the notices to systemd. It knows Hypercorn and nothing of nekko's doors.

`listeners` opens TCP and Unix sockets, or takes over those of systemd (`systemd`); `tls` makes the server's context;
`serve` accepts and, at the end, stops gracefully; `connection` is Hypercorn's connection with a guard around it.

Hypercorn's own `serve` is not used: an exception in one connection would end all of them, and a reader that has stopped
reading could hold up a stop for as long as it likes. Both are tests here. HTTP/1.1 only is offered.
"""
