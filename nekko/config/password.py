"""Passwords that are kept as their scrypt hash, in the form of passlib: `$scrypt$ln=14,r=8,p=1$<salt>$<hash>`.

Salt and hash are base64 without padding. Source: RFC 7914; the PHC string format; passlib's `scrypt`.
"""

import base64
import hashlib
import hmac
import os
import re
from dataclasses import dataclass, replace
from typing import Self

from nekko.errors import ConfigInvalidError

PREFIX = "$scrypt$"
MAX_WORK_BYTES = 128 << 20
"""What one check may go through, some 0.4 s: strangers can ask for it."""
LOG_ROUNDS, BLOCK, LANES = 14, 8, 1
"""16 MiB and some 50 ms. Source: the proposal of RFC 7914's author for passwords that are typed in."""
_FORM = re.compile(r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,3}),p=([0-9]{1,3})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)")


@dataclass(frozen=True, slots=True)
class HashedPassword:
    """What is kept of a password."""

    log_rounds: int
    block: int
    lanes: int
    salt: bytes
    hashed: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the kept form.

        Raises:
            ConfigInvalidError: It is another one, or a check of it would take too much. The hash is not shown.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ConfigInvalidError("a hashed password is written $scrypt$ln=14,r=8,p=1$salt$hash (nekko config hash)")
        try:
            salt, hashed = (
                base64.b64decode(part + "=" * (-len(part) % 4), validate=True) for part in match.group(4, 5)
            )
        except ValueError as error:
            raise ConfigInvalidError("salt or hash of a hashed password is no base64") from error
        log_rounds, block, lanes = map(int, match.group(1, 2, 3))
        work = 128 * block * lanes << log_rounds
        if not 0 < work <= MAX_WORK_BYTES or not 0 < log_rounds < 16 * block:
            raise ConfigInvalidError("ln, r and p of a hashed password are too large, or do not go together")
        if len(hashed) < 16:
            raise ConfigInvalidError("the hash of a hashed password has less than 16 bytes")
        return cls(log_rounds, block, lanes, salt, hashed)

    @classmethod
    def of(cls, password: str) -> Self:
        """Hash a password with a new salt; takes its time."""
        empty = cls(LOG_ROUNDS, BLOCK, LANES, os.urandom(16), bytes(32))
        return replace(empty, hashed=empty._derive(password.encode()))

    def __str__(self) -> str:
        salt, hashed = (base64.b64encode(part).decode().rstrip("=") for part in (self.salt, self.hashed))
        return f"{PREFIX}ln={self.log_rounds},r={self.block},p={self.lanes}${salt}${hashed}"

    def is_of(self, password: bytes) -> bool:
        """Tell whether it is the hash of a password; takes its time, so for a worker thread."""
        return hmac.compare_digest(self.hashed, self._derive(password))

    def _derive(self, password: bytes) -> bytes:
        return hashlib.scrypt(
            password, salt=self.salt, n=1 << self.log_rounds, r=self.block, p=self.lanes,
            maxmem=2 * MAX_WORK_BYTES, dklen=len(self.hashed),
        )  # fmt: skip
