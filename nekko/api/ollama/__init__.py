"""The Ollama door: `ollama pull --insecure host:port/<namespace>/<model>`, out of this node's cache and through it.

    /v2/<namespace>/<model>/manifests/<tag>     the manifest of Ollama's registry, byte for byte
    /v2/<namespace>/<model>/blobs/<digest>      from the store, else while it arrives
    /v2/<namespace>/<model>/tags/list           the tags that are held

The paths are those of the registry door, and mean another registry. Where a listener has both doors, a request is this
one's if its User-Agent is Ollama's. The parts of blobs Ollama asks for as nobody in particular, so these reach the
registry door, which gives whatever is held or arriving by its digest, and fetches a model's parts from the model's
registry.
"""
