"""Credentials as a caller hands them over with a request, or as a source URL carries them in its userinfo."""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Literal, Self

from nekko.errors import InvalidError


@dataclass(frozen=True, slots=True)
class Credentials:
    """A secret for one upstream. `repr` leaves the secret out, so it cannot reach a log by accident.

    For `Basic`, `secret` is base64 of `user:password`, exactly as it goes into the header.
    """

    kind: Literal["Bearer", "Basic"]
    secret: str = field(repr=False)

    @classmethod
    def parse(cls, secret: str, kind: str = "Bearer") -> Self:
        """Read the `credentials` and `credentialsType` of a request; a Basic value may be plain `user:password`.

        Raises:
            InvalidError: Unknown type, or a value that cannot go into a header. The value is never echoed.
        """
        if not secret or not secret.isprintable() or not secret.isascii() or " " in secret:
            raise InvalidError("credentials: an empty value, or characters that a header cannot carry")
        match kind.lower():
            case "bearer":
                return cls("Bearer", secret)
            case "basic":
                if ":" in secret:
                    return cls.basic(*secret.split(":", 1))
                try:
                    is_pair = b":" in base64.b64decode(secret, validate=True)
                except binascii.Error:
                    is_pair = False
                if not is_pair:
                    raise InvalidError("credentials: for Basic, give user:password or base64 of it")
                return cls("Basic", secret)
        raise InvalidError(f"credentialsType {kind[:40]!r} is unknown: use Bearer or Basic")

    @classmethod
    def basic(cls, user: str, password: str) -> Self:
        """Make Basic credentials of a user name and a password."""
        return cls("Basic", base64.b64encode(f"{user}:{password}".encode()).decode("ascii"))

    @property
    def header(self) -> str:
        """The value of an Authorization header."""
        return f"{self.kind} {self.secret}"

    def user_password(self) -> tuple[str, str]:
        """Give user name and password of Basic credentials.

        Raises:
            InvalidError: These are Bearer credentials.
        """
        if self.kind != "Basic":
            raise InvalidError("credentials: a Bearer token has no user name")
        user, _, password = base64.b64decode(self.secret).decode("utf-8", "replace").partition(":")
        return user, password
