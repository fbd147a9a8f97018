"""Where settings come from: defaults < file < environment < flags, each value with its origin.

All sources give text (lists and tables of it in a file), which cattrs structures into the frozen classes by the
grammar of each setting. Every refusal is one line: `key (origin): reason`.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cattrs import Converter
from cattrs.gen import make_dict_structure_fn, override

from nekko.config import grammar
from nekko.config.checks import (
    check_accounts,
    check_borrowing,
    check_certificates,
    check_host,
    check_mirrors,
    check_object_store,
    check_storages,
)
from nekko.config.file import read_file
from nekko.config.ociregistry import DIALECT, from_ociregistry, is_ociregistrys, our_key
from nekko.config.settings import Declaration, Host, PruneConfig, Settings, declarations_of, flag_name
from nekko.config.stor import from_stor, is_stors
from nekko.errors import ConfigInvalidError

FILE_FLAG, FILE_ENVIRONMENT = "--config-file", "CONFIG_FILE"

_T = TypeVar("_T", Settings, Host, PruneConfig)


@dataclass(frozen=True, slots=True)
class Effective:
    """The settings of this process, and for each key where it came from.

    An origin is `default`, `file /etc/nekko.yaml`, `environment CACHE_DIR` or `flag --cache-dir`.
    """

    settings: Settings
    origin: Mapping[str, str]
    notices: tuple[str, ...] = ()
    """What was said in the file and means nothing here, with the reason."""


def load(flags: Mapping[str, object], environ: Mapping[str, str]) -> Effective:
    """Merge and check all sources, and check that this host has what they name.

    Args:
        flags: By field name, and `config_file`; a list setting takes a sequence. None and () stand for not given.
            By `DIALECT`, those of ociregistry by its keys: with it, even if it is empty, its defaults hold.
        environ: The environment. Empty values are ignored.

    Raises:
        ConfigInvalidError: As `read`; also a cache directory that cannot be used, or a file that cannot be read.
    """
    effective = read(flags, environ)
    check_host(effective.settings, effective.origin)
    return effective


def read(flags: Mapping[str, object], environ: Mapping[str, str]) -> Effective:
    """Merge and check all sources as `load` does, without a look at what they name on this host.

    Raises:
        ConfigInvalidError: An unknown key or variable, or a value that cannot be used; one line.
    """
    declared = declarations_of(Settings)
    values: dict[str, object] = {}
    origin = {declaration.key: "default" for declaration in declared}
    in_file, in_dialect, notices = _from_file(flags, environ)
    for found, source in (
        in_file,
        _from_environment(declared, environ),
        in_dialect,
        _from_flags(declared, flags),
    ):
        values |= found
        origin |= source
    settings = _structure(Settings, values, {key: f"{key} ({source})" for key, source in origin.items()})
    check_certificates(settings, origin)
    check_mirrors(settings, origin)
    check_storages(settings, origin)
    check_object_store(settings, origin)
    check_accounts(settings, origin)
    check_borrowing(settings, origin)
    return Effective(settings, origin, notices)


_Found = tuple[dict[str, object], dict[str, str]]
"""Values by key, and their origins by key."""


def _from_file(flags: Mapping[str, object], environ: Mapping[str, str]) -> tuple[_Found, _Found, tuple[str, ...]]:
    """Give what the file says, what flags of ociregistry say, and notices of what of that means nothing here."""
    text, source = flags.get("config_file"), f"flag {FILE_FLAG}"
    if text is None:
        text, source = environ.get(FILE_ENVIRONMENT) or None, f"environment {FILE_ENVIRONMENT}"
    spoken = flags.get(DIALECT)
    values: dict[str, Any] = {}
    place = "flags of ociregistry"
    if text is not None:
        try:
            path = grammar.path(str(text))
            values = read_file(path)
        except ConfigInvalidError as error:
            raise ConfigInvalidError(f"configFile ({source}): {error}") from error
        place = f"file {path}"
    elif spoken is None:
        return ({}, {}), ({}, {}), ()
    notices: list[str] = []
    said: Mapping[str, Any] = spoken if isinstance(spoken, Mapping) else {}
    try:
        if is_stors(values):
            values, notices = from_stor(values)
        elif spoken is not None or is_ociregistrys(values):
            values, notices = from_ociregistry({**values, **said}, _KEYS)
            notices.insert(0, "taken as ociregistry takes them, and its defaults hold: see docs/registry.md")
    except ConfigInvalidError as error:
        raise ConfigInvalidError(f"{place}: {error}") from error
    _refuse_unknown(values, _KEYS, f"{place}: ")
    given = {key: value for key, value in values.items() if value is not None}
    by_flag = {our_key(key): f"flag {flag_name(key)}" for key in said}
    in_file = {key: value for key, value in given.items() if key not in by_flag}
    in_flags = {key: value for key, value in given.items() if key in by_flag}
    return (
        (in_file, dict.fromkeys(in_file, place)),
        (in_flags, {key: by_flag[key] for key in in_flags}),
        tuple(f"{place}: {notice}" for notice in notices),
    )


def _from_environment(declared: Iterable[Declaration], environ: Mapping[str, str]) -> _Found:
    given = {name: value for name, value in environ.items() if value}
    known = [FILE_ENVIRONMENT, *(name for declaration in declared for name in declaration.environment)]
    _refuse_unknown([name for name in given if name.startswith("NEKKO_")], known, "environment ")
    values: dict[str, object] = {}
    origin = {}
    for declaration in declared:
        for name in declaration.environment:
            if name in given and declaration.key not in values:
                values[declaration.key] = given[name]
                origin[declaration.key] = f"environment {name}"
    return values, origin


def _from_flags(declared: Iterable[Declaration], flags: Mapping[str, object]) -> _Found:
    by_name = {declaration.name: declaration for declaration in declared if declaration.flag}
    values: dict[str, object] = {}
    origin = {}
    for name, value in flags.items():
        if name in ("config_file", DIALECT) or value is None or value == ():
            continue
        declaration = by_name[name]  # a name that is no flag is the caller's bug
        values[declaration.key] = [str(item) for item in value] if isinstance(value, (list, tuple)) else str(value)
        origin[declaration.key] = f"flag {declaration.flag}"
    return values, origin


def _refuse_unknown(given: Iterable[str], known: Sequence[str], where: str) -> None:
    for name in given:
        if name in known:
            continue
        plain = {_plain(candidate): candidate for candidate in known}
        near = difflib.get_close_matches(_plain(name), plain, n=1)
        hint = f": did you mean {plain[near[0]]}?" if near else ""
        raise ConfigInvalidError(f"{where}{name[:200]} is no setting of nekko{hint}")


def _plain(name: str) -> str:
    """Reduce a name to what a slip of the keyboard leaves: `cache-dir` and `NEKKO_CACHE_DIR` are near `cacheDir`."""
    return name.lower().removeprefix("nekko_").replace("_", "").replace("-", "")


def _structure(cls: type[_T], values: Mapping[str, object], shown: Mapping[str, str]) -> _T:
    """Make a settings class of values by key; `shown` names each key in messages."""
    converter = _converter()
    overrides: dict[str, Any] = {
        declaration.name: override(
            rename=declaration.key,
            struct_hook=_naming(shown.get(declaration.key, declaration.key), _reader(declaration, converter)),
        )
        for declaration in declarations_of(cls)
    }
    structure = make_dict_structure_fn(cls, converter, **overrides)
    return structure(values, cls)


def _converter() -> Converter:
    # Without "detailed validation" an error leaves as it was raised; `_naming` adds the key to it.
    converter = Converter(detailed_validation=False)
    for cls, reader in {
        str: grammar.text, int: grammar.count, float: grammar.seconds, bool: grammar.switch, Path: grammar.path,
    }.items():  # fmt: skip
        converter.register_structure_hook(cls, _one(reader))
    return converter


def _reader(declaration: Declaration, converter: Converter) -> Callable[[Any, Any], Any]:
    if declaration.field.type is PruneConfig:
        return _prune_config
    if declaration.is_table:
        return _hosts
    if declaration.is_list:
        return _list_of(declaration.read or grammar.text, declaration.separator, is_nested=declaration.is_nested)
    if declaration.read:
        return _one(declaration.read)
    return converter.get_structure_hook(declaration.field.type)


def _naming(shown: str, reader: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def read_named(value: Any, cls: Any) -> Any:
        try:
            return reader(value, cls)
        except ConfigInvalidError as error:
            raise ConfigInvalidError(f"{shown}: {error}") from error

    return read_named


def _one(reader: Callable[[str], Any]) -> Callable[[Any, Any], Any]:
    def read_one(value: Any, _: Any) -> Any:
        if not isinstance(value, str):
            raise ConfigInvalidError("takes one value, not a list or a table")
        return reader(value)

    return read_one


def _list_of(reader: Callable[[str], Any], separator: str, *, is_nested: bool) -> Callable[[Any, Any], Any]:
    """Make the reader of a list; an item of a nested one may be a list itself, of what its text parts by colons."""

    def read_list(value: Any, _: Any) -> tuple[Any, ...]:
        items = [item.strip() for item in re.split(separator, value)] if isinstance(value, str) else value
        if is_nested and isinstance(items, list):
            items = [":".join(map(str, item)) if isinstance(item, list) else item for item in items]
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise ConfigInvalidError("takes a list of values")
        return tuple(reader(grammar.text(item)) for item in items)

    return read_list


def _hosts(value: Any, _: Any) -> dict[str, Host]:
    if not isinstance(value, dict):
        raise ConfigInvalidError("takes a table of hosts, each with a table of its settings")
    return {grammar.host(name): _naming(name, _host)(table, Host) for name, table in value.items()}


def _host(value: Any, _: Any) -> Host:
    if value is None:
        return Host()
    if not isinstance(value, dict):
        raise ConfigInvalidError("takes a table of settings")
    _refuse_unknown(value, _HOST_KEYS, "")
    return _structure(Host, {key: item for key, item in value.items() if item is not None}, {})


def _prune_config(value: Any, _: Any) -> PruneConfig:
    if not isinstance(value, dict):
        raise ConfigInvalidError("takes a table of settings")
    if "dryrun" in value:  # what ociregistry reads, where its documents have dryRun
        value = {"dryRun": value["dryrun"]} | {key: item for key, item in value.items() if key != "dryrun"}
    _refuse_unknown(value, _PRUNE_KEYS, "")
    found = _structure(PruneConfig, {key: item for key, item in value.items() if item is not None}, {})
    if found.type == "pattern" and found.expr is None:
        raise ConfigInvalidError("type pattern: expr is missing, they go together")
    return found


_KEYS = [declaration.key for declaration in declarations_of(Settings)]
_HOST_KEYS = [declaration.key for declaration in declarations_of(Host)]
_PRUNE_KEYS = [declaration.key for declaration in declarations_of(PruneConfig)]
