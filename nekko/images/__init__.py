"""The image API's objects: block devices attached, file systems mounted, containers run; all by the host's own tools.

An *attachment* yields a block device, a *mount* a directory, a *container* a process tree on a mount. Objects stand
on each other, nested or by id, as deep as one likes (`objects`). An object that nobody refers to any more is collected
(`table`). References are counted anew whenever they are asked for, so no count can drift.

    <imagesDir>/                    owned by root, mode 0700
      journal.sqlite                every object, and each change of the host that it made
      lock                          held by the one process that may change anything here
      uppers/<id>/                  what was written above an overlay on disk
      layers/<number>/              unpacked layers of images
      containers/<id>/              what a runtime is told, logs, exit codes
    <imagesRunDir>/
      mounts/<id>/                  mountpoints
      uppers/<id>/                  what was written above an overlay in RAM: a tmpfs of its own

Making an object is a row of *steps* (`steps`), each written to the journal before it is done. When one fails, or the
client leaves, those done are undone in reverse. After a restart the kernel itself tells which steps hold: an object
whose steps all do is adopted, any other is undone and forgotten. Steps name what they change so that undoing one
twice, or one that was never done, does no harm.

The kernel is changed through `work` and `steps` alone, by the host's own programs; what is particular to one kind of
device is in `iscsi`, `nbd` and `rbd`. This room knows neither HTTP nor the cache: what a caller may say is checked
by the door, and content comes through what `daemon` hands in.
"""
