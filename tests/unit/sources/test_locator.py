"""Locators: every form of URL that the content API documents, one name per source, and no secret in any text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.errors import DigestInvalidError, InvalidError, LocatorInvalidError, ReferenceInvalidError
from nekko.oci.digest import Digest
from nekko.sources.http import HttpLocator
from nekko.sources.locator import parse_locator
from nekko.sources.oci import OciLocator

SHA256, SHA512 = Digest.of(b"content"), Digest.of(b"content", "sha512")
REF_COMPONENT = r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"  # image-spec, annotations.md
REF_NAME = re.compile(f"{REF_COMPONENT}(?:/{REF_COMPONENT})*")


def http(text: str) -> HttpLocator:
    locator = parse_locator(text)
    assert isinstance(locator, HttpLocator)
    return locator


# --- oci://


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("oci://ghcr.io/org/model:v1", "ghcr.io/org/model:v1"),
        ("oci://ghcr.io/org/model", "ghcr.io/org/model:latest"),
        ("oci://localhost:5000/org/model:v1", "localhost:5000/org/model:v1"),
        ("oci://localhost/model", "localhost/model:latest"),
        (f"oci://ghcr.io/org/model@{SHA256}", f"ghcr.io/org/model@{SHA256}"),
        (f"oci://ghcr.io/org/model@{SHA512}", f"ghcr.io/org/model@{SHA512}"),
        (f"oci://ghcr.io/org/model:v1@{SHA256}", f"ghcr.io/org/model@{SHA256}"),
        ("oci://docker.io/alpine", "docker.io/library/alpine:latest"),
        ("oci://index.docker.io/alpine", "docker.io/library/alpine:latest"),
        ("oci://[::1]:5000/a/b:c", "[::1]:5000/a/b:c"),
        ("oci://r.io/a/b/c/d/e:t", "r.io/a/b/c/d/e:t"),
        ("OCI://GHCR.io/org/model:V1", "ghcr.io/org/model:V1"),
    ],
)
def test_oci_url_is_named_by_its_reference(text: str, name: str) -> None:
    locator = parse_locator(text)
    assert isinstance(locator, OciLocator)
    assert locator.name == locator.reference.name == name
    assert (locator.given, locator.credentials) == (text, None)


def test_oci_url_with_tag_and_digest_keeps_the_tag() -> None:
    locator = parse_locator(f"oci://ghcr.io/org/model:v1@{SHA256}")
    assert isinstance(locator, OciLocator)
    assert (locator.reference.tag, locator.reference.digest) == ("v1", SHA256)


def test_oci_url_with_userinfo_and_digest_splits_at_the_right_signs() -> None:
    locator = parse_locator(f"oci://user:p%40w@r.io:5000/a/b@{SHA256}")
    assert (locator.name, locator.given) == (f"r.io:5000/a/b@{SHA256}", f"oci://r.io:5000/a/b@{SHA256}")
    assert locator.credentials is not None
    assert locator.credentials.user_password() == ("user", "p@w")


@pytest.mark.parametrize(
    "text",
    ["oci://", "oci:///a/b", "oci://alpine", "oci://registry/model", "oci://r.io", "oci://r.io?x", "oci://r.io#x"],
)
def test_oci_url_names_its_registry(text: str) -> None:
    with pytest.raises(
        LocatorInvalidError, match=r"wants a registry and a repository, such as oci://docker\.io/alpine"
    ):
        parse_locator(text)


@pytest.mark.parametrize("text", ["oci://r.io/", "oci://r.io/A", "oci://r.io/a:", "oci://r.io/a?x=1", "oci://r.io:0/a"])
def test_oci_url_with_a_wrong_reference_is_refused(text: str) -> None:
    with pytest.raises(ReferenceInvalidError):
        parse_locator(text)


def test_oci_url_with_a_wrong_digest_is_refused() -> None:
    with pytest.raises(DigestInvalidError):
        parse_locator("oci://r.io/a@sha256:0")


# --- http:// and https://


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h/a", "http://h/a"),
        ("HTTPS://H.Example.COM/A/b", "https://h.example.com/A/b"),
        ("http://h:80/a", "http://h/a"),
        ("http://h:080/a", "http://h/a"),
        ("http://h:/a", "http://h/a"),
        ("https://h:443/a", "https://h/a"),
        ("https://h:80/a", "https://h:80/a"),
        ("http://h:443/a", "http://h:443/a"),
        ("http://h:08080/a", "http://h:8080/a"),
        ("http://h", "http://h/"),
        ("http://h?x=1", "http://h/?x=1"),
        ("http://h#f", "http://h/"),
        ("http://h/a#f?x", "http://h/a"),
        ("http://h/a?", "http://h/a?"),
        ("http://h/a?b=1&a=2&b=%7e+%2B//../?", "http://h/a?b=1&a=2&b=%7e+%2B//../?"),
        ("http://h/%7Ea/%2F%2e/a;b=c:@!$&'()*+,", "http://h/%7Ea/%2F%2e/a;b=c:@!$&'()*+,"),
        ("http://h/a b?c d", "http://h/a%20b?c%20d"),
        ("http://h/ü?ü=\N{GRINNING FACE}", "http://h/%C3%BC?%C3%BC=%F0%9F%98%80"),
        ('http://h/"<>^`{|}', "http://h/%22%3C%3E%5E%60%7B%7C%7D"),
        ("http://h/100%?a=%zz", "http://h/100%25?a=%25zz"),
        ("http://h/a//b/", "http://h/a//b/"),
        ("http://exämple.com/a", "http://xn--exmple-cua.com/a"),
        ("http://EXÄMPLE。com:81/a", "http://xn--exmple-cua.com:81/a"),
        ("http://h.example./a", "http://h.example/a"),
        ("http://my_host/a", "http://my_host/a"),
        ("http://127.0.0.1:8000/a", "http://127.0.0.1:8000/a"),
        ("http://[::1]/a", "http://[::1]/a"),
        ("http://[2001:DB8:0::1]:8080/a", "http://[2001:db8::1]:8080/a"),
        ("http://user:pw@h/a@b", "http://h/a@b"),
        ("http://h/a?u=http://x:y@z/", "http://h/a?u=http://x:y@z/"),
    ],
)
def test_http_url_is_named_by_its_canonical_form(text: str, url: str) -> None:
    locator = http(text)
    assert locator.name == locator.url == url
    assert http(url).name == url


def test_http_url_keeps_the_query_in_its_identity() -> None:
    assert len({http(f"http://h/a{query}").name for query in ("", "?", "?x=1", "?x=2", "?X=1")}) == 5


@pytest.mark.parametrize(
    ("text", "host"),
    [("http://H/a", "h"), ("https://h:443", "h"), ("https://h:80", "h:80"), ("http://[::1]:81/", "[::1]:81")],
)
def test_http_host_has_the_port_that_is_not_the_usual_one(text: str, host: str) -> None:
    assert http(text).host == host


@pytest.mark.parametrize(
    ("text", "file_name"),
    [
        ("http://h/a/m.gguf", "m.gguf"),
        ("http://h/a/m.gguf?x=/y", "m.gguf"),
        ("http://h/a/b//", "b"),
        ("http://h/a/?x", "a"),
        ("http://h", "h"),
        ("http://h:81///", "h:81"),
        ("http://h/a%20b", "a b"),
        ("http://h/%C3%BC", "ü"),
        ("http://h/%ff", "\N{REPLACEMENT CHARACTER}"),
        ("http://h/a%2Fb", "a_b"),
        ("http://h/..%2F..%2Fetc%2Fpasswd", ".._.._etc_passwd"),
        ("http://h/a%00%0Ab%C2%9B", "a__b_"),
        ("http://h/a/..", "__"),
        ("http://h/a/%2e%2E/", "__"),
        ("http://h/.", "_"),
        ("http://h/...", "..."),
        ("http://h/" + "a" * 300, "a" * 255),
        ("http://h/a" + "ü" * 200, "a" + "ü" * 127),
    ],
)
def test_http_file_name_is_a_safe_component(text: str, file_name: str) -> None:
    assert http(text).file_name == file_name


@pytest.mark.parametrize(
    "text",
    [
        "http://", "http:///a", "http://?x", "http://#", "http://:80/", "http://user@/a", "http://./a", "http://../a",
        "http://a..b/", "http://-a/", "http://a-/", "http://a b/", "http://a%41/", "http://a*b/", "http://" + "a" * 64,
        "http://" + "a." * 127 + "a", "http://ü" + "a" * 300, "http://xn--ü/", "http://\u200d/", "http://a\u3002\u3002b/",
        "http://h:x/", "http://h:-1/", "http://h:0/", "http://h:65536/", "http://h:123456/", "http://h:80:80/",
        "http://h:\u0661/", "http://::1/", "http://[::1/", "http://::1]/", "http://[::1]a/", "http://[:::]/",
        "http://[fe80::1%25eth0]/", "http://[]/", "http://[1.2.3.4]/",
    ],
)  # fmt: skip
def test_http_url_with_a_wrong_host_or_port_is_refused(text: str) -> None:
    with pytest.raises(LocatorInvalidError, match=r"host|port"):
        parse_locator(text)


# --- userinfo


@pytest.mark.parametrize(
    ("userinfo", "pair"),
    [
        ("user:pw", ("user", "pw")),
        ("user", ("user", "")),
        ("user:", ("user", "")),
        (":token", ("", "token")),
        ("us%20er:p%3Aw%2F%40", ("us er", "p:w/@")),
        ("user:a:b", ("user", "a:b")),
        ("user:a@b", ("user", "a@b")),
        ("%C3%BC:ü+", ("ü", "ü+")),
        ("user:100%", ("user", "100%")),
    ],
)
def test_userinfo_becomes_basic_credentials_and_leaves_every_text(userinfo: str, pair: tuple[str, str]) -> None:
    locator = http(f"Http://{userinfo}@H:80/a?b#c")
    assert locator.credentials is not None
    assert (locator.credentials.kind, locator.credentials.user_password()) == ("Basic", pair)
    assert (locator.given, locator.url, locator.host) == ("Http://H:80/a?b#c", "http://h/a?b", "h")


@pytest.mark.parametrize("text", ["http://h/a", "http://@h/a"])
def test_url_without_userinfo_has_no_credentials(text: str) -> None:
    assert http(text).credentials is None


@pytest.mark.parametrize(
    ("userinfo", "words"),
    [("%ff:secret", "not UTF-8"), ("user:secret%ff", "not UTF-8"), ("us%3Aer:secret", "colon"),
     ("user:secret%0d%0a", "control character"), ("user%00:secret", "control character")],
)  # fmt: skip
def test_userinfo_that_basic_cannot_carry_is_refused(userinfo: str, words: str) -> None:
    with pytest.raises(LocatorInvalidError, match=words) as caught:
        parse_locator(f"http://{userinfo}@h/")
    assert "secret" not in str(caught.value)


def test_repr_hides_the_credentials() -> None:
    shown = repr(parse_locator("http://user:secret@h/a"))
    assert "secret" not in shown
    assert "Credentials" not in shown


@pytest.mark.parametrize("scheme", ["http", "https", "oci", "hf", "ftp", "x y", ""])
@pytest.mark.parametrize(
    "rest",
    [
        "user:secret@", "user:secret@h.io:x/a", "user:secret@-/a", "user:se/secret@h.io/a", "user:se?secret@h.io/a",
        "user:se#secret@h.io/a", "user:99999/secret@h.io/a", "user:secret@h.io/\x00", "user:secret@h.io/\\",
        "user:secret@[::1/a", "user:se/secret@x@h.io/a",
    ],
)  # fmt: skip
def test_no_error_shows_a_password(scheme: str, rest: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_locator(f"{scheme}://{rest}")
    error: BaseException | None = caught.value
    while error is not None:  # a traceback in a log shows the causes too
        assert "secret" not in str(error)
        error = error.__cause__


@pytest.mark.parametrize("reference", ["r.io/A", "r.io/a:@", "r.io:x/a", "r.io/a@sha256:0"])
def test_no_error_of_a_reference_shows_a_password(reference: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_locator(f"oci://user:secret@{reference}")
    assert "secret" not in str(caught.value)


# --- schemes and limits


@pytest.mark.parametrize("scheme", ["ftp", "file", "s3", "git+ssh"])
def test_unknown_scheme_is_named_with_what_is_supported(scheme: str) -> None:
    expected = f"{scheme}:// is not a scheme that nekko knows: it fetches oci://, hf://, huggingface://, ollama://, http://, https://"
    with pytest.raises(LocatorInvalidError, match=re.escape(expected)):
        parse_locator(f"{scheme}://h/a")


@pytest.mark.parametrize(
    "text", ["", "h/a", "/a", "//h/a", "http:/h", "http:h", "://h", "1http://h", " http://h", "ü://h"]
)
def test_text_without_a_scheme_is_refused(text: str) -> None:
    with pytest.raises(LocatorInvalidError, match="without a scheme, such as https:// or oci://"):
        parse_locator(text)


@pytest.mark.parametrize("code", [0x00, 0x09, 0x0A, 0x0D, 0x1B, 0x7F, 0x85, 0x9B, ord("\\"), 0xD800, 0xDFFF])
def test_character_that_readers_disagree_on_is_refused(code: int) -> None:
    with pytest.raises(LocatorInvalidError, match="control character, a backslash or a lone surrogate"):
        parse_locator(f"http://h/a{chr(code)}b")


def test_url_of_the_greatest_length_is_taken_and_one_more_is_not() -> None:
    text = "http://h/".ljust(8192, "a")
    assert http(text).url == text
    with pytest.raises(LocatorInvalidError, match="URL of 8193 characters: at most 8192"):
        parse_locator(text + "a")


# --- names in a layout


@pytest.mark.parametrize(
    "text",
    [
        "oci://ghcr.io/org/model:v1",
        "oci://localhost:5000/a:V1.2-x",
        f"oci://ghcr.io/org/model@{SHA256}",
        f"oci://ghcr.io/org/model@{SHA512}",
        "oci://docker.io/alpine",
    ],
)
def test_ref_name_is_the_name_where_that_is_legal(text: str) -> None:
    locator = parse_locator(text)
    assert locator.ref_name == locator.name
    assert REF_NAME.fullmatch(locator.ref_name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("oci://r.io/m:foo__bar", "r.io/m-foo-bar"),
        ("oci://r.io/m:_x", "r.io/m-x"),
        ("oci://r.io/m:x-", "r.io/m-x"),
        ("oci://r.io/m:a..b", "r.io/m-a-b"),
        ("oci://r.io/a__b:v1", "r.io/a-b-v1"),
        ("oci://[::1]:5000/a:v1", "1-5000/a-v1"),
        ("http://h/a/m.gguf", "h/a/m.gguf"),
        ("https://h.io:81/a_b//c?token=x", "h.io-81/a-b/c"),
        ("http://h", "h"),
        ("http://h/" + "ab/" * 40, "h/" + "ab/" * 32 + "ab"),
    ],
)
def test_ref_name_is_readable_words_and_a_hash_otherwise(text: str, words: str) -> None:
    ref_name = parse_locator(text).ref_name
    assert re.fullmatch(re.escape(words) + "-[0-9a-f]{12}", ref_name)
    assert REF_NAME.fullmatch(ref_name)


def test_ref_name_of_a_name_without_words_is_its_hash() -> None:
    assert re.fullmatch("[0-9a-f]{12}", parse_locator("http://_").ref_name)


def test_ref_names_differ_where_names_do() -> None:
    texts = [
        "oci://r.io/m:foo__bar", "oci://r.io/m:foo-bar", "oci://r.io/m:foo_bar", "oci://r.io/m:foo-_bar",
        "http://r.io/m", "https://r.io/m", "http://r.io/m/", "http://r.io/m?", "http://r.io/m?x", "http://r.io:81/m",
    ]  # fmt: skip
    assert len({parse_locator(text).ref_name for text in texts}) == len(texts)


def test_derived_ref_name_is_never_the_legal_name_of_an_image() -> None:
    derived = parse_locator("http://r.io/m:v1@x").ref_name
    assert not set(derived) & set(":@")


# --- anything at all

_TAILS = st.one_of(st.text(), st.text(alphabet="aZ09.-_~:/?#[]@!%41üß。\u200d "))


@given(st.one_of(st.text(), st.builds("{}://{}".format, st.sampled_from(["http", "https", "oci", "HTTP"]), _TAILS)))
def test_any_text_is_a_stable_locator_or_invalid(text: str) -> None:
    try:
        locator = parse_locator(text)
    except InvalidError:
        return
    assert REF_NAME.fullmatch(locator.ref_name)
    if isinstance(locator, HttpLocator):
        again = http(locator.url)
        assert (again.url, again.host, again.file_name) == (locator.url, locator.host, locator.file_name)
        assert again.credentials is None
        assert re.fullmatch(r"[!-~]+", locator.url)
        assert locator.file_name not in ("", ".", "..")
        assert "/" not in locator.file_name
        assert len(locator.file_name.encode()) <= 255
    else:
        assert parse_locator(f"oci://{locator.name}").name == locator.name


@given(st.text(st.characters(exclude_characters="/?#\\", exclude_categories=["Cs", "Cc"]), min_size=3))
def test_any_userinfo_stays_out_of_every_text(userinfo: str) -> None:
    try:
        locator = parse_locator(f"https://{userinfo}@h/a")
    except InvalidError:
        return
    assert (locator.given, locator.name) == ("https://h/a", "https://h/a")
    assert locator.credentials is not None
