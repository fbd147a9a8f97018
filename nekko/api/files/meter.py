"""The door's metrics under the names that Stor gives them."""

import re

from nekko import errors
from nekko.errors import NekkoError
from nekko.replicas.replicas import Lookup
from nekko.statsd import Statsd

_NO_WORD = re.compile(r"[^A-Za-z0-9]")
_STORING = {
    errors.NameInvalidError: "malformed_sha", errors.DigestMismatchError: "bad_sha", errors.CapacityError: "no_space",
}  # fmt: skip


class Meter:
    """Counts what the door does."""

    def __init__(self, statsd: Statsd) -> None:
        self._statsd = statsd

    def asked(self, *, is_storing: bool) -> None:
        """Count a request."""
        self._statsd.count(f"request.{'post' if is_storing else 'get'}.count")

    def sent(self, place: object, size: int, seconds: float) -> None:
        """Count a file that was sent from a directory."""
        self._sent(f"ok_old.{_NO_WORD.sub('-', str(place)).strip('-')}", size, seconds)

    def sent_from_objects(self, size: int, seconds: float) -> None:
        """Count a file that was sent from the object store."""
        self._sent("ok_hcp", size, seconds)

    def looked_up(self, lookup: Lookup) -> None:
        """Count how a file was looked for on storagePairs."""
        self._statsd.time("cache.time", lookup.location_seconds)
        self._statsd.count("cache.hit" if lookup.is_known else "cache.miss")
        if not lookup.is_known:
            self._statsd.time("lookup.time", lookup.seconds)
            self._statsd.count(f"lookup.attempt.{lookup.tried}.count")

    def not_in_objects(self) -> None:
        """Count a file that the object store does not have."""
        self._statsd.count("error.get.not_found_hcp.count")

    def absent(self) -> None:
        """Count a file that is nowhere."""
        self._statsd.count("error.get.not_found_old.count")

    def stored(self, *, is_new: bool) -> None:
        """Count a file that is stored now, or was before."""
        self._statsd.count(f"success.post.{'write' if is_new else 'duplicate'}.count")

    def refused(self, error: NekkoError, *, is_storing: bool) -> None:
        """Count a request that failed. Stor has no name for a caller without an account."""
        if isinstance(error, errors.AccessDeniedError):
            return
        if not is_storing:
            name = "malformed_sha" if isinstance(error, errors.NameInvalidError) else "500"
            self._statsd.count(f"error.get.{name}.count")
            return
        name = next((name for kind, name in _STORING.items() if isinstance(error, kind)), "unknown")
        self._statsd.count(f"error.post.{name}.count")

    def healthy(self) -> None:
        """Count a check that found everything well."""
        self._statsd.count("healthcheck.count")

    def _sent(self, name: str, size: int, seconds: float) -> None:
        self._statsd.count(f"success.get.{name}.count")
        self._statsd.count(f"success.get.{name}.size", size)
        self._statsd.time(f"success.get.{name}.time", seconds)
