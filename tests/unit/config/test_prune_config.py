"""`pruneConfig` in the file: its keys, durations as Go writes them, and what is refused."""

from pathlib import Path

import pytest

from nekko.config.grammar import age
from nekko.config.settings import PruneConfig
from nekko.config.sources import read
from nekko.errors import ConfigInvalidError

DOCUMENTED = """
pruneConfig:
  enabled: true
  duration: 30d
  type: accessed
  frequency: 1d
  count: -1
  dryRun: false
"""


def prune_config(tmp_path: Path, text: str) -> PruneConfig:
    file = tmp_path / "nekko.yaml"
    file.write_text(text)
    return read({"config_file": file}, {}).settings.prune_config


def test_documented_values_are_the_defaults(tmp_path: Path) -> None:
    assert prune_config(tmp_path, DOCUMENTED) == PruneConfig(enabled=True)
    assert prune_config(tmp_path, "pruneConfig:\n  enabled: false\n") == PruneConfig()
    assert prune_config(tmp_path, "pruneConfig:\n") == PruneConfig()


def test_both_spellings_of_dry_run_are_read(tmp_path: Path) -> None:
    for key in ("dryRun", "dryrun"):
        assert prune_config(tmp_path, f"pruneConfig: {{{key}: true}}").dry_run is True


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{type: size}", "'size' is neither"),
        ("{type: pattern}", "expr is missing"),
        ("{duration: soon}", "duration: 'soon'"),
        ("{duration: 0s}", "no time at all"),
        ("{count: -2}", "count: '-2'"),
        ("{every: 1d}", "every is no setting"),
        ("often", "takes a table"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigInvalidError, match="pruneConfig") as caught:
        prune_config(tmp_path, f"pruneConfig: {text}")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30d", 2592000), ("12h30m", 45000), ("1.5h", 5400), ("500ms", 0.5), ("1m", 60), ("1min", 60), ("2w", 1209600), ("90", 90)],
)  # fmt: skip
def test_ages_are_read_as_go_writes_them(text: str, seconds: float) -> None:
    assert age(text) == seconds


@pytest.mark.parametrize("text", ["", "1x", "1h30", "h", "-1h", "1h 30m", "0", "0s0m"])
def test_other_ages_are_refused(text: str) -> None:
    with pytest.raises(ConfigInvalidError):
        age(text)
