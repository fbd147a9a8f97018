"""The commands as programs, against a server that speaks the daemon's API from a script."""

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nekko.config.password import HashedPassword
from nekko.sources.base64url import decode_url, encode_url

URL = "https://example.com/model.gguf"
DIGEST = "sha256:" + "ab" * 32
SECONDS = 30


def content(url: str = URL, *, state: str = "complete", present: int = 2048, **more: Any) -> dict[str, Any]:
    path = f"/srv/blobs/sha256/{'ab' * 32}"
    file = {"name": "model.gguf", "path": path, "digest": DIGEST, "size": 2048, "bytes_present": present}
    return {
        "url": url, "name": url, "digest": DIGEST, "manifest": DIGEST, "size": 2048, "bytes_present": present,
        "state": state, "platform": "all", "files": [file], "created": "2026-01-01T00:00:00Z",
        "updated": "2026-01-01T00:00:00Z", "last_used": "2026-01-01T00:00:00Z", "pinned": False,
    } | more  # fmt: skip


def problem(status: int, title: str = "Trouble", detail: str = "all of it") -> tuple[int, Any]:
    return status, {"type": "about:blank", "title": title, "status": status, "detail": detail}


Answers = Callable[[str, str, Any], tuple[int, Any]]
"""Method, path and body of a request in; status and body of the answer out."""


@dataclass
class FarEnd:
    address: str = ""
    program: str = "nekko"
    answers: Answers = lambda method, path, body: problem(500)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


class UnixServer(ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "unix", 0


def serving(far_end: FarEnd, server_class: type[ThreadingHTTPServer], address: Any) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def version_string(self) -> str:
            return far_end.program

        def answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = (self.command, self.path, json.loads(raw) if raw else None)
            far_end.requests.append(request)
            far_end.headers.append(dict(self.headers))
            status, body = far_end.answers(*request)
            if status == 0:
                return
            encoded = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
            with contextlib.suppress(ConnectionError):  # an interrupted client has left
                self.send_response(status)
                self.send_header("Content-Length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - the names are the library's

        def address_string(self) -> str:
            return "client"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
            pass

    return server_class(address, Handler)


@pytest.fixture(params=["tcp", "unix"])
def far_end(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FarEnd]:
    far_end = FarEnd()
    if request.param == "tcp":
        server = serving(far_end, ThreadingHTTPServer, ("127.0.0.1", 0))
        far_end.address = f"127.0.0.1:{server.server_port}"
    else:
        far_end.address = str(tmp_path / "n.sock")
        server = serving(far_end, UnixServer, far_end.address)
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield far_end
        server.shutdown()
        thread.join()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "nekko", *arguments]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NEKKO_", "STORAGE_"))}
    return {**kept, "COLUMNS": "100", "TERM": "xterm", **more}


def nekko(*arguments: str, given: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=SECONDS, env=environment(**environ), input=given,
        check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def ask(far_end: FarEnd, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return nekko(*arguments, "--address", far_end.address, **more)


def test_ls_follows_the_pages_and_prints_a_table(far_end: FarEnd) -> None:
    def answers(method: str, path: str, body: Any) -> tuple[int, Any]:
        if "after=" not in path:
            return 200, {"contents": [content()], "next": "a+b/c"}
        incomplete = content("oci://r/" + "x" * 200, state="downloading", present=512, digest="", size=None)
        return 200, {"contents": [incomplete, content("https://h/[::1]\x1b")]}

    far_end.answers = answers
    done = ask(far_end, "ls")
    assert done.returncode == 0
    head, first, second, third = done.stdout.splitlines()
    assert head.split() == ["NAME", "DIGEST", "SIZE", "STATE", "USED"]
    assert first.split()[:5] == [URL, "abababababab", "2.0", "KiB", "complete"]
    assert second.split()[:7] == ["oci://r/" + "x" * 200, "-", "?", "downloading,", "512", "B", "here"]
    assert "[::1]?" in third
    assert [path for _, path, _ in far_end.requests] == [
        "/content/?limit=1000", "/content/?limit=1000&after=a%2Bb%2Fc"
    ]  # fmt: skip
    assert len(json.loads(ask(far_end, "ls", "--json").stdout)) == 3


def image(name: str, *, is_list: bool = False, size: int = 12_340_000) -> dict[str, Any]:
    kind = "index" if is_list else "manifest"
    blobs = [(DIGEST, f"application/vnd.oci.image.{kind}.v1+json", 500)]
    blobs += [("sha256:" + "cd" * 32, "application/vnd.oci.image.layer.v1.tar", size)] if size else []
    files = [{"digest": digest, "media_type": media_type, "size": count} for digest, media_type, count in blobs]
    return content(f"oci://{name}", files=files) | {"name": name}


def test_list_has_the_columns_of_ociregistry(far_end: FarEnd) -> None:
    images = [
        image("docker.io/library/alpine:3", is_list=True),
        image(f"localhost:5000/a/b@{DIGEST}", size=0),
        content(),
        image("ghcr.io/o/arriving:v1") | {"manifest": ""},
    ]
    far_end.answers = lambda method, path, body: (200, {"contents": images})

    def lines(*options: str) -> list[str]:
        done = ask(far_end, "list", *options, TZ="UTC")
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    when = "2026-01-01T00:00:00 2026-01-01T00:00:00"
    alpine, other = f"docker.io/library/alpine 3 list {when} 12.3", f"localhost:5000/a/b {DIGEST} image {when} n/a"
    assert lines() == [alpine, other]
    assert lines("--header", "--short-digest") == [
        "IMAGE TAG/DIGEST TYPE CREATED PULLED SIZE(MB)", alpine, f"localhost:5000/a/b {'ab' * 5} image {when} n/a"
    ]  # fmt: skip
    assert lines("--pattern", "^docker[.]io/, nothing,") == [alpine]
    assert lines("--pattern", ":3$,/b@") == [alpine, other]
    assert lines("--pattern", "nothing") == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (None, "there is no such file"),
        (b"\xff\xfe", "not UTF-8"),
    ],
    ids=["absent", "binary"],
)
def test_load_refuses_what_is_no_list(far_end: FarEnd, tmp_path: Path, body: bytes | None, problem: str) -> None:
    file = tmp_path / "images"
    if body is not None:
        file.write_bytes(body)
    done = ask(far_end, "load", "--image-file", str(file))
    assert done.returncode == 2
    assert problem in done.stderr
    assert str(file) in done.stderr.replace("\n", "")
    assert not far_end.requests


def test_load_asks_for_what_is_listed(far_end: FarEnd, tmp_path: Path) -> None:
    far_end.answers = lambda method, path, body: (201, content(body["url"]) | {"cached": True})
    file = tmp_path / "images"
    file.write_text("alpine\n# no\nghcr.io/o/app:v1\ndocker.io/library/alpine:latest\n")
    done = ask(far_end, "load", "--image-file", f"{file}, ,{tmp_path}/imag*", "--platform", "linux/amd64")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "2 loaded, 0 skipped, 0 failed")
    assert [body for _, _, body in far_end.requests] == [
        {"url": f"oci://{name}", "platform": "linux/amd64", "refresh": True}
        for name in ("docker.io/library/alpine:latest", "ghcr.io/o/app:v1")
    ]


def test_list_refuses_a_pattern_that_is_none(far_end: FarEnd) -> None:
    done = ask(far_end, "list", "--pattern", "ok,(")
    assert done.returncode == 2
    assert "'(' is not a regular expression" in done.stderr
    assert not far_end.requests


@pytest.mark.parametrize(("status", "code"), [(200, 0), (206, 4)])
def test_show_prints_files_with_paths(far_end: FarEnd, status: int, code: int) -> None:
    shown = content(state="complete" if status == 200 else "failed", present=1024)
    shown["error"] = {"title": "Bad Gateway", "detail": "cut\nshort"}
    far_end.answers = lambda method, path, body: (status, shown)
    done = ask(far_end, "show", URL)
    assert done.returncode == code
    assert far_end.requests == [("GET", f"/content/{encode_url(URL)}", None)]
    assert f"path    /srv/blobs/sha256/{'ab' * 32}" in done.stdout
    assert "Bad Gateway: cut short" in done.stdout
    assert "2.0 KiB, 50 % here" in done.stdout
    told = ask(far_end, "show", URL, "--json")
    assert json.loads(told.stdout) == shown
    assert told.returncode == code


PROBLEMS = [(400, 2), (401, 6), (403, 6), (404, 3), (409, 1), (500, 1), (502, 1), (504, 1), (507, 7)]
CLIENT_COMMANDS = [("ls",), ("show", URL), ("rm", URL), ("status",)]


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [*((("pull", URL), *outcome) for outcome in PROBLEMS), *((arguments, 403, 6) for arguments in CLIENT_COMMANDS)],
)
@pytest.mark.parametrize("far_end", ["unix"], indirect=True)
def test_problem_is_told_in_one_line_and_by_the_exit_code(
    far_end: FarEnd, arguments: tuple[str, ...], status: int, code: int
) -> None:
    far_end.answers = lambda method, path, body: problem(status, "No", "first\nsecond\x1b[2J")
    done = ask(far_end, *arguments)
    assert done.returncode == code
    assert done.stderr.splitlines()[-1].endswith("No: first second?[2J")
    assert done.stdout == ""


def test_rm_goes_on_after_a_failure_and_tells_the_first(far_end: FarEnd) -> None:
    def answers(method: str, path: str, body: Any) -> tuple[int, Any]:
        return {"a": problem(403), "b": problem(500), "c": (204, None)}[decode_url(path.removeprefix("/content/"))]

    far_end.answers = answers
    done = ask(far_end, "rm", "a", "b", "c")
    assert done.returncode == 6
    assert [method for method, _, _ in far_end.requests] == ["DELETE"] * 3
    assert ask(far_end, "rm", "c").returncode == 0


def status_body(**more: Any) -> dict[str, Any]:
    return {
        "version": "0.1.0", "uptime_seconds": 7300.5, "cache_dir": "/srv/cache",
        "disk": {"total_bytes": 10 << 30, "free_bytes": 5 << 30, "reserved_bytes": 0},
        "budget": {"cache_bytes": 6 << 20, "max_cache_bytes": 8 << 20, "pinned_bytes": 1 << 20, "evicted": 4, "evicted_bytes": 5 << 20},
        "store": {"blobs": 3, "bytes": 4096, "contents": 1, "quarantined": 2}, "transfers": [], "pulls": [],
        "scrub": {
            "due": "2999-01-01T00:00:00Z", "started": None, "finished": None, "position": "", "blobs": 0, "faults": 0,
            "repaired": 0, "bytes_since_start": 0,
        },
    } | more  # fmt: skip


def test_status_shows_disk_pulls_and_transfers(far_end: FarEnd) -> None:
    pull = {
        "url": "https://u:p@h/x", "state": "downloading", "bytes_present": 1, "size": 4, "blobs_done": 1, "blobs": 2,
        "seconds": 61.0,
    }  # fmt: skip
    transfer = {
        "what": "https://h/x", "host": "h", "digest": None, "position": 5, "size": None, "waiters": 3,
        "bytes_per_second": 2048.0, "attempt": 1, "seconds": 2.0,
    }  # fmt: skip
    far_end.answers = lambda method, path, body: (200, status_body(pulls=[pull], transfers=[transfer]))
    done = ask(far_end, "status")
    assert done.returncode == 0
    for part in (
        "up 2 h",
        "/srv/cache",
        "5.0 GiB free of 10.0 GiB",
        "2 quarantined",
        "of 8.0 MiB, 1.0 MiB pinned, 4 evicted",
        "25 %",
        "1/2",
        "2.0 KiB/s",
    ):
        assert part in done.stdout
    assert "u:p" not in done.stdout
    assert json.loads(ask(far_end, "status", "--json").stdout)["pulls"] == [pull]
    far_end.answers = lambda method, path, body: (200, status_body())
    assert "no pulls, no transfers" in ask(far_end, "status").stdout


def progress(present: int, **more: Any) -> dict[str, Any]:
    blob = {"name": "sub/model.gguf", "digest": DIGEST, "position": present, "size": 2048, "attempt": 1}
    return {
        "url": URL, "name": URL, "state": "downloading", "bytes_present": present, "size": 2048, "blobs_done": 1,
        "blobs": 2, "arriving": [blob], "bytes_per_second": 512, "eta_seconds": 2.0,
    } | more  # fmt: skip


def events(*told: dict[str, Any], last: str = "complete") -> bytes:
    lines = [f"event: progress\ndata: {json.dumps(each)}\n\n" for each in told]
    return "".join([": still here\n\n", *lines, f"event: {last}\ndata: {{}}\n\n"]).encode()


class Pull:
    """A pull whose events are not there at once, break off once, and are then told to the end."""

    def __init__(self, answer: tuple[int, Any], *told: dict[str, Any]) -> None:
        self.answer = answer
        self.streams = [problem(404), (200, events(progress(10))[:-60]), (200, events(*told))]
        self.is_over = threading.Event()

    def __call__(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "POST":
            assert self.is_over.wait(SECONDS)
            return self.answer
        stream = self.streams.pop(0)
        if not self.streams:
            self.is_over.set()
        return stream


def test_pull_in_a_log_tells_some_steps_and_the_result(far_end: FarEnd) -> None:
    far_end.answers = Pull((201, content() | {"cached": False}), progress(1024), progress(1025), progress(2048))
    done = ask(far_end, "pull", "https://u:s3cret@example.com/model.gguf")
    assert done.returncode == 0
    begin, *steps = done.stderr.splitlines()
    assert begin == f"{URL}: pulling"
    assert steps == [
        f"{URL}: downloading, 1.0 KiB of 2.0 KiB, 50 %, 512 B/s, 2 s left",
        f"{URL}: downloading, 2.0 KiB of 2.0 KiB, 100 %, 512 B/s, 2 s left",
    ]
    assert done.stdout.splitlines()[0] == URL
    for part in (f"digest  {DIGEST}", "size    2.0 KiB (2048 bytes)", f"path    /srv/blobs/sha256/{'ab' * 32}"):
        assert part in done.stdout
    assert "s3cret" not in done.stdout + done.stderr
    polled = {path for method, path, _ in far_end.requests if method == "GET"}
    assert polled == {f"/content/{encode_url(URL)}"}, "the path reaches request logs, so it holds no password"


def test_pull_as_json_prints_an_object_a_line(far_end: FarEnd) -> None:
    told = progress(1365, eta_seconds=None)
    far_end.answers = Pull((201, content() | {"cached": False}), told)
    done = ask(far_end, "pull", "--json", URL)
    *_, shown, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert shown == {"event": "progress", **told}
    assert last.pop("seconds") >= 0
    assert last == {"event": "complete", **content(), "cached": False}
    far_end.answers = lambda method, path, body: problem(404)
    done = ask(far_end, "pull", "--json", URL)
    assert done.returncode == 3
    assert json.loads(done.stdout) == {"event": "failed", "url": URL, "status": 404, "problem": problem(404)[1]}


def test_pull_on_a_terminal_draws_a_bar_for_the_whole_and_for_each_blob(far_end: FarEnd) -> None:
    far_end.answers = Pull(
        (201, content() | {"cached": True, "stale": True}), progress(1024), progress(2048, arriving=[])
    )
    with terminal("pull", URL, "--address", far_end.address) as (process, screen):
        shown = drained(screen)
        assert process.wait(SECONDS) == 0
    assert "  sub/model.gguf" in shown
    assert "━" in shown
    assert "was here, stale" in shown


def test_pull_interrupted_says_that_the_daemon_goes_on(far_end: FarEnd) -> None:
    release = threading.Event()

    def answers(method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "POST":
            release.wait(SECONDS)
            return 201, content() | {"cached": False}
        return 200, events(progress(1024))

    far_end.answers = answers
    with terminal("pull", URL, "--address", far_end.address) as (process, screen):
        shown = ""
        while "sub/model.gguf" not in shown:
            shown += os.read(screen, 4096).decode()
        os.write(screen, b"\x03")
        shown += drained(screen)
        assert process.wait(SECONDS) == 130, shown
    release.set()
    assert f"to stop it: nekko rm {URL}" in shown
    assert "Traceback" not in shown


@contextlib.contextmanager
def terminal(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a command with a terminal of its own; Ctrl-C typed there reaches it as a signal."""
    screen, far = pty.openpty()
    with subprocess.Popen(
        command(*arguments), stdin=far, stdout=far, stderr=far, env=environment(),
        start_new_session=True, preexec_fn=lambda: take_terminal(far),
    ) as process:  # fmt: skip
        os.close(far)
        try:
            yield process, screen
        finally:
            process.kill()
            os.close(screen)


def take_terminal(descriptor: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


def drained(screen: int) -> str:
    """Read until the program has closed its terminal, which a pty tells by EIO."""
    shown = b""
    with contextlib.suppress(OSError):
        while select.select([screen], [], [], SECONDS)[0] and (chunk := os.read(screen, 4096)):
            shown += chunk
    return shown.decode(errors="replace")


def test_pull_without_waiting_asks_for_an_early_answer(far_end: FarEnd) -> None:
    far_end.answers = lambda method, path, body: (202, {"url": URL, "state": "downloading"})
    done = ask(far_end, "pull", "--no-wait", URL)
    assert done.returncode == 0
    assert "the daemon has begun" in done.stdout
    assert far_end.headers[0]["Prefer"] == "respond-async"
    assert json.loads(ask(far_end, "pull", "--no-wait", "--json", URL).stdout)["event"] == "accepted"
    far_end.answers = lambda method, path, body: (201, content() | {"cached": True})
    assert "was here" in ask(far_end, "pull", "--no-wait", URL).stdout


def test_pull_sends_what_it_was_given(far_end: FarEnd, tmp_path: Path) -> None:
    far_end.answers = lambda method, path, body: (201, content() | {"cached": True})
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    assert ask(far_end, "pull", URL).returncode == 0
    options = ("--platform", "host", "--refresh", "--credentials-type", "Basic")
    for source in (("--credentials-env", "T"), ("--credentials-file", str(token)), ("--credentials-file", "-")):
        assert ask(far_end, "pull", *options, *source, URL, T="s3cret", given="s3cret").returncode == 0
    plain, *full = [body for _, _, body in far_end.requests]
    assert plain == {"url": URL}
    wish = {"platform": "host", "refresh": True, "credentials": "s3cret", "credentialsType": "Basic"}
    assert full == [{"url": URL, **wish}] * 3


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--credentials-env", "NOT_SET"), "NOT_SET is not set"),
        (("--credentials-file", "/no/file"), "No such file"),
        (("--credentials-file", "/dev/null"), "empty"),
        (("--credentials-file", "/dev/zero"), "more than"),
        (("--credentials-file", "/dev/null", "--credentials-env", "PATH"), "either"),
        (("--credentials-type", "Basic"), "needs"),
        (("--credentials", "s3cret"), "--credentials"),
        (("--address", "nowhere"), "not an address"),
    ],
)
def test_pull_with_unusable_options_is_wrong_usage(arguments: tuple[str, ...], reason: str) -> None:
    done = nekko("pull", *arguments, URL)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "s3cret" not in done.stderr


def test_pull_of_several_goes_on_after_a_failure_and_tells_the_first(far_end: FarEnd) -> None:
    def answers(method: str, path: str, body: Any) -> tuple[int, Any]:
        outcomes = {"a": problem(507), "b": (201, content() | {"cached": True}), "c": problem(404)}
        return outcomes[body["url"]]

    far_end.answers = answers
    done = ask(far_end, "pull", "a", "b", "c")
    assert done.returncode == 7
    assert DIGEST in done.stdout
    assert [body["url"] for _, _, body in far_end.requests] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("program", "answer"),
    [("nekko", (0, None)), ("nekko", (200, b"<html>")), ("nekko", (200, b"\xff")), ("nginx", (200, {"some": "JSON"}))],
    ids=["nothing", "html", "binary", "another API"],
)
def test_answer_of_another_program_is_a_failure(far_end: FarEnd, program: str, answer: tuple[int, Any]) -> None:
    far_end.program = program
    far_end.answers = lambda method, path, body: answer
    for arguments in (("ls",), ("pull", URL)):
        done = ask(far_end, *arguments)
        assert done.returncode == 1
        assert "Error: " in done.stderr


def test_no_daemon_tells_what_was_tried_and_how_to_start_it(tmp_path: Path) -> None:
    with socket.socket() as bound:  # bound, not listening: refuses
        bound.bind(("127.0.0.1", 0))
        missing, refused = str(tmp_path / "s"), f"127.0.0.1:{bound.getsockname()[1]}"
        for arguments in (("ls",), ("pull", URL, URL)):
            done = nekko(*arguments, "--address", missing)
            assert done.returncode == 5
            assert f"unix:{missing} (No such file or directory)" in done.stderr
            assert "nekko serve" in done.stderr
            assert len([line for line in done.stderr.splitlines() if line.startswith("Error")]) == 1
        assert f"{refused} (Connection refused)" in nekko("status", "--address", refused).stderr


def test_address_from_the_environment_is_tried_first(far_end: FarEnd, tmp_path: Path) -> None:
    far_end.answers = lambda method, path, body: (200, {"contents": []})
    assert nekko("ls", NEKKO_ADDRESS=f"{tmp_path / 'gone'}, {far_end.address}").returncode == 0
    assert len(far_end.requests) == 1
    assert nekko("ls", NEKKO_ADDRESS="nowhere").returncode == 2


def test_fsck_is_refused_while_a_daemon_holds_the_cache(far_end: FarEnd, tmp_path: Path) -> None:
    far_end.answers = lambda method, path, body: (200, status_body(cache_dir=str(tmp_path)))
    done = ask(far_end, "fsck", "--cache-dir", str(tmp_path))
    assert done.returncode == 1
    assert "must be stopped first" in done.stderr


def test_output_to_a_closed_pipe_ends_quietly(far_end: FarEnd) -> None:
    far_end.answers = lambda method, path, body: (200, {"contents": [content()] * 2000})
    for arguments in (
        ("ls", "--address", far_end.address),
        ("ls", "--json", "--address", far_end.address),
        ("version",),
    ):
        reading, writing = os.pipe()
        os.close(reading)
        with subprocess.Popen(
            command(*arguments), stdout=writing, stderr=subprocess.PIPE, env=environment()
        ) as process:
            os.close(writing)
            _, told = process.communicate(timeout=SECONDS)
        assert process.returncode == 1
        assert told == b""


@pytest.mark.parametrize("argument", ["version", "--version"])
def test_version_is_answered_before_the_rest_is_imported(argument: str) -> None:
    program = (
        "import sys; sys.argv[1:] = [sys.argv[1]]\nfrom nekko.__main__ import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "print(sorted({'click', 'trio', 'quart', 'httpx', 'rich', 'cattrs', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, argument], capture_output=True, text=True, check=True)
    told, imported = done.stdout.splitlines()
    assert told.startswith("nekko 0.1.0")
    assert imported == "[]"


def test_client_commands_leave_the_daemons_libraries_alone() -> None:
    libraries = {"trio", "quart", "httpx", "rich", "cattrs", "yaml"}
    program = f"import sys, nekko.cli.main\nprint(sorted({libraries} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments",
    [(), ("serve",), ("pull",), ("ls",), ("show",), ("rm",), ("status",), ("fsck",), ("config", "show"), ("version",)],
)
def test_help_teaches(arguments: tuple[str, ...]) -> None:
    done = nekko(*arguments, "--help")
    assert done.returncode == 0
    assert "Usage: nekko" in done.stdout
    assert arguments == ("version",) or "Exit codes: 0 done" in done.stdout


@pytest.mark.parametrize("arguments", [("nothing",), ("show",), ("pull",), ("ls", "extra"), ("serve", "--tokens", "x")])
def test_wrong_usage_is_exit_code_two(arguments: tuple[str, ...]) -> None:
    assert nekko(*arguments).returncode == 2


def test_config_show_tells_values_and_origins_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "nekko.yaml"
    file.write_text("tokens: [s3cret]\nhosts: {h: {password: s3cret}}\nverbose: 1\n")
    flags = ("--config-file", str(file), "--address", ":1", "--address", "/run/s", "-v", "2")
    done = nekko("config", "show", "--json", *flags, NEKKO_MAX_TRANSFERS="3")
    shown = json.loads(done.stdout)
    assert shown["verbose"] == {"value": 2, "origin": "flag --verbose"}
    assert shown["address"] == {"value": [":1", "/run/s"], "origin": "flag --address"}
    assert shown["maxTransfers"] == {"value": 3, "origin": "environment NEKKO_MAX_TRANSFERS"}
    assert shown["tokens"]["origin"] == f"file {file}"
    table = nekko("config", "show", *flags).stdout
    assert f"file {file}" in table
    assert "s3cret" not in done.stdout + table


def test_file_of_settings_may_stand_before_the_command(tmp_path: Path) -> None:
    file = tmp_path / "nekko.yaml"
    file.write_text(f"cacheDir: {tmp_path}/cache\nairGapped: true\n")
    before = nekko("--config-file", str(file), "config", "show")
    assert before.stdout == nekko("config", "show", "--config-file", str(file)).stdout
    assert f"{tmp_path}/cache" in before.stdout
    for named, command_name, problem in (
        ("/nowhere.yaml", "serve", "/nowhere.yaml: No such file"),
        (str(file), "ls", "ls reads no settings"),
        (str(file), "lss", "No such command"),
    ):
        refused = nekko("--config-file", named, command_name)
        assert (refused.returncode, problem in refused.stderr) == (2, True), refused.stderr


def test_config_check_tells_whether_serve_would_start(tmp_path: Path) -> None:
    assert nekko("config", "check", "--cache-dir", str(tmp_path)).returncode == 0
    for arguments in (("config", "check"), ("serve",)):
        done = nekko(*arguments, "--cache-dir", "/dev/null/x")
        assert done.returncode == 2
        assert done.stderr == "Error: cacheDir (flag --cache-dir): /dev/null/x: Not a directory\n"


def test_interrupt_without_a_terminal_is_exit_code_130(far_end: FarEnd) -> None:
    begun, release = threading.Event(), threading.Event()

    def answers(method: str, path: str, body: Any) -> tuple[int, Any]:
        begun.set()
        release.wait(SECONDS)
        return 200, {"contents": []}

    far_end.answers = answers
    with subprocess.Popen(command("ls", "--address", far_end.address), env=environment()) as process:
        assert begun.wait(SECONDS)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
    release.set()


def test_config_hash_prints_what_basic_auth_takes() -> None:
    done = subprocess.run([sys.executable, "-m", "nekko", "config", "hash"], input=b"s3:cret\n", capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert HashedPassword.parse(done.stdout.decode().strip()).is_of(b"s3:cret")
    empty = subprocess.run([sys.executable, "-m", "nekko", "config", "hash"], input=b"\n", capture_output=True)
    assert (empty.returncode, empty.stdout) == (2, b"")
    assert b"password is empty" in empty.stderr
