"""The documents name only what there is: settings, metrics, commands, options, files."""

import re
import shlex
from pathlib import Path

import click
import pytest

from nekko.cli.main import nekko
from nekko.cli.ociregistry import is_spoken, ociregistry
from nekko.config.doors import DOORS
from nekko.config.settings import Host, PruneConfig, Settings, declarations_of
from nekko.metrics import Counters, ScrubFigures, Snapshot, exposition

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
KEYS = {each.key for cls in (Settings, Host, PruneConfig) for each in declarations_of(cls)}
CAMEL = re.compile(r"[a-z]+(?:[A-Z][a-z]+)+")
NOT_SETTINGS = {"credentialsType", "unusedFor", "olderThan", "toSize", "dryRun", "readPartitions", "serverTlsConfig", "helloWorld",
                "credHelpers"}  # fmt: skip
"""Fields of requests and of others' files, which have the same form."""

KUBERNETES = {
    word for file in (ROOT / "packaging/kubernetes").rglob("*.yaml") for word in CAMEL.findall(file.read_text("utf-8"))
}
"""Keys of manifests, and values of the chart."""

COMMAND = re.compile(r"(?:^\$ |&& )(?:\w+=\S+ )*(?:sudo (?:-u nekko )?)?nekko ([a-z][^|&#()\n]*)", re.MULTILINE)
"""A call of nekko in a shell: alone, with variables before it, by sudo, or behind another command."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_every_setting_that_is_named_exists(page: Path) -> None:
    quoted = re.findall(r"`([^`\n]+)`", page.read_text("utf-8"))
    named = {word for text in quoted if (word := text.partition(":")[0]) and CAMEL.fullmatch(word)}
    assert named - KEYS - NOT_SETTINGS - KUBERNETES == set()


def test_settings_are_looked_for_where_they_are_named() -> None:
    assert "`minFreeSpace`" in (ROOT / "docs/operation.md").read_text("utf-8")
    assert CAMEL.fullmatch("minFreeSpace")


@each_page
def test_every_command_that_is_shown_exists_with_its_options(page: Path) -> None:
    text = page.read_text("utf-8")
    shown = COMMAND.findall(text) + re.findall(r"`nekko ([^`]+)`", text)
    for line in shown:
        words = shlex.split(line)
        command: click.Command = nekko
        if is_spoken("nekko", words):
            command = ociregistry
            words.sort(key=lambda word: word not in ociregistry.commands)  # its flags may stand before the command
        while isinstance(command, click.Group) and words:
            name = words.pop(0)
            assert name in command.commands, line
            command = command.commands[name]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        asked = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert asked <= known, line


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.is_file(), target
        if not anchor:
            continue
        headings = re.findall(r"^#+ (.*)$", linked.read_text("utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in anchors, target


def test_every_metric_is_listed_and_no_other() -> None:
    counters = Counters()
    counters.hits["files"] = counters.misses["files"] = counters.sent_bytes["files"] = 1
    counters.latency.labels("files", "200").observe(0)
    scrub = ScrubFigures(True, 1, 1, 1.0)
    snapshot = Snapshot(
        1, 1, 1, {"example.com": 1}, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, scrub, scrub, {"stored": 1}, 1, 1, 1,
        1,
    )  # fmt: skip
    exposed = exposition(counters, snapshot).decode()
    families = {
        name if kind != "counter" or name.endswith("_total") else f"{name}_total"
        for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", exposed, re.MULTILINE)
        if not name.endswith("_created")
    }
    text = (ROOT / "docs/operation.md").read_text("utf-8")
    table = text.partition("<!-- metrics -->")[2].partition("<!-- /metrics -->")[0]
    assert set(re.findall(r"`((?:nekko|ociregistry)_\w+)`", table)) == families
    assert set(re.findall(r"`(nekko_\w+)", text)) <= families


def test_every_door_is_listed() -> None:
    text = (ROOT / "docs/operation.md").read_text("utf-8")
    table = text.partition("| Door | Paths |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(DOORS)
