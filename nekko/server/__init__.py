"""The server: listeners, connections and the notices to systemd. It knows Hypercorn and nothing of nekko's doors.

`listeners` opens TCP and Unix sockets, or takes over those of systemd (`systemd`); `tls` makes the server's context.
`serve` accepts and, at the end, stops. Each `connection` reads requests and has them answered by the application, with
Hypercorn's protocol (`http1`) between the two; `stream` sends, by bytes or by file. Before any of that, a request that
is simple (`simple`) may be answered at once by a function that was handed in, or `soon` by an object that was; the
body of an `upload` that goes this way is received past the protocol.

Of Hypercorn only the protocol is used, and of that only HTTP/1.1. Its own server ends altogether when one connection
raises, which three short inputs make it do. A reader that has stopped reading holds up its stop for as long as it
likes. A connection whose application answers before the body was read, or whose client leaves with requests pipelined,
never ends. Its `TCPServer` is not a base here, because no method of it would remain.
"""
