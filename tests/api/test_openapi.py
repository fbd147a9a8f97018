"""The description at `/openapi.json`: true of the running daemon, and of all of it."""

import json
import re
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import trio

from nekko.api import app, openapi
from nekko.api.access import Access
from nekko.config.doors import DOORS, USUAL
from nekko.metrics import Counters
from tests.api.test_content import FILE, SHA, Served, encoded, serve_node
from tests.fakes.far_end import FarEnd, status, whole
from tests.node import QUICK, Node, open_node

CHECKS = (
    "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "unsupported_method", "allow_header_conformance",
)  # fmt: skip
"""A 500 is in no description, so the first of these finds it; 502 and 503 are an upstream's, and right."""
RAW_ROUTES = {
    *((path, method) for path in ("/{sha256}", "/v2/", "/hf/", "/status") for method in ("get", "head")),
    *(("/{sha256}", method) for method in ("post", "put", "delete")),
    ("/imageapi/v1/swagger.json", "get"),
    ("/import", "post"),
    *((f"/content-files/{{url}}/{file}", method) for file in ("", "{file}") for method in ("get", "head")),
}
"""What applications of their own answer, of which this one knows nothing."""


@pytest.fixture
async def served(node: Node) -> AsyncIterator[Served]:
    async with serve_node(node) as opened:
        yield opened


def document(doors: Iterable[str] = DOORS) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(openapi.document(frozenset(doors)))
    return loaded


def described() -> set[tuple[str, str]]:
    methods = {"get", "head", "post", "put", "delete", "patch", "options"}
    return {(path, method) for path, item in document()["paths"].items() for method in item.keys() & methods}


async def test_every_route_is_described_and_nothing_else(node: Node) -> None:
    built = app.build(node, Counters(), Access(node.settings), trio.Event().set)
    routes = {
        # A list with and without its last slash is one route here; HEAD and OPTIONS come with every GET.
        (
            "/content/"
            if rule.rule == "/content"
            else re.sub("<(?:.*:)?(.*)>", lambda found: f"{{{found[1].replace('_', 'url')}}}", rule.rule),
            method.lower(),
        )
        for rule in built.quart.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert described() == routes | RAW_ROUTES


def test_listener_is_described_with_the_doors_that_it_has() -> None:
    paths = {door: set(json.loads(openapi.document(frozenset({door})))["paths"]) for door in DOORS}
    common = set(json.loads(openapi.document(frozenset()))["paths"])
    assert common == {"/", "/openapi.json", "/health", "/health/live", "/health/ready"}
    assert paths["content"] - common == {
        "/content/", "/content/{url}", "/import", "/content-files/{url}/", "/content-files/{url}/{file}",
    }  # fmt: skip
    assert paths["registry"] - common == {"/v2/"}
    assert paths["ollama"] - common == {"/v2/"}
    assert paths["hub"] - common == {"/hf/"}
    assert paths["images"] - common == {"/imageapi/v1/swagger.json"}
    assert paths["files"] - common == {"/{sha256}", "/status"}
    assert paths["admin"] - common == {
        "/metrics", "/admin/status", "/admin/blobs/{digest}", "/admin/holds", "/admin/holds/{holder}", "/admin/pins", "/admin/pins/{url}", "/admin/prune", "/admin/verify",
        "/admin/views", "/admin/views/{number}", "/cmd/prune", "/cmd/manifest/list", "/cmd/image/list", "/cmd/blob/list",
        "/cmd/stop", "/admin/sync", "/admin/replicas", "/admin/replicas/{sha256}", "/ui", "/ui/dashboard.js", "/ui/dashboard.css",
    }  # fmt: skip


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    whole_document = document()
    referred = set(re.findall(r'"\$ref": "#/([^"]*)"', json.dumps(whole_document)))
    for reference in referred:
        found: Any = whole_document
        for key in reference.split("/"):
            found = found[key]
    components = whole_document["components"]
    declared = {f"components/{kind}/{name}" for kind in ("schemas", "responses") for name in components[kind]}
    assert declared - referred == {"components/schemas/Progress"}, "Progress is inside of events, where no $ref can be"


def with_examples(description: dict[str, Any], body: list[Any], parameters: dict[str, list[str]]) -> dict[str, Any]:
    """Give the description with examples that mean something to one daemon."""
    posted = description["paths"]["/content/"]["post"]
    posted["requestBody"]["content"]["application/json"]["examples"] = named(body)
    for item in description["paths"].values():
        for parameter in [*item.get("parameters", []), *item.get("post", {}).get("parameters", [])]:
            if examples := parameters.get(parameter["name"]):
                parameter["examples"] = named(examples)
    return description


def named(examples: list[Any]) -> dict[str, Any]:
    return {str(number): {"value": example} for number, example in enumerate(examples)}


async def test_daemon_answers_as_described(tmp_path: Path, far: FarEnd) -> None:
    """Many requests, right and wrong, are made from the description; whatever is answered must be in it."""
    url, gone = far.on("/m.gguf", whole(FILE)), far.on("/gone", status(404))
    busy, silly = far.on("/busy", status(429, {"Retry-After": 3600})), far.on("/silly", status(418))
    bodies = [{"url": each, "refresh": True} for each in (url, gone, busy, silly, "http://elsewhere.example/x", gone)]
    parameters = {  # the first of each go together, then the second of each
        "url": [encoded(url), encoded(gone)],
        "Prefer": [*["wait=20"] * (len(bodies) - 1), "respond-async"],
        "file": ["m.gguf", "none"],
        "sha256": [SHA] * 3,
        "Range": ["bytes=0-9", "bytes=9999999-", "bytes=0-9"],
        "If-None-Match": ['"other"', '"other"', f'"sha256:{SHA}"'],
    }
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(with_examples(document(USUAL), bodies, parameters)))
    # Stor's answer to a name that is no hash is 412.
    rejections = ["400", "401", "403", "404", "405", "412", "415", "5xx"]
    (tmp_path / "schemathesis.toml").write_text(f"[checks.negative_data_rejection]\nexpected-statuses = {rejections}\n")
    settings = replace(QUICK, allowed_hosts=(far.host,), max_attempts=1)
    async with open_node(tmp_path / "cache", settings) as node, serve_node(node) as at:
        await node.pull(url)
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", str(file), f"--url={at.client.base_url}",
            f"--checks={','.join(CHECKS)}", "--phases=examples,coverage,fuzzing", "--mode=all", "--seed=1",
            "--max-examples=50", "--generation-database=none", "--suppress-health-check=all", "--no-color",
        ]  # fmt: skip
        done = await trio.run_process(command, cwd=tmp_path, capture_stdout=True, capture_stderr=True, check=False)
        metrics = (await at.client.get("/metrics")).text
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    # What was never answered was never checked.
    answered = set(re.findall(r'nekko_request_seconds_count\{door="(\w+)",status="(\d+)"\}', metrics))
    assert answered >= {
        *(("content", code) for code in ("200", "201", "202", "204", "400", "403", "404", "405", "502", "503")),
        *(("files", code) for code in ("200", "204", "206", "304", "404", "405", "412", "416")),
        *((door, code) for door in ("registry", "admin", "health", "front") for code in ("200", "405")),
    }


async def test_events_and_status_of_a_pull_are_as_described(served: Served, far: FarEnd) -> None:
    gate = trio.Event()
    url = far.on("/m.gguf", whole(FILE, stall_after=1000, gate=gate))
    await served.post({"url": url}, Prefer="respond-async")
    path, accept = f"/content/{encoded(url)}", {"Accept": "text/event-stream"}
    seen = []
    async with served.client.stream("GET", path, headers=accept) as answer:
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                seen.append(value)
            elif name == "data":
                told = json.loads(value)
                check({"progress": "Progress", "complete": "Content"}[seen[-1]], told)
                check("Content", (await served.client.get(path)).json())
                if told.get("arriving") and not gate.is_set():
                    now = (await served.client.get("/admin/status")).json()
                    assert (len(now["pulls"]), len(now["transfers"])) == (1, 1)
                    check("Status", now)
                    assert "arriving" not in now["pulls"][0], "it is among the transfers"
                    gate.set()
    assert gate.is_set()
    assert (seen[0], seen[-1]) == ("progress", "complete")


def check(name: str, value: Any) -> None:
    jsonschema_rs.validate({"$ref": f"#/components/schemas/{name}", "components": document()["components"]}, value)
