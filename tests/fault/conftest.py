"""The matrix: filled by the trials, printed at the end of a run, written to the documentation on demand."""

from pathlib import Path

import pytest

from tests.fault.matrix import Matrix, Trial

MATRIX = pytest.StashKey[Matrix]()

HEAD = """\
# Faults

What happens to nekko, and what of its promises holds then. Written by `make fault`, from a run of {count} trials on
real sockets, real file systems and, where it says so, a real process. `make fault-fast` runs them with fewer kills.

- **right bytes**: no answer with status 200 that is complete has a wrong byte.
- **nothing lost**: what was acknowledged before is served after it, by its hash and by its name.
- **fsck clean**: `nekko fsck` finds no fault, and no blob that nothing names is left by it.
- **resumed**: at least 90 % of the bytes that had arrived are not fetched again. Empty where the fault forbids it.
- **no hang**: every request is answered, and every stop done, within the limits that are set for it.
- **no leak**: no task, file descriptor, connection or temporary file is left.

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
