"""Upstreams: the far ends that content is fetched from, and the only code that knows an HTTP library.

`base` is the seam: resolve a locator, open a remote, drain a body. `client` sends requests (redirects, policy, TLS),
`backend` is the network below it, `proxies` and `bandwidth` stand between the two, `body` moves bytes into worker
threads, `faults` tells what went wrong. `http`, `registry`, `hub` and `ollama` are kinds of upstream; `resolve` chooses
among them by the kind of locator, and the next kinds join there. `repository` asks a registry for what no manifest
names.

Nothing here proves content, writes to the store, or retries: bytes are unproven, and each call tries once. Credentials
go to the host they were given for, never into a message.
"""
