"""The grammar of proxies."""

import pytest

from nekko.config.proxy import Proxy, parse_proxy
from nekko.errors import ConfigInvalidError


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://p:3128", Proxy("http", "p", 3128)),
        ("https://p.example.com/", Proxy("https", "p.example.com", 443)),
        ("p.example.com:3128", Proxy("http", "p.example.com", 3128)),
        ("http://[::1]:8080", Proxy("http", "::1", 8080)),
        ("http://ann:p%40ss%3Aword@p:1", Proxy("http", "p", 1, "ann", "p@ss:word")),
        ("http://ann@p:1", Proxy("http", "p", 1, "ann", "")),
        ("none", None),
        ("NONE", None),
    ],
)
def test_proxy_is_read(text: str, proxy: Proxy | None) -> None:
    assert parse_proxy(text) == proxy


@pytest.mark.parametrize(
    "text",
    ["", "http://", "http://:3128", "http://p:0", "http://p:99999", "http://p:x", "http://[::1", "http://p/path",
     "http://p?q", "http://p#f", "http://p q", "http://p\r\nX: y"],
)  # fmt: skip
def test_text_that_is_no_proxy_is_refused(text: str) -> None:
    with pytest.raises(ConfigInvalidError, match="proxy") as refusal:
        parse_proxy(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("scheme", ["socks5", "socks4", "ftp"])
def test_other_kinds_of_proxy_are_refused_in_words(scheme: str) -> None:
    with pytest.raises(ConfigInvalidError, match=f"by http or https, not by '{scheme}'"):
        parse_proxy(f"{scheme}://p:1080")


@pytest.mark.parametrize("text", ["socks5://ann:s3cret@p", "http://ann:s3cret@p:x", "http://ann:s3cret@p/x"])
def test_refusal_does_not_show_the_password(text: str) -> None:
    with pytest.raises(ConfigInvalidError) as refusal:
        parse_proxy(text)
    assert "s3cret" not in str(refusal.value)


def test_text_of_a_proxy_has_no_password() -> None:
    proxy = parse_proxy("http://ann:s3cret@[::1]:3128")
    assert str(proxy) == "http://[::1]:3128"
    assert "s3cret" not in repr(proxy)
