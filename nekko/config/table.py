"""The table of settings, generated: `python -m nekko.config.table README.md` writes it between the file's markers."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from nekko.config import grammar
from nekko.config.settings import Declaration, Host, PruneConfig, Settings, declarations_of
from nekko.config.sources import FILE_ENVIRONMENT, FILE_FLAG

START, END = "<!-- settings -->", "<!-- /settings -->"


def markdown() -> str:
    """Give the tables of all settings and of those of one host, as Markdown that ends in a line break."""
    file_row = (f"`{FILE_FLAG}`", f"`{FILE_ENVIRONMENT}`", "", "a YAML file with the keys of this table")
    lines = [
        *_rows("Key", "Flag", "Environment", "Default", "Meaning"),
        _row("", *file_row),
        *(
            _row(_code(d.key), _code(d.flag), ", ".join(map(_code, d.environment)), _default(d), d.help)
            for d in declarations_of(Settings)
        ),
        "",
        "Below `hosts`, by `host` or `host:port`, in the file only:",
        "",
        *_rows("Key", "Default", "Meaning"),
        *(_row(_code(d.key), _default(d), d.help) for d in declarations_of(Host)),
        "",
        "Below `pruneConfig`, in the file only:",
        "",
        *_rows("Key", "Default", "Meaning"),
        *(_row(_code(d.key), _default(d), d.help) for d in declarations_of(PruneConfig)),
    ]
    return "\n".join(lines) + "\n"


def insert(document: str) -> str:
    """Give a document with the table between its markers.

    Raises:
        ValueError: A marker is missing.
    """
    before, start, rest = document.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"no {START} … {END} in it")
    return f"{before}{START}\n{markdown()}{END}{after}"


def main(arguments: Sequence[str]) -> None:
    """Rewrite the table in each file named."""
    for name in arguments:
        path = Path(name)
        path.write_text(insert(path.read_text("utf-8")), "utf-8")


def _rows(*heads: str) -> Iterable[str]:
    return _row(*heads), _row(*("---" for _ in heads))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def _default(declaration: Declaration) -> str:
    return ", ".join(map(_code, default_texts(declaration)))


def default_texts(declaration: Declaration) -> list[str]:
    """Give the default as it is written in a file: one text for each item of a list, none where there is no default."""
    value = declaration.default
    if value is None or declaration.is_table:
        return []
    if isinstance(value, tuple):
        return list(value)
    if declaration.name.endswith("_bytes"):
        return [grammar.size_text(value)]
    if declaration.read in (grammar.duration, grammar.positive_duration, grammar.age):
        return [grammar.duration_text(value)]
    return [str(value).lower() if isinstance(value, bool) else str(value)]


if __name__ == "__main__":
    main(sys.argv[1:])
