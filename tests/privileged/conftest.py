"""Fixtures of the suites that change the host."""

import pytest

from tests.privileged.image_host import image_host

__all__ = ["image_host"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cycles", type=int, default=50, help="how often objects are made and removed")
    parser.addoption("--every-step", action="store_true", help="kill the daemon at every step, not at some")
