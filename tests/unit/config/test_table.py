from pathlib import Path

import pytest

from nekko.config.settings import Host, Settings, declarations_of
from nekko.config.table import END, START, insert, main, markdown

README = Path(__file__).parents[3] / "README.md"


def test_readme_has_the_table_of_the_code() -> None:
    document = README.read_text("utf-8")
    assert insert(document) == document, "run: make readme"


def test_table_names_every_setting_and_none_of_a_secrets_flags() -> None:
    table = markdown()
    for declaration in (*declarations_of(Settings), *declarations_of(Host)):
        assert f"| `{declaration.key}` |" in table
    assert "`--tokens`" not in table
    assert "`NEKKO_HOSTS`" not in table
    assert "| `minFreeSpace` | `--min-free-space` | `NEKKO_MIN_FREE_SPACE` | `256MiB` |" in table


def test_table_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    document = tmp_path / "x.md"
    document.write_text(f"before\n{START}\nold\n{END}\nafter\n", "utf-8")
    main([str(document)])
    assert document.read_text("utf-8") == f"before\n{START}\n{markdown()}{END}\nafter\n"


@pytest.mark.parametrize("document", ["", START, END])
def test_document_without_markers_is_refused(document: str) -> None:
    with pytest.raises(ValueError, match="settings"):
        insert(document)
