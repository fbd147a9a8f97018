"""Checks that span several settings, or that ask this host."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from nekko.config.settings import Host, Settings, declarations_of
from nekko.errors import ConfigInvalidError


def check_certificates(settings: Settings, origin: Mapping[str, str]) -> None:
    """Refuse a certificate without its key, and a key without its certificate.

    Raises:
        ConfigInvalidError: Names the one that is given and the one that is missing.
    """
    pair = {"tlsCert": settings.tls_cert, "tlsKey": settings.tls_key}
    if lonely := _lonely(pair):
        raise ConfigInvalidError(f"{lonely[0]} ({origin[lonely[0]]}): {lonely[1]} is missing, they go together")
    for name, host in settings.hosts.items():
        if lonely := _lonely({"cert": host.cert, "key": host.key}):
            where = f"hosts ({origin['hosts']}): {name}: {lonely[0]}"
            raise ConfigInvalidError(f"{where}: {lonely[1]} is missing, they go together")


def check_mirrors(settings: Settings, origin: Mapping[str, str]) -> None:
    """Refuse a registry that is its own mirror.

    Raises:
        ConfigInvalidError: Names it.
    """
    for name, host in settings.hosts.items():
        if name in host.mirrors:
            raise ConfigInvalidError(f"hosts ({origin['hosts']}): {name}: mirrors: {name} is asked anyway, last")


def _lonely(pair: Mapping[str, object]) -> tuple[str, str] | None:
    """Give the key that is set and the key that is missing, if only one of two is."""
    given = [key for key, path in pair.items() if path]
    missing = [key for key, path in pair.items() if not path]
    return (given[0], missing[0]) if given and missing else None


def check_object_store(settings: Settings, origin: Mapping[str, str]) -> None:
    """Refuse an access key without its secret, a secret without its key, and to write where there is no store.

    Raises:
        ConfigInvalidError: Names what is given and what is missing.
    """
    pair = {"s3AccessKey": settings.s3_access_key, "s3SecretKey": settings.s3_secret_key}
    if lonely := _lonely(pair):
        raise ConfigInvalidError(f"{lonely[0]} ({origin[lonely[0]]}): {lonely[1]} is missing, they go together")
    if settings.s3_write_behind and settings.s3_endpoint is None:
        raise ConfigInvalidError(f"s3WriteBehind ({origin['s3WriteBehind']}): s3Endpoint is missing: where to?")


def check_accounts(settings: Settings, origin: Mapping[str, str]) -> None:
    """Refuse to ask readers for an account where there is none.

    Raises:
        ConfigInvalidError: Names what is missing.
    """
    if settings.read_auth and not settings.basic_auth:
        raise ConfigInvalidError(f"readAuth ({origin['readAuth']}): basicAuth is missing: whose account?")


def check_borrowing(settings: Settings, origin: Mapping[str, str]) -> None:
    """Refuse doors that need a cache where it is another process's.

    Raises:
        ConfigInvalidError: Says what to set.
    """
    if settings.images_content_from is not None and settings.doors != ("images",):
        raise ConfigInvalidError(
            f"imagesContentFrom ({origin['imagesContentFrom']}): doors has to be images alone, not "
            f"{', '.join(settings.doors)}: the others are the daemon's that has the cache"
        )


def check_storages(settings: Settings, origin: Mapping[str, str]) -> None:
    """Refuse a storage that is used twice, or lies in another one or in the cache, also by symbolic links.

    Raises:
        ConfigInvalidError: Names both directories.
    """
    where = f"storagePairs ({origin['storagePairs']})"
    places = {settings.cache_dir: _real(settings.cache_dir)}
    for root in (root for roots in settings.storage_pairs for root in roots):
        place = _real(root)
        for other, taken in places.items():
            if place.is_relative_to(taken) or taken.is_relative_to(place):
                raise ConfigInvalidError(f"{where}: {root} and {other} are one in the other: each must be on its own")
        places[root] = place


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # unlike Path.resolve, it takes a loop of links as it is


def check_host(settings: Settings, origin: Mapping[str, str]) -> None:
    """Refuse a cache directory that cannot be used, and a named file that cannot be read. Changes nothing.

    Raises:
        ConfigInvalidError: Names the key, its origin and the cause.
    """
    if not settings.hello_world and (reason := _reason_against(settings.cache_dir)):
        raise ConfigInvalidError(f"cacheDir ({origin['cacheDir']}): {reason}")
    for key, path in _files(settings):
        _check_readable(f"{key} ({origin[key]})", path)
    for name, host in settings.hosts.items():
        for key, path in _files(host):
            _check_readable(f"hosts ({origin['hosts']}): {name}: {key}", path)


_MADE = ("cache_dir", "log_file", "images_dir", "images_run_dir", "images_content_from", "sync_labels_file")
"""Settings that name what is made where it is missing."""


def _files(settings: Settings | Host) -> Iterator[tuple[str, Path]]:
    for declaration in declarations_of(type(settings)):
        value = getattr(settings, declaration.name)
        if isinstance(value, Path) and declaration.name not in _MADE:
            yield declaration.key, value


def _check_readable(where: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigInvalidError(f"{where}: {path}: {error.strerror}") from error


def _reason_against(cache_dir: Path) -> str | None:
    """Say why a directory can be neither used nor created, if so."""
    nearest = cache_dir
    while True:
        try:
            mode = nearest.stat().st_mode
            break
        except FileNotFoundError:
            nearest = nearest.parent  # ends at the root at the latest
        except OSError as error:
            return f"{nearest}: {error.strerror}"
    if not stat.S_ISDIR(mode):
        return f"{nearest} is not a directory"
    if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=True):
        return f"{nearest} is not writable" + ("" if nearest == cache_dir else f", {cache_dir} cannot be created")
    return None
