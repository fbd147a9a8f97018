"""What every locator is. The kinds are in the modules beside this one; `locator` reads any of them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from nekko.errors import InvalidError
from nekko.sources import url
from nekko.sources.credentials import Credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class Locator(ABC):
    """One source of content, of one of the kinds beside this module.

    `given` is the text as the caller wrote it, less its userinfo, which is in `credentials`.
    """

    takes_basic: ClassVar[bool] = True
    """Whether user name and password mean anything to this kind of source."""

    given: str
    credentials: Credentials | None = field(default=None, repr=False)

    @property
    @abstractmethod
    def name(self) -> str:
        """The canonical text: what the catalog keeps the content under."""

    @property
    def where(self) -> str:
        """The text for logs and errors: without its query, which may hold a signature."""
        path, mark, _ = self.given.partition("?")
        return f"{path}{mark and '?…'}"

    @property
    def ref_name(self) -> str:
        """The name in an image layout: `name` where it is legal there, else readable words of it and a hash."""
        return url.ref_name(self.name)

    def check(self, credentials: Credentials | None) -> None:
        """Refuse credentials that this kind of source has no use for.

        Raises:
            InvalidError: They are Basic, and the source takes only tokens.
        """
        if credentials is not None and credentials.kind == "Basic" and not self.takes_basic:
            raise InvalidError(f"{self.where}: credentials of this kind of source are a Bearer token, never Basic")
