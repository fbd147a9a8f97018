"""Replicas: files by their SHA-256 in the directory trees of avast's Stor, each on every member of one tuple.

    <storage>/55/7A/65/557A65….dat           a file, as Stor writes and reads it: upper case, suffix `.dat`
    <storage>/.nekko/incoming/<hex>.<n>.<pid>   one that is being written
    <storage>/.nekko/quarantine/          the newest few copies that failed their proof
    <storage>/.nekko/lost/                those of files of which no right copy is left, see `aside`
    <storage>/.nekko/member               the storage was given what its twins have; a new disk is without it

`storage` is one directory, `aside` what was taken out of its tree, `tuples` the tuples of them and what is in each,
`proofs` which copies are known to be right, `unreadable` what becomes of those that their disk does not give, `room`
and `choice` where a new file goes, `copy` and `writing` how it gets there, `watch` which storages answer, so that
nobody waits for one that hangs, `replicas` the whole: stored, found, restored; `small` deals with small files
together, which `forcing` makes cheap; `lost` is what is to be had from elsewhere only, and `upkeep` works through
everything in the background.

A file is acknowledged when every member of its tuple has it durably. It is served only from a copy that was proven
since it was last written to; a copy that fails is set aside, another one served, and the failed one restored from it.
One that cannot be read is treated the same way, unless it is the last one or its storage fails as a whole. A storage
that is not mounted, or cannot be written, takes nothing: neither uploads nor restored copies.

There is no index: what is on the disks is what there is, so trees may be moved, restored or shared as before.
"""
