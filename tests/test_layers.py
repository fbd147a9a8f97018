"""What each room may import. Read from the source by `ast`, so that a forbidden import fails even where it is unused."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nekko"

ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "oci": {"errors"},
    "sources": {"oci", "errors", "idna"},
    "views": {"sources", "oci", "errors"},
    "config": {"oci", "errors", "cattrs", "yaml"},
    "lock": {"errors"},
    "tasks": {"trio"},
    "store": {"lock", "oci", "errors", "tasks", "trio"},
    "images": {"lock", "oci", "errors", "trio"},
    "upstream": {"config", "oci", "sources", "errors", "tasks", "trio", "httpx", "httpcore", "h11"},
    "replicas": {"config", "store", "oci", "errors", "tasks", "trio"},
    "transfer": {"config", "store", "upstream.base", "sources", "oci", "errors", "tasks", "trio"},
    "supply": {"config", "images.content", "transfer", "store", "sources", "oci", "errors", "trio"},
    "holds": {"supply", "images.content", "transfer", "store", "oci", "errors"},
    "borrowed": {"images", "upstream.local", "errors", "trio"},
    "metrics": {"oci", "errors", "prometheus_client"},
    "announcements": {"config", "transfer.backoff", "errors", "trio", "pika"},
    "statsd": {"config", "errors", "trio"},
    "node": {
        "announcements",
        "config",
        "holds",
        "supply",
        "transfer",
        "replicas",
        "statsd",
        "store",
        "upstream.resolve",
        "errors",
        "trio",
    },
    "api": {
        "announcements",
        "node",
        "holds",
        "replicas",
        "statsd",
        "transfer",
        "store",
        "images",
        "sources",
        "views",
        "metrics",
        "config",
        "oci",
        "errors",
        "tasks",
        "quart",
        "quart_trio",
        "werkzeug",
        "trio",
        "yaml",
    },
    "process": {"api.access", "config", "reload", "server", "errors", "trio", "hypercorn"},
    "server": {"api.peer", "config", "errors", "tasks", "trio", "hypercorn", "h11"},
}
"""The rooms, and what each may import besides itself and the standard library. `cli`, `daemon`: everything."""
PURE = ("oci", "sources", "views")


def modules(room: str) -> list[Path]:
    single = PACKAGE / f"{room}.py"
    return [single] if single.exists() else sorted((PACKAGE / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (
                (f"{node.module}.{alias.name}" for alias in node.names) if node.module == "nekko" else [node.module]
            )


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_what_it_may(room: str) -> None:
    for path in modules(room):
        for name in imports(path):
            top = name.partition(".")[0]
            if top in sys.stdlib_module_names:
                continue
            inner = name.removeprefix("nekko.") if top == "nekko" else name
            if inner.partition(".")[0] in (room, "__version__"):
                continue
            allowed = any(inner == may or inner.startswith(f"{may}.") for may in ROOMS[room])
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_have_nothing_async_and_no_files(room: str) -> None:
    for path in modules(room):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), f"{path}: async"
        assert not {"socket", "os", "pathlib", "subprocess"} & {name.partition(".")[0] for name in imports(path)}, path


def test_every_third_party_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^A-Za-z0-9_-]", line)[0].lower().replace("-", "_") for line in project["dependencies"]}
    declared |= {"yaml"}  # what PyYAML is imported by
    for path in PACKAGE.rglob("*.py"):
        for name in imports(path):
            top = name.partition(".")[0]
            assert top in declared | {"nekko"} or top in sys.stdlib_module_names, f"{path}: {top}"
