"""The accounts of `basicAuth`: who sends one of them by HTTP Basic authentication. Source: RFC 7617."""

import base64
import hashlib
import hmac
import os
from collections.abc import Sequence

import trio

from nekko.config.password import PREFIX, HashedPassword


class Accounts:
    """Knows accounts by their passwords, or by the hashes of these."""

    def __init__(self, accounts: Sequence[str]) -> None:
        """Take accounts as they are configured: `user:password`, or `user:` and a hashed password."""
        self._plain: list[bytes] = []
        self._hashed: list[tuple[bytes, HashedPassword]] = []
        for account in accounts:
            user, _, password = account.partition(":")
            if password.startswith(PREFIX):
                self._hashed.append((user.encode(), HashedPassword.parse(password)))
            else:
                self._plain.append(account.encode())
        # What was right once need not be hashed again. It is kept by a key that never leaves this process, for the
        # password itself should not be found in memory.
        self._key = os.urandom(32)
        self._right: set[bytes] = set()
        self._threads = trio.CapacityLimiter(1)

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self._plain or self._hashed)

    async def has(self, given: str) -> bool:
        """Tell whether the credentials of a request, as they follow `Basic`, are those of an account.

        Hashing takes its time: one at a time, in a worker thread, so that wrong passwords hold up nothing but others.
        """
        try:
            account = base64.b64decode(given.strip(), validate=True)
        except ValueError:
            return False
        if any(hmac.compare_digest(account, known) for known in self._plain):
            return True
        mark = hmac.digest(self._key, account, hashlib.sha256)
        if mark in self._right:
            return True
        user, _, password = account.partition(b":")
        for known, hashed in self._hashed:
            if user == known and await trio.to_thread.run_sync(hashed.is_of, password, limiter=self._threads):
                self._right.add(mark)
                return True
        return False
