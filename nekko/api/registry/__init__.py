"""The registry door: the pull half of the OCI distribution API, over every registry that this node may ask.

    /v2/                                        ping
    /v2/<name>/manifests/<tag or digest>        from the store, else from its registry; see `transfer.mirror`
    /v2/<name>/blobs/<digest>                   from the store, else while it arrives
    /v2/<name>/tags/list?n=&last=               what is held and what the registry has
    /v2/<name>/referrers/<digest>?artifactType= the same

`<name>` may begin with a registry, and `?ns=` may name one (`oci.distribution`). All of it is raw ASGI: blobs must not
be copied, and clients of this API want its own error bodies everywhere. Nothing can be pushed or deleted here.
"""
