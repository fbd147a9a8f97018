"""The page at /ui in a real browser: what it shows of a daemon, and that it asks nobody else."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser, chromium
from tests.daemon import Daemon, daemon
from tests.servers import Server, free_port, nginx

pytestmark = pytest.mark.browser
MIB = 1 << 20


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "site").mkdir()
    # As a far end on a slow line: what is large is arriving while it is looked at.
    with nginx(tmp_path / "site", location="limit_rate_after 2m; limit_rate 400k;") as running:
        (running.root / "model.gguf").write_bytes(bytes(MIB))
        (running.root / "large.safetensors").write_bytes(bytes(64 * MIB))
        (running.root / "small").write_bytes(b"x" * 3000)
        yield running


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def running(tmp_path: Path, port: int) -> Iterator[Daemon]:
    options = ("--address", f"127.0.0.1:{port}", "--max-cache-size", "10GiB", "--max-attempts", "1")
    with daemon(tmp_path, *options) as started:
        yield started


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with chromium(tmp_path / "profile") as opened:
        yield opened


def text(browser: Browser, where: str) -> str:
    return re.sub(r"\s+", " ", browser.look(f"document.getElementById('{where}').innerText"))


def test_page_shows_how_the_daemon_is(
    tmp_path: Path, running: Daemon, port: int, site: Server, browser: Browser
) -> None:
    for name in ("model.gguf", "small"):
        assert running.ask("POST", "/content/", {"url": site.url(f"/{name}")})[0] == 201
    told = running.content(site.url("/model.gguf"))[1]
    digest = told["digest"].partition(":")[2]
    for _ in range(5):
        assert len(running.ask("GET", f"/{digest}")[1]) == MIB
    assert running.ask("POST", "/content/", {"url": site.url("/large.safetensors")}, Prefer="respond-async")[0] == 202
    browser.open(f"http://127.0.0.1:{port}/ui")
    browser.wait_until("document.querySelector('#transfers progress')?.value > 0")
    browser.wait_until("document.querySelectorAll('#contents tr').length === 3")
    arriving = text(browser, "transfers")
    assert f"{site.host}/large.safetensors" in arriving
    assert re.search(r"[KM]iB of 64\.0 MiB [\d.]+ [KM]iB/s \d+ (min|s)", arriving)
    cached = text(browser, "contents")
    assert re.search(r"/model\.gguf complete 1\.0 MiB \d+ s ago", cached)
    assert re.search(r"Cache [\d.]+ MiB of 10\.0 GiB", text(browser, "budget"))
    assert re.search(r"[\d.]+ GiB of [\d.]+ (G|T)iB free", text(browser, "disk"))
    assert "Sent to clients 5.0 MiB" in text(browser, "sums")
    assert re.search(r"Contents 2 Blobs \d", text(browser, "kept"))
    browser.wait_until("document.querySelectorAll('#plot path').length === 2")
    browser.wait_until("document.querySelector('#plot path.upstream').getAttribute('d').split('L').length > 2")
    assert "In quarantine 0 Damaged 0" in text(browser, "faults")
    blob = Path(told["files"][0]["path"])  # now one goes bad, and its source is gone
    blob.chmod(0o644)
    blob.write_bytes(b"bad")
    (site.root / "model.gguf").unlink()
    assert running.ask("GET", f"/{digest}")[0] == 503
    browser.wait_until("document.querySelectorAll('#faults .bad').length >= 2")
    assert "In quarantine 1 Damaged 1" in text(browser, "faults")
    assert browser.errors == []
    assert {re.sub(r"\?.*", "", url) for url in browser.requests} <= {
        f"http://127.0.0.1:{port}/{path}"
        for path in ("ui", "ui/dashboard.css", "ui/dashboard.js", "admin/status", "content/")
    } | {"data:,"}
    picture = tmp_path / "dashboard.png"
    browser.take_picture(picture, width=1200, height=820)
    assert picture.read_bytes().startswith(b"\x89PNG")
    running.stop()
    browser.wait_until("!document.getElementById('trouble').hidden")
    assert "does not answer" in text(browser, "trouble")
    running.start()
    browser.wait_until("document.getElementById('trouble').hidden")


def test_names_from_elsewhere_are_only_text_and_long_lists_come_in_pages(
    tmp_path: Path, port: int, site: Server, browser: Browser
) -> None:
    evil = "<img src=x onerror=document.title=1>"
    with daemon(tmp_path, "--address", f"127.0.0.1:{port}", cache=tmp_path / evil) as at:
        for number in range(104):
            (site.root / f"{number:03}").write_bytes(b"%d" % number)
            assert at.ask("POST", "/content/", {"url": site.url(f"/{number:03}")})[0] == 201
        look_at_many(browser, port, evil)


def look_at_many(browser: Browser, port: int, evil: str) -> None:
    browser.open(f"http://127.0.0.1:{port}/ui")
    browser.wait_until("document.querySelectorAll('#contents tr').length === 100")
    assert evil in text(browser, "about")
    assert browser.look("document.getElementById('more').hidden") is False
    browser.look("document.getElementById('more').click()")
    browser.wait_until("document.querySelectorAll('#contents tr').length === 104")
    assert browser.look("document.getElementById('more').hidden") is True
    assert browser.look("document.title") == "nekko"
    assert browser.look("document.querySelectorAll('img').length") == 0
    assert text(browser, "transfers") == "Nothing is arriving."
    assert browser.errors == []


def test_listener_without_the_contents_is_told_of(tmp_path: Path, port: int, browser: Browser) -> None:
    with daemon(tmp_path, "--listen", f"127.0.0.1:{port}=admin"):
        browser.open(f"http://127.0.0.1:{port}/ui")
        browser.wait_until("document.getElementById('contents').innerText.includes('no door content')")
        browser.wait_until("document.getElementById('disk').innerText.includes('free')")
        assert browser.look("document.getElementById('trouble').hidden") is True


def test_page_is_only_at_listeners_with_its_door(tmp_path: Path) -> None:
    port = free_port()
    with daemon(tmp_path, "--listen", f"127.0.0.1:{port}=content") as at:
        done = subprocess.run(
            ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{port}/ui"],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        assert done.stdout == "404"
        status, page = at.ask("GET", "/ui")
        assert (status, b"<!doctype html>" in page) == (200, True)
        assert at.ask("POST", "/ui")[0] == 405
