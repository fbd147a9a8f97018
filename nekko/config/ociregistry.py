"""ociregistry's configuration, turned into nekko's: the YAML file that starts it starts nekko as it is.

Keys that both have mean the same; nekko's own may stand beside them. As there, an unknown key stops nothing; here it is
told of.
Source: its documents, "Configuring the Server", and its program where that says more.
"""

import os
import ssl
from collections.abc import Callable, Collection, Mapping
from typing import Any

from nekko.config import grammar
from nekko.errors import ConfigInvalidError
from nekko.oci.platform import Platform
from nekko.oci.reference import DOCKER_HUB, DOCKER_HUB_ALIASES, is_registry

DIALECT = "ociregistry"
"""The key of its flags among those of nekko."""
IMAGE_PATH, HOST, PORT = "/var/lib/ociregistry", "0.0.0.0", "8080"  # noqa: S104 - where it listens, reading is free
DEFAULTS: Mapping[str, Any] = {"imagePath": IMAGE_PATH, "pullTimeout": "60000", "logLevel": "error"}
_ONLY_THERE = frozenset({
    "imagePath", "imageFile", "registries", "serverTlsConfig", "pullTimeout", "listConfig"
})  # fmt: skip
_NO_MEANING = {
    "imageFile": "say it to `nekko load`",
    "resolveRef": "say it to `nekko load`",
    "listConfig": "say it to `nekko list`",
    "configFile": "this is the file",
}
_OURS = ("mirrors", "proxy", "connectTimeoutSeconds", "stallTimeoutSeconds", "revalidateSeconds", "maxTransfers")
"""Of `hosts.<host>`, for an entry of `registries` as well."""
_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
)  # fmt: skip
_LEVELS = {"debug": "1", "info": "0", "warn": "-1", "error": "-2"}
_OUR_KEYS = {
    "imagePath": "cacheDir", "port": "address", "host": "address", "health": "listen", "metrics": "listen",
    "logLevel": "verbose", "pullTimeout": "manifestTimeoutSeconds", "defaultNs": "defaultRegistry",
    "os": "preloadPlatform", "arch": "preloadPlatform",
}  # fmt: skip


def is_ociregistrys(values: Mapping[str, Any]) -> bool:
    """Tell whether a file is ociregistry's, by keys that are none of nekko's."""
    return not _ONLY_THERE.isdisjoint(values)


def our_key(key: str) -> str:
    """Give nekko's key for what one of ociregistry's says."""
    return _OUR_KEYS.get(key, key)


def from_ociregistry(values: Mapping[str, Any], known: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """Give the same settings by nekko's keys, and notices of what has no meaning here.

    Args:
        known: nekko's own keys.

    Raises:
        ConfigInvalidError: A value that cannot be used, or something that nekko does not have.
    """
    given = {**DEFAULTS, **{key: value for key, value in values.items() if value is not None}}
    found: dict[str, Any] = {"address": f"{given.pop('host', HOST)}:{given.pop('port', PORT)}"}
    listen = [f":{given.pop(key)}={key}" for key in ("health", "metrics") if key in given]
    if listen:
        found["listen"] = listen
    if not given.keys().isdisjoint(("os", "arch")):
        host = Platform.host()
        found["preloadPlatform"] = f"{given.pop('os', host.os)}/{given.pop('arch', host.architecture)}"
    notices: list[str] = []
    for key, value in given.items():
        if key in _READERS:
            try:
                found |= _READERS[key](value, notices)
            except ConfigInvalidError as error:
                raise ConfigInvalidError(f"{key}: {error}") from error
        elif key in known:
            found[key] = value
        elif key in _NO_MEANING:
            notices.append(f"{key}: {_NO_MEANING[key]}")
        else:
            notices.append(f"{key} is no setting of ociregistry, nor of nekko")
    return found, notices


_Reader = Callable[[Any, list[str]], dict[str, Any]]


def _plain(key: str) -> _Reader:
    return lambda value, _: {key: value}


def _log_level(value: Any, _: list[str]) -> dict[str, Any]:
    if value not in _LEVELS:
        raise ConfigInvalidError(f"{str(value)[:100]!r} is neither {' nor '.join(_LEVELS)}")
    return {"verbose": _LEVELS[value]}


def _pull_timeout(value: Any, _: list[str]) -> dict[str, Any]:
    return {"manifestTimeoutSeconds": f"{grammar.count(str(value)) / 1000:.3f}"}


def _server_tls(value: Any, notices: list[str]) -> dict[str, Any]:
    given = _table(value, ("cert", "key", "ca", "clientAuth"), notices, "serverTlsConfig")
    found = {f"tls{key.capitalize()}": given[key] for key in ("cert", "key") if key in given}
    auth = given.get("clientAuth", "none")
    if auth not in ("none", "verify"):
        raise ConfigInvalidError(f"clientAuth: {str(auth)[:100]!r} is neither none nor verify")
    if auth == "verify":
        if (authorities := given.get("ca")) is None:
            authorities = _authorities_of_host()
            notices.append(
                "serverTlsConfig: clientAuth verify without ca: whoever has a certificate of any authority in"
                f" {authorities} may pull, and prune, load and stop as well"
            )
        found |= {"tlsClientCa": authorities, "tlsClientAuth": "require"}
    elif "ca" in given:
        notices.append("serverTlsConfig: ca: clients are not asked for certificates without clientAuth verify")
    return found


def _authorities_of_host() -> str:
    """Give the file with the authorities that this host trusts: OpenSSL's own, or where distributions have it.

    Source: Go, crypto/x509, root_linux.go.
    """
    for path in filter(None, (ssl.get_default_verify_paths().cafile, *_AUTHORITIES)):
        if os.path.isfile(path):
            return path
    raise ConfigInvalidError("clientAuth verify: ca is missing, and this host has no authorities of its own")


def _registries(value: Any, notices: list[str]) -> dict[str, Any]:
    if not isinstance(value, list):
        raise ConfigInvalidError("takes a list of registries")
    hosts: dict[str, Any] = {}
    for position, entry in enumerate(value):
        where = f"registries[{position}]"
        given = _table(entry, ("name", "description", "scheme", "auth", "tls", *_OURS), notices, where)
        if not isinstance(name := given.get("name"), str):
            raise ConfigInvalidError(f"[{position}]: name is missing")
        name = DOCKER_HUB if name in DOCKER_HUB_ALIASES else name.lower()
        try:
            grammar.host(name)
        except ConfigInvalidError as error:  # nobody can ask for it, there as here
            notices.append(f"{where}: left out: {error}")
            continue
        if not is_registry(name):
            notices.append(f"{where}: no image is of {name!r}: a registry's name has a dot or a port")
        if name in hosts:
            raise ConfigInvalidError(f"[{position}]: {name} is given twice")
        hosts[name] = {key: given[key] for key in ("scheme", *_OURS) if key in given}
        tls = _table(given.get("tls", {}), ("ca", "cert", "key", "insecureSkipVerify"), notices, f"{where}.tls")
        hosts[name] |= tls | _auth(given.get("auth", {}), notices, f"{where}.auth")
    return {"hosts": hosts} if hosts else {}


def _auth(value: Any, notices: list[str], where: str) -> dict[str, Any]:
    given = _table(value, ("user", "password", "passwordFromEnv", "token"), notices, where)
    keys = {"user": "username", "password": "password", "passwordFromEnv": "passwordEnv"}
    found = {ours: given[theirs] for theirs, ours in keys.items() if given.get(theirs)}
    token = _table(given.get("token", {}), ("provider", "providerOpts", "expiry", "static"), notices, f"{where}.token")
    if token.get("static"):
        return found | {"basicToken": token["static"]}
    keys = {"provider": "tokenProvider", "providerOpts": "tokenProviderOptions", "expiry": "tokenExpiry"}
    return found | {ours: token[theirs] for theirs, ours in keys.items() if theirs in token}


def _table(value: Any, known: tuple[str, ...], notices: list[str], where: str) -> dict[str, Any]:
    """Give the members of a table that have a value."""
    if not isinstance(value, dict):
        raise ConfigInvalidError(f"{where} is no table of {', '.join(known)}")
    notices += (f"{where}: {key} is no setting of ociregistry" for key in value if key not in known)
    return {key: item for key, item in value.items() if key in known and item not in (None, "")}


_READERS: Mapping[str, _Reader] = {
    "imagePath": _plain("cacheDir"),
    "logLevel": _log_level,
    "pullTimeout": _pull_timeout,
    "defaultNs": _plain("defaultRegistry"),
    "serverTlsConfig": _server_tls,
    "registries": _registries,
}
