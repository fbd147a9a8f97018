"""Damage on disk under the real daemon: `nekko verify`, `nekko status`, a restart, and the blob door over sendfile."""

import random
import subprocess
import sys
from pathlib import Path

from nekko.oci.digest import Digest
from tests.daemon import Daemon, daemon
from tests.damage import flip
from tests.servers import nginx

FILE = random.Random(43).randbytes(5_000_000)
DIGEST = Digest.of(FILE)


def nekko(node: Daemon, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "nekko", *arguments, "--address", str(node.socket)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_damage_is_found_repaired_and_told(tmp_path: Path) -> None:
    with nginx(tmp_path / "nginx") as web, daemon(tmp_path) as node:
        (web.root / "f.bin").write_bytes(FILE)
        url, path = web.url("/f.bin"), node.cache / "blobs/sha256" / DIGEST.encoded
        assert node.ask("POST", "/content/", {"url": url})[0] == 201
        assert node.ask("GET", f"/{DIGEST.encoded}") == (200, FILE)
        assert nekko(node, "verify")[0] == 0

        flip(path)
        code, said = nekko(node, "verify", url)
        assert code == 1
        assert f"{DIGEST} of {url}: its bytes hash to sha256:" in said
        assert f"{url}: repaired, 3 blobs, 4.8 MiB" in said
        assert "1 wrong, 1 repaired: 3 blobs" in said
        assert path.read_bytes() == FILE
        assert nekko(node, "verify", url)[0] == 0

        node.stop()
        flip(path)  # while nobody looks
        node.start()
        assert node.ask("GET", f"/{DIGEST.encoded}") == (200, FILE)

        flip(path)
        (web.root / "f.bin").unlink()
        code, said = nekko(node, "verify", "--json", url)
        assert code == 1
        assert '"state": "damaged"' in said
        assert '"event": "done"' in said
        assert node.ask("GET", f"/{DIGEST.encoded}")[0] == 503
        assert node.content(url)[1]["state"] == "partial"
        assert "scrub  next one in " in nekko(node, "status")[1]
        assert nekko(node, "verify", "http://127.0.0.1:1/none")[0] == 3
        node.stop()
        assert nekko(node, "verify")[0] == 5
