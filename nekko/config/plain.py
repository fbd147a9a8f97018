"""Settings as plain JSON values, secrets redacted: what may be shown to anyone who may run the daemon."""

from pathlib import Path
from typing import Any

from nekko.config.settings import Host, PruneConfig, Settings, declarations_of

REDACTED = "(hidden)"


def to_plain(settings: Settings | Host | PruneConfig) -> dict[str, Any]:
    """Give values by key, made of what JSON has."""
    return {
        declaration.key: _plain(getattr(settings, declaration.name), is_secret=declaration.is_secret)
        for declaration in declarations_of(type(settings))
    }


def _plain(value: Any, *, is_secret: bool) -> Any:
    if isinstance(value, tuple):
        return [_plain(item, is_secret=is_secret) for item in value]
    if is_secret and value is not None:
        return REDACTED
    if isinstance(value, PruneConfig):
        return to_plain(value)
    if isinstance(value, dict):
        return {name: to_plain(host) for name, host in value.items()}
    return str(value) if isinstance(value, Path) else value
