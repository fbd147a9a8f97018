"""The row of a repository that `hf download` fetches: straight from the Hub, and through what mirrors it."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench.command import timed
from bench.daemon import nekko
from bench.measure import Case, Row, Sample, Target
from bench.site import HF, SHARDED, SHARDS, Site
from tests.servers import free_port, running

OLAH = HF.parents[2] / "olah/bin/olah-cli"

Mirror = Callable[[Path], AbstractContextManager[str]]
"""Runs one over a directory for its copies; gives its endpoint."""


def repository(site: Site) -> Row:
    """A repository of twice the large file's size, into tmpfs; so are the mirrors' copies."""
    title = f"A repository of twice the size, {SHARDS} files, by hf download into memory (tmpfs)"
    hub, place = site.hub, site.memory
    if hub is None or not OLAH.exists():
        return Row(title, [], [], ["hf or olah (`packaging/setup bench` installs them)"])

    @contextmanager
    def nekko_mirror(cache: Path) -> Iterator[str]:
        with nekko(cache, "--hub-endpoint", hub) as daemon:
            yield f"{daemon.url}/hf"

    def cold(mirror: Mirror) -> Sample:
        cache = site.clean(place / "cold")
        with mirror(cache) as endpoint:
            sample = _downloaded(place, endpoint)
        shutil.rmtree(cache)
        return sample

    def warm(mirror: Mirror, cache: Path) -> Sample:
        is_filled = cache.exists()  # by the round before
        with mirror(cache) as endpoint:
            if not is_filled:
                _downloaded(place, endpoint)
            return _downloaded(place, endpoint)

    def olah_mirror(cache: Path) -> AbstractContextManager[str]:
        return _olah(cache, hub)

    cases = [
        direct := Case("straight from a Hub that redirects to nginx", lambda: _downloaded(place, hub)),
        olah_cold := Case("through olah, cold", lambda: cold(olah_mirror)),
        own_cold := Case("through nekko, cold", lambda: cold(nekko_mirror)),
        olah_warm := Case("through olah, warm", lambda: warm(olah_mirror, place / "olah")),
        own_warm := Case("through nekko, warm", lambda: warm(nekko_mirror, place / "nekko")),
    ]
    targets = [
        Target(own_cold.name, "s", "<=", 1.05, [direct.name]), Target(own_cold.name, "s", "<=", 1.0, [olah_cold.name]),
        Target(own_warm.name, "s", "<=", 0.9, [direct.name]), Target(own_warm.name, "s", "<=", 1.0, [olah_warm.name]),
    ]  # fmt: skip
    return Row(title, cases, targets)


def _downloaded(place: Path, endpoint: str) -> Sample:
    """Download as a client that has nothing yet."""
    sample = timed(
        f"{HF} download {SHARDED} --local-dir {place}/out",
        HF_ENDPOINT=endpoint, HF_HOME=f"{place}/home", HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_UPDATE_CHECK="1",
    )  # fmt: skip
    shutil.rmtree(place / "out")
    shutil.rmtree(place / "home")
    return sample


@contextmanager
def _olah(cache: Path, hub: str) -> Iterator[str]:
    """Run olah before a Hub until the block ends; gives its endpoint."""
    cache.mkdir(exist_ok=True)
    address = f"127.0.0.1:{(port := free_port())}"
    config = cache / "olah.toml"
    config.write_text(
        f'[basic]\nhost = "127.0.0.1"\nport = {port}\nrepos-path = "{cache}/repos"\nmirrors-path = []\n'
        f'hf-scheme = "http"\nhf-netloc = "{hub.removeprefix("http://")}"\nhf-lfs-netloc = "{hub.removeprefix("http://")}"\n'
        f'mirror-scheme = "http"\nmirror-netloc = "{address}"\nmirror-lfs-netloc = "{address}"\n'
    )
    with running([str(OLAH), "--config", str(config), "--log-path", str(cache / "logs")], port, cache / "olah.log"):
        yield f"http://{address}"
