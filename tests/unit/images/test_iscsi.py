"""What open-iscsi's records are made to say, and how sessions are named."""

import pytest

from nekko.images.iscsi import Session, with_settings

RECORD = """# BEGIN RECORD 2.1.8
node.name = iqn.2026-01.example:disk
node.session.auth.authmethod = CHAP
node.session.auth.password = old
node.conn[0].address = 127.0.0.1
# END RECORD
"""


def test_settings_take_the_place_of_those_of_their_names() -> None:
    secrets = {"node.session.auth.password": "a = b # c", "node.session.auth.password_in": "two"}
    assert with_settings(RECORD, secrets) == RECORD.replace("node.session.auth.password = old\n", "").replace(
        "# END", "node.session.auth.password = a = b # c\nnode.session.auth.password_in = two\n# END"
    )


def test_settings_are_added_to_a_record_without_an_end() -> None:
    assert with_settings("a = 1", {"b": "2"}) == "a = 1\nb = 2\n"


@pytest.mark.parametrize(("address", "portal"), [("127.0.0.1", "127.0.0.1:3260"), ("fe80::1", "[fe80::1]:3260")])
def test_session_is_read_as_it_was_written(address: str, portal: str) -> None:
    session = Session.wanted("iqn.2026-01.example:disk", address, 3260, "iqn.2026-01.example:node")
    assert Session.parse(str(session)) == session
    assert session.portal == portal


def test_terms_make_a_session_another_one() -> None:
    named = {Session.wanted("iqn.x:t", "::1", 3260, *terms).interface for terms in (("a", 1), ("a", 2), ("b", 1))}
    assert len(named) == 3
    assert all(len(each) <= 64 for each in named)  # open-iscsi's limit
