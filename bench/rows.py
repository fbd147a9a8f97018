"""Every row of the table, by the name that `python -m bench NAME` takes."""

from collections.abc import Callable, Mapping

from bench import cold, images, mirror, serving, size, small, stor, system, verify
from bench.measure import Row
from bench.site import Site

ROWS: Mapping[str, Callable[[Site], Row]] = {
    "cold-memory": cold.file_into_memory,
    "cold-disk": cold.file_onto_disk,
    "cold-tls": cold.file_over_tls,
    "herd": cold.herd,
    "repository": mirror.repository,
    "image": images.image,
    "serve-1": serving.to(1, 1.0),
    "serve-8": serving.to(8, 0.9),
    "serve-64": serving.to(64, 0.6),
    "small": small.requests,
    "manifests": small.manifests,
    "latency": small.latency,
    "store-large": stor.store_large,
    "store-small": stor.store_small,
    "store-small-64": stor.store_small_by_many,
    "pair-large": stor.read_large,
    "pair-small": stor.read_small,
    "verify": verify.verify,
    "memory": size.memory,
    "start": size.start,
    "million": size.million,
    "container": system.container,
    "squashfs": system.squashfs,
}
