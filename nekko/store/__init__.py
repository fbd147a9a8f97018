"""The store: one verified copy of every byte, in an OCI image layout on local disk.

    <cache-dir>/
      oci-layout, index.json         what OCI tools read; replaced by rename only
      blobs/<algorithm>/<encoded>    proven content, mode 0444
      .nekko/
        lock                         held by the one process that may write
        catalog.sqlite               names, edges, sizes, states, uses, pins (WAL)
        ingest/<key>/data            bytes being written
        ingest/<key>/state.json      what is needed to resume them
        quarantine/<time>-<key>/     what failed its proof, and why
        trash/                       removed content on its way out
        ballast                      space held back, so that removing works on a full disk

Life of content: an *ingest* is opened, written and committed (`ingest`); committing proves the bytes and publishes
them as a *blob*; a *content* row names the root and everything it requires (`catalog`); `index` writes the names of
complete contents to index.json. A *lease* keeps blobs while somebody works with them, a *reservation* (`capacity`)
keeps disk space for bytes that are on their way. `collect` removes blobs that nothing names any more.

What may go, and what that frees, is worked out on paper (`removal`), for a reservation that does not fit (`evict`, in
the order of last `uses`) and for somebody who asks (`prune`); the store carries the plan out, but for what has come
into use since.

A blob is used only through `blobs`, which compares its file with what it was when its bytes were proven (`identity`),
hashes it where the two differ (`hashing`), and sets it aside if it is wrong (`quarantine`).

This room never talks to a network, and nothing outside it writes below the cache directory. Blocking work happens in
threads, in steps that cancellation cannot cut in half; decisions about what to keep are made in sync steps in the
trio thread, so no other task can see them half made.
"""
