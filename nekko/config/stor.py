"""Stor's configuration, turned into nekko's: the JSON file that its `CONFIG_FILE` names starts nekko as it is.

Source: its documentation, and its program where that says more.
"""

from collections.abc import Callable, Mapping
from typing import Any

from nekko.config.amqp import is_amqp
from nekko.errors import ConfigInvalidError

ADDRESS = ":8080"
"""Where Stor listens; its file cannot say otherwise, nekko's other settings can."""
_NO_MEANING = {
    "secret": "it signs Stor's session cookies, and there are none here",
    "log": "nekko logs to standard error; see logFormat and verbose",
    "cleanup_tempdir_period": "uploads leave nothing behind to be cleaned up",
}


def is_stors(values: Mapping[str, Any]) -> bool:
    """Tell whether a file is Stor's: nothing else has its one required key."""
    return "storage_pairs" in values


def from_stor(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Give the same settings by nekko's keys, and notices of what has no meaning here.

    Raises:
        ConfigInvalidError: A key that Stor does not have, or one for which nekko has nothing.
    """
    found: dict[str, Any] = {"address": ADDRESS}
    notices = []
    for key, value in values.items():
        if key in _NO_MEANING:
            notices.append(f"{key}: {_NO_MEANING[key]}")
        elif key == "rabbitmq_uri" and isinstance(value, str) and not is_amqp(value):
            notices.append(f"{key}: it does not begin with amqp, so that nothing is announced, as with Stor")
        elif key not in _READERS:
            raise ConfigInvalidError(f"{key} is no setting of Stor, whose file this seems to be")
        elif value is not None:
            found |= _READERS[key](value, values)
    return found, notices


def _plain(key: str) -> Callable[[Any, Mapping[str, Any]], dict[str, Any]]:
    return lambda value, _: {key: value}


def _s3(credentials: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    if values.get("s3_enabled") != "true":
        return {}
    given = _table("s3_credentials", credentials, ("access_key", "secret_key", "host"))
    if not given.get("host"):
        raise ConfigInvalidError("s3_credentials: host is missing, and s3_enabled is true")
    keys = {"access_key": "s3AccessKey", "secret_key": "s3SecretKey"}
    return {keys[name]: value for name, value in given.items() if name in keys} | {
        "s3Endpoint": f"http://{given['host']}",
        "fileSources": ["layout", "s3", "pairs"],
    }


def _s3_enabled(value: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    if value not in ("true", "false"):
        raise ConfigInvalidError("s3_enabled is neither true nor false")
    if value == "true" and not values.get("s3_credentials"):
        raise ConfigInvalidError("s3_credentials is missing, and s3_enabled is true")
    return {}


def _statsite(value: Any, _: Mapping[str, Any]) -> dict[str, Any]:
    given = _table("statsite", value, ("host", "port", "prefix", "sample_rate", "proto"))
    if given.get("proto", "udp") != "udp":
        raise ConfigInvalidError("statsite: proto is not udp, which is all that nekko speaks to it")
    found = {"statsdServer": f"{given.get('host', 'localhost')}:{given.get('port', 8125)}"}
    keys = {"prefix": "statsdPrefix", "sample_rate": "statsdSampleRate"}
    return found | {keys[name]: value for name, value in given.items() if name in keys and value}


def _table(key: str, value: Any, known: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigInvalidError(f"{key} is no table of {', '.join(known)}")
    if unknown := sorted(set(value) - set(known)):
        raise ConfigInvalidError(f"{key}: {unknown[0]} is no setting of Stor: it has {', '.join(known)}")
    return value


_READERS: Mapping[str, Callable[[Any, Mapping[str, Any]], dict[str, Any]]] = {
    "storage_pairs": _plain("storagePairs"),
    "writable_pairs_regex": _plain("writablePairsRegex"),
    "basic_auth": lambda value, _: {"basicAuth": [value]},  # one account, whose password may have a comma
    "rabbitmq_uri": _plain("rabbitmqUri"),
    "memcached_servers": _plain("memcachedServers"),
    "s3_enabled": _s3_enabled,
    "s3_credentials": _s3,
    "statsite": _statsite,
}
