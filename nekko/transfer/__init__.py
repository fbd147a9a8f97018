"""Transfers and pulls: the owner of every arrival of bytes.

A *transfer* brings one blob. There is one per key (its digest; for content whose digest is not known yet, its name), in
one table, run in the daemon's nursery. Requests and pulls *join* it and leave; the last one to leave cancels it, and
its ingest stays for resumption. A *pull* fetches everything reachable from a locator; it is made of transfers, runs in
the daemon's nursery as well, and is cancelled only by DELETE or shutdown, so a client that hangs up loses nothing.

    pull ─┬─ resolve (upstream) ─ walk the graph ─ reserve space ─ join transfers ─ publish the root ─ record the name
          └─ join ── transfer ── slot ─ open (upstream) ─ drain into the ingest ─ prove ─ publish

A *repair* brings a damaged blob again as exactly its bytes; `Repairs.open` is how a door opens a blob for serving. The
*scrub* and *verifications* hash what is stored, and have repaired what is wrong. An *import* stores the blobs of an
archive and records each of its images by a pull that has nobody to ask.

Tables change only inside sync steps, so no task sees them half changed.
"""
