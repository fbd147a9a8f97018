"""What must be true of a cache whose daemon is stopped, whatever happened to it before."""

from contextlib import closing
from pathlib import Path

from nekko.oci.digest import Digest
from nekko.store import fsck
from nekko.store.catalog import Catalog
from nekko.store.layout import Layout
from tests.fault.matrix import Promise, Trial


def check_at_rest(trial: Trial, cache: Path) -> None:
    """Run `nekko fsck` twice, for it leaves what it did not know until the next run, and look for what it left."""
    layout = Layout(cache)
    with trial.promise(Promise.CLEAN):
        for _ in range(2):
            report = fsck.run(cache, rebuild=False)
            assert report.is_clean, "\n".join(report.lines())
        assert not (orphans := _orphans(layout)), orphans
    with trial.promise(Promise.TIDY):
        assert not list(layout.trash.iterdir())
        assert not list(layout.quarantine.iterdir())


def _orphans(layout: Layout) -> list[str]:
    """Give the files below blobs/ that no content, no manifest and no record names."""
    files = {f"{path.parent.name}:{path.name}" for path in layout.blobs.glob("*/*")}
    with closing(Catalog(layout.catalog)) as catalog:
        return [name for name in sorted(files) if not catalog.is_named(Digest.parse(name))]
