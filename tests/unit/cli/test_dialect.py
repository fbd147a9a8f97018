"""Whose command line one is: nekko's own, or ociregistry's."""

from pathlib import Path

import pytest

from nekko.cli.ociregistry import is_spoken
from nekko.errors import ConfigInvalidError

OCIREGISTRYS = (
    "--image-path /x serve", "--image-path=/x", "--log-level info serve", "--log-file /x list", "serve --port 8080",
    "serve --port=8080", "serve --image-path /x", "serve --air-gapped --default-ns a.b",
    "load --arch arm64 --image-file x", "prune --image-path /x --pattern a", "list --header --log-level debug",
)  # fmt: skip
NEKKOS = (
    "", "serve", "serve --air-gapped", "serve --hello-world", "serve --cache-dir /x --address :8080", "list --header", "version", "--version",
    "load --image-file x", "prune --pattern a --dry-run", "pull oci://a/b:serve --platform x", "serve --config-file x",
    "run --image-path x", "pull --port",
)  # fmt: skip


@pytest.mark.parametrize("line", OCIREGISTRYS)
def test_what_only_ociregistry_has_turns_its_dialect_on(line: str) -> None:
    assert is_spoken("nekko", line.split())


@pytest.mark.parametrize("line", NEKKOS)
def test_what_nekko_has_stays_nekkos(line: str) -> None:
    assert not is_spoken("nekko", line.split())


def test_program_called_ociregistry_speaks_nothing_else() -> None:
    assert is_spoken("ociregistry", ["serve"])


@pytest.mark.parametrize(("text", "expected"), [("imagePath: /x", True), ("cacheDir: /x", False)])
def test_file_before_the_command_decides_by_its_keys(tmp_path: Path, text: str, expected: bool) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert is_spoken("nekko", ["--config-file", str(file), "list"]) is expected
    assert is_spoken("nekko", [f"--config-file={file}", "serve"]) is expected


def test_file_before_the_command_that_cannot_be_read_is_told() -> None:
    with pytest.raises(ConfigInvalidError, match="/nowhere"):
        is_spoken("nekko", ["--config-file", "/nowhere/c.yaml", "serve"])
