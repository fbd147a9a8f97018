"""WWW-Authenticate: what a server wants to see before it answers. Source: RFC 9110, section 11.6.1."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"({_WORD})(?: +|(?=\s*(?:,|$)))")
_PARAMETER = re.compile(rf'\s*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))\s*(?:,|$)')
_TOKEN68 = re.compile(r"\s*[A-Za-z0-9._~+/-]+=*\s*(?:,|$)")
_COMMAS = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate. `scheme` and the names of parameters are lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """Read the challenges of one header value, in order; what follows the first malformed one is left out."""
    challenges: list[Challenge] = []
    position = _COMMAS.match(header).end()  # type: ignore[union-attr]  # matches the empty string
    while position < len(header):
        scheme = _SCHEME.match(header, position)
        if scheme is None:
            break
        position = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, position):
            name, quoted, plain = parameter.groups()
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters.setdefault(name.lower(), value)
            position = parameter.end()
        if not parameters and (token68 := _TOKEN68.match(header, position)):
            position = token68.end()
        challenges.append(Challenge(scheme[1].lower(), parameters))
        position = _COMMAS.match(header, position).end()  # type: ignore[union-attr]  # matches the empty string
    return challenges
