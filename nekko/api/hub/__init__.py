"""The Hub door: a Hugging Face Hub for unmodified clients, out of this node's cache and through it.

    /hf/                                                   what to set HF_ENDPOINT to
    /hf/[datasets/|spaces/]<repo>/resolve/<rev>/<path>     a file: GET, HEAD, ranges, conditions
    /hf/api/{models,datasets,spaces}/<repo>                what is in a repository, at main
    …/revision/<rev>                                       the same at a revision
    …/tree/<rev>[/<folder>], …/paths-info/<rev> (POST)     files and folders
    …/refs                                                 branches and tags
    …/auth-check                                           whether the caller may have its files

A listener whose only door this is serves all of it without `/hf` as well. `<repo>` is one part or two; a revision's own
slashes are percent-encoded, so paths are parted before they are decoded (`route`). Everything but bytes and refs is
written out of the repository's listing (`answers`), without a word of Xet: a client that reads of it would fetch past
this node. HEAD never fetches. `Cache-Control: no-cache` asks the Hub what a branch means now.

Clients do not hash what they get, so the last bytes of a file wait for its proof.
"""
