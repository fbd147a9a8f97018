"""Fixtures of the suites that change the host."""

from tests.privileged.image_host import image_host

__all__ = ["image_host"]
