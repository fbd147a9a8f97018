"""The matrix: filled by the trials, printed at the end of a run, written to the documentation on demand."""

from pathlib import Path

import pytest

from tests.fault.matrix import Matrix, Trial

MATRIX = pytest.StashKey[Matrix]()

HEAD = """\
# Faults

What happens to nekko, and what of its promises holds then. Written by `make fault` from a run of {count} trials;
`make fault-fast`, which is part of `make check`, runs them at fewer moments.

- **right bytes**: no answer with status 200 that is complete has a wrong byte.
- **nothing lost**: what was acknowledged before is served after it, by its hash and by its name.
- **fsck clean**: `nekko fsck` finds no fault, and no blob that nothing names is left by it.
- **resumed**: at least 90 % of the bytes that had arrived are not fetched again.
- **no hang**: every request is answered, and every start and stop done, within a minute.
- **no leak**: no task, file descriptor, connection or temporary file is left.

A promise that a trial says nothing about is empty in its row. The clock and the disk's calls go wrong between the
daemon and libc, by a library that is loaded before it, which counts the calls and lets those fail that a trial names.
What runs full, becomes read-only or loses its power is an ext4 on a loop device; power is lost by the kernel's
`EXT4_IOC_SHUTDOWN` without a flush of its log, together with a kill of the daemon. Where pairs of storages lose it,
each file system lies on a drive of its own: an image on such an ext4, of which only what was flushed to it is left.
There each disk is looked at by itself before the daemon starts again: whatever has its name has all its bytes. Where
one loses its power alone, the daemon goes on for a while. A bad upstream is a server of the test's own, against a
node in the same process; all other trials have a daemon of their own.

"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=25, help="how often the daemon is killed")
    parser.addoption("--seed", type=int, default=1, help="of what is done between the kills")
    parser.addoption("--write-matrix", type=Path, metavar="FILE", help="write the matrix to a file")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MATRIX] = Matrix()


@pytest.fixture
def trial(request: pytest.FixtureRequest) -> Trial:
    """Give the trial of a test: its group is the module's GROUP, its fault the parameter's id or the test's name."""
    words = request.node.name.removeprefix("test_").replace("_", " ")
    spec = getattr(request.node, "callspec", None)
    return request.config.stash[MATRIX].trial(request.module.GROUP, spec.id if spec is not None else words)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    matrix = config.stash[MATRIX]
    if not matrix.trials:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line(matrix.markdown())
    path = config.getoption("--write-matrix", default=None)
    if path is not None:
        path.write_text(HEAD.format(count=len(matrix.trials)) + matrix.markdown(), "utf-8")
