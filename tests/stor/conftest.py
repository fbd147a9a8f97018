"""The size of the proof runs."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--files", type=int, default=2000, help="files that are stored, and damaged")
