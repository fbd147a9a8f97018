"""The image API below `/imageapi/v1`. Source: kraken-hpc/imageapi 0.2.0.

`swagger.yaml` is both the description that clients are served and the rule by which `schema` checks what they send, so
it cannot say anything else than what is done. `door` has the routes. Whoever may use this door owns the host: see
`api.access`.
"""
