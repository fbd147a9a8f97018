import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.config.file import MAX_FILE_BYTES
from nekko.config.plain import REDACTED, to_plain
from nekko.config.settings import Host, Settings
from nekko.config.sources import load, read
from nekko.errors import ConfigInvalidError

NOBODY = 65534


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "nekko.yaml"


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Run as somebody whom permissions bind."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


def refusal_of(file: Path, text: str, environ: dict[str, str] | None = None, **flags: object) -> str:
    """Load a file that must be refused; give the one line that says why."""
    file.write_text(text)
    with pytest.raises(ConfigInvalidError) as refusal:
        load({"config_file": file, "cache_dir": file.parent, **flags}, environ or {})
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_no_source_gives_the_defaults() -> None:
    effective = read({}, {})
    assert effective.settings == Settings()
    assert set(effective.origin.values()) == {"default"}
    assert set(effective.origin) == set(to_plain(Settings()))


def test_each_source_wins_over_the_one_before(file: Path) -> None:
    file.write_text("cacheDir: /file\nmaxTransfers: 2\nmaxAttempts: 3\nverbose: 1\n")
    environ = {"CACHE_DIR": "/environment", "NEKKO_MAX_TRANSFERS": "4", "CONFIG_FILE": str(file)}
    effective = read({"cache_dir": "/flag", "address": ()}, environ)
    settings = effective.settings
    assert (settings.cache_dir, settings.max_transfers, settings.max_attempts) == (Path("/flag"), 4, 3)
    assert effective.origin["cacheDir"] == "flag --cache-dir"
    assert effective.origin["maxTransfers"] == "environment NEKKO_MAX_TRANSFERS"
    assert effective.origin["maxAttempts"] == f"file {file}"
    assert effective.origin["address"] == "default"


def test_documented_variable_wins_over_the_old_one_and_empty_ones_count_for_nothing() -> None:
    environ = {"CACHE_DIR": "", "STORAGE_MANAGER_CACHE_DIR": "/old", "VERBOSE": "1", "STORAGE_MANAGER_VERBOSE": "2"}
    effective = read({}, environ | {"CONFIG_FILE": "", "NEKKO_PLATFROM": ""})
    assert effective.settings.cache_dir == Path("/old")
    assert effective.origin["cacheDir"] == "environment STORAGE_MANAGER_CACHE_DIR"
    assert effective.settings.verbose == 1


def test_lists_are_given_by_commas_sequences_and_repeated_flags(file: Path) -> None:
    file.write_text("address: [':1', ':2']\nallowedHosts: a, b\ndeniedAddresses: []\n")
    from_file = read({"config_file": str(file)}, {}).settings
    assert (from_file.address, from_file.allowed_hosts, from_file.denied_addresses) == ((":1", ":2"), ("a", "b"), ())
    assert read({}, {"NEKKO_ADDRESS": ":1, /run/s"}).settings.address == (":1", "/run/s")
    assert read({"address": ("/run/a,b",)}, {}).settings.address == ("/run/a,b",)


def test_file_scalars_are_read_as_their_text(file: Path) -> None:
    file.write_text(
        "socketMode: 0600\nminFreeSpace: 1.5G\nstallTimeoutSeconds: 5\nverbose: 3\nplatform:\n"
        "hosts:\n  'ghcr.io:443':\n    username: no\n    password: 0123\n    insecureSkipVerify: true\n"
        "    scheme: http\n"
        "  other.io:\n"
    )
    settings = read({"config_file": file}, {}).settings
    assert settings.socket_mode == "0600"
    assert settings.min_free_space_bytes == 3 << 29
    assert settings.stall_timeout_seconds == 5.0
    assert settings.verbose == 2
    assert settings.platform == "all"
    ghcr = Host(username="no", password="0123", insecure_skip_verify=True, scheme="http")
    assert settings.hosts == {"ghcr.io:443": ghcr, "other.io": Host()}


def test_empty_file_has_no_settings(file: Path) -> None:
    file.write_text("# cacheDir: /srv\n")
    assert read({"config_file": file}, {}).settings == Settings()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("cacheDri: /x", ["cacheDri", "did you mean cacheDir?"]),
        ("cache-dir: /x", ["cache-dir", "did you mean cacheDir?"]),
        ("zzzzzz: 1", ["zzzzzz is no setting"]),
        ("cacheDri:", ["did you mean cacheDir?"]),
        ("maxTransfers: eight", ["maxTransfers", "'eight'"]),
        ("maxTransfers: 0", ["maxTransfers", "1 or more"]),
        ("maxTransfers: -1", ["maxTransfers", "'-1'"]),
        ("maxTransfers: [1]", ["maxTransfers", "one value"]),
        ("maxTransfers: ''", ["maxTransfers", "''"]),
        ("verbose: loud", ["verbose", "'loud'"]),
        ("stallTimeoutSeconds: .nan", ["stallTimeoutSeconds", "'.nan'"]),
        ("stallTimeoutSeconds: -0.1", ["stallTimeoutSeconds", "'-0.1'"]),
        ("storageTimeout: 0s", ["storageTimeout", "'0s' is no time at all"]),
        ("minFreeSpace: lots", ["minFreeSpace", "'lots'"]),
        ("socketMode: 9999", ["socketMode", "octal"]),
        ("platform: amiga", ["platform", "amiga"]),
        ("address: {a: b}", ["address", "a list"]),
        ("address: [[x]]", ["address", "a list"]),
        ("address: nowhere", ["address", "'nowhere' is not an address"]),
        ("address: ['']", ["address", "empty"]),
        ("deniedAddresses: [10.0.0.0/99]", ["deniedAddresses", "10.0.0.0/99"]),
        ("allowedHosts: ['https://h/']", ["allowedHosts", "not a host"]),
        ("tlsCert: /dev/null", ["tlsCert", "tlsKey is missing"]),
        ("tlsKey: /dev/null", ["tlsKey", "tlsCert is missing"]),
        ("tlsCert: /no/cert\ntlsKey: /no/key", ["tlsCert", "/no/cert: No such file"]),
        ("dockerConfig: /", ["dockerConfig", "/: Is a directory"]),
        ("hosts: 1", ["hosts", "table of hosts"]),
        ("hosts: {h: 1}", ["hosts", "h: takes a table"]),
        ("hosts: {H.io: {}}", ["hosts", "'H.io'", "lower case"]),
        ("hosts: {h: {tokn: x}}", ["hosts", "h: tokn", "did you mean token?"]),
        ("hosts: {h: {maxTransfers: x}}", ["hosts", "h: maxTransfers: 'x'"]),
        ("hosts: {h: {scheme: ftp}}", ["hosts", "h: scheme: 'ftp'", "https"]),
        ("hosts: {h: {insecureSkipVerify: perhaps}}", ["hosts", "insecureSkipVerify"]),
        ("hosts: {h: {cert: /dev/null}}", ["hosts", "h: cert: key is missing"]),
        ("hosts: {h: {ca: /no/ca}}", ["hosts", "h: ca: /no/ca: No such file"]),
        ("verbose: 1\nverbose: 2", ["verbose is given twice", "line 2"]),
        ("hosts: {h: {ca: /a, ca: /b}}", ["ca is given twice"]),
        ("- a", ["not a mapping"]),
        ("just words", ["not a mapping"]),
        ("a: 1\n--- \nb: 2", ["expected a single document"]),
        ("verbose: !!int 1", ["tags"]),
        ("? [a]\n: b", ["plain text"]),
        ("verbose: \x07", ["control characters"]),
        ("a: b: c", ["line 1", "mapping values"]),
        ("[" * 100_000, ["too deep"]),
        ("#" * (MAX_FILE_BYTES + 1), ["larger"]),
    ],
)
def test_file_that_cannot_be_used_is_refused_in_one_line(file: Path, text: str, parts: list[str]) -> None:
    refusal = refusal_of(file, text)
    assert f"file {file}" in refusal
    for part in parts:
        assert part in refusal


@pytest.mark.parametrize(
    "text",
    [
        "tokens: {s3cret: s3cret}",
        "tokens: [[s3cret]]",
        "hosts: {h: {password: [s3cret]}}",
        "hosts: {h: {password: *s3cret}}",
        "hosts: {h: {password: !s3cret x}}",
        "hosts: {h: {token: s3cret, tokn: s3cret}}",
        'hosts: {h: {token: "s3cret\\0"}}',
        "hosts: {'u:s3cret@h': {}}",
        "hosts:\n  h:\n    password: s3cret: s3cret\n",
        "password: &s3cret a\nb: &s3cret 's3cret",
    ],
)
def test_refusal_never_shows_a_secret(file: Path, text: str) -> None:
    assert "s3cret" not in refusal_of(file, text)


def test_file_that_is_not_there_or_not_text_is_refused(file: Path, tmp_path: Path) -> None:
    for path, reason in ((file, "No such file"), (tmp_path, "directory")):
        with pytest.raises(ConfigInvalidError, match=reason):
            read({"config_file": path}, {})
    file.write_bytes(b"a: \xff")
    with pytest.raises(ConfigInvalidError, match=r"environment CONFIG_FILE.*not UTF-8"):
        read({}, {"CONFIG_FILE": str(file)})
    with pytest.raises(ConfigInvalidError, match=r"flag --config-file\): the value is empty"):
        read({"config_file": ""}, {})


@pytest.mark.parametrize(
    ("environ", "parts"),
    [
        ({"NEKKO_PLATFROM": "all"}, ["NEKKO_PLATFROM", "did you mean NEKKO_PLATFORM?"]),
        ({"NEKKO_CACHE_DIR": "/x"}, ["NEKKO_CACHE_DIR", "did you mean CACHE_DIR?"]),
        ({"NEKKO_CONFIG_FILE": "/x"}, ["did you mean CONFIG_FILE?"]),
        ({"NEKKO_HOSTS": "x"}, ["NEKKO_HOSTS is no setting"]),
        ({"VERBOSE": "yes"}, ["verbose (environment VERBOSE)", "'yes'"]),
        ({"STORAGE_MANAGER_VERBOSE": "x"}, ["verbose (environment STORAGE_MANAGER_VERBOSE)"]),
        ({"NEKKO_ADDRESS": "a:1,"}, ["address (environment NEKKO_ADDRESS)", "empty"]),
    ],
)
def test_environment_that_cannot_be_used_is_refused(environ: dict[str, str], parts: list[str]) -> None:
    with pytest.raises(ConfigInvalidError) as refusal:
        read({}, environ)
    for part in parts:
        assert part in str(refusal.value)


def test_flag_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(ConfigInvalidError, match=r"cacheDir \(flag --cache-dir\): the value is empty"):
        read({"cache_dir": ""}, {})


def test_writing_behind_needs_an_object_store() -> None:
    words = r"s3WriteBehind \(environment NEKKO_S3_WRITE_BEHIND\): s3Endpoint is missing"
    with pytest.raises(ConfigInvalidError, match=words):
        load({}, {"NEKKO_S3_WRITE_BEHIND": "true"})


def test_tuples_are_a_flag_each() -> None:
    assert len(read({"storage_pairs": ("/a:/b", "/c:/d")}, {}).settings.storage_pairs) == 2
    assert len(read({}, {"NEKKO_STORAGE_PAIRS": "/a:/b, /c:/d"}).settings.storage_pairs) == 2
    with pytest.raises(ConfigInvalidError, match="by a flag of its own"):
        read({"storage_pairs": ("/a:/b,/c:/d",)}, {})


@pytest.mark.parametrize("target", ["one", "one/below", "cache"])
def test_storage_that_a_link_leads_into_another_directory_is_refused(tmp_path: Path, target: str) -> None:
    link = tmp_path / "link"
    link.symlink_to(target)
    flags = {"cache_dir": str(tmp_path / "cache"), "storage_pairs": (f"{tmp_path}/one:{link}",)}
    with pytest.raises(
        ConfigInvalidError, match=f"{link} and {tmp_path / target.partition('/')[0]} are one in the other"
    ):
        read(flags, {})


def test_flag_that_does_not_exist_is_a_bug() -> None:
    with pytest.raises(KeyError):
        read({"tokens": "x"}, {})


def test_cache_directory_that_is_a_file_is_refused(file: Path) -> None:
    file.touch()
    for directory in (file, file / "below"):
        with pytest.raises(ConfigInvalidError, match=r"cacheDir \(flag --cache-dir\): .*nekko.yaml"):
            load({"cache_dir": directory}, {})


@pytest.mark.usefixtures("unprivileged")
def test_cache_directory_without_permission_is_refused() -> None:
    for directory, reason in (("/usr", "/usr is not writable"), ("/usr/a/b", "/usr/a/b cannot be created")):
        with pytest.raises(ConfigInvalidError, match=reason):
            load({"cache_dir": directory}, {})


def test_cache_directory_is_checked_but_not_made(tmp_path: Path) -> None:
    load({"cache_dir": tmp_path / "a" / "b"}, {})
    assert list(tmp_path.iterdir()) == []


def test_plain_settings_hide_every_secret(file: Path) -> None:
    file.write_text("tokens: [s3cret]\nhosts: {h: {password: s3cret, token: s3cret, username: u}}\n")
    plain = to_plain(read({"config_file": file}, {}).settings)
    assert plain["tokens"] == [REDACTED]
    assert plain["hosts"]["h"]["username"] == "u"
    assert "s3cret" not in str(plain)


@given(st.binary())
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(raw)
    refusal = ""
    try:
        read({"config_file": path}, {})
    except ConfigInvalidError as error:
        refusal = str(error)
    assert "\n" not in refusal
