"""Stor's configuration file: it starts nekko as it is, and what cannot be meant is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from nekko.config.plain import to_plain
from nekko.config.settings import Settings
from nekko.config.sources import Effective, read
from nekko.errors import ConfigInvalidError

EXAMPLE = {
    "statsite": {"host": "STATSITE_HOST", "prefix": "stor.dev", "sample_rate": 0.1},
    "storage_pairs": [["/mnt/data1", "/mnt/data2"], ["/mnt/data3", "/mnt/data4"]],
    "writable_pairs_regex": "data[12]",
    "s3_enabled": True,
    "s3_credentials": {"access_key": "S3_ACCESS_KEY", "secret_key": "S3_SECRET_KEY", "host": "S3_HOST"},
    "memcached_servers": ["MEMCACHED_SERVER1"],
    "secret": "https://mojolicious.org/perldoc/Mojolicious/Guides/FAQ#What-does-Your-secret-passphrase-needs-to-be-changed-mean",
    "basic_auth": "writer:writer_pass",
}
"""The example of Stor's documentation."""


def settings_of(directory: Path, values: dict[str, Any], **environ: str) -> Effective:
    file = directory / "config.json"
    file.write_text(json.dumps(values, indent=4))
    return read({}, {"CONFIG_FILE": str(file)} | environ)


def test_documented_example_means_the_same_here(tmp_path: Path) -> None:
    effective = settings_of(tmp_path, EXAMPLE)
    settings = effective.settings
    assert settings.storage_pairs == (
        (Path("/mnt/data1"), Path("/mnt/data2")), (Path("/mnt/data3"), Path("/mnt/data4")),
    )  # fmt: skip
    assert settings.writable_pairs_regex == "data[12]"
    assert settings.basic_auth == ("writer:writer_pass",)
    assert settings.memcached_servers == ("MEMCACHED_SERVER1:11211",)
    assert (settings.statsd_server, settings.statsd_prefix) == ("STATSITE_HOST:8125", "stor.dev")
    assert settings.statsd_sample_rate == 0.1
    assert settings.s3_endpoint == "http://S3_HOST"
    assert (settings.s3_access_key, settings.s3_secret_key) == ("S3_ACCESS_KEY", "S3_SECRET_KEY")
    assert settings.file_sources == ("layout", "s3", "pairs")
    assert settings.address == (":8080",)
    (notice,) = effective.notices
    assert "config.json: secret: " in notice
    assert effective.origin["storagePairs"] == f"file {tmp_path / 'config.json'}"


def test_least_file_and_the_environment_beside_it(tmp_path: Path) -> None:
    effective = settings_of(tmp_path, {"storage_pairs": [["/a", "/b", "/c"]]}, NEKKO_ADDRESS=":9000")
    assert effective.settings == Settings(storage_pairs=((Path("/a"), Path("/b"), Path("/c")),), address=(":9000",))
    assert effective.notices == ()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"storage_pairs": [["/a"]]}, "not two or more directories"),
        ({"storage_pairs": [["/a", "/a"]]}, "not two or more directories"),
        ({"storage_pairs": [["/a", "/b"], ["/c", "/a/d"]]}, "each must be on its own"),
        ({"writable_pairs_regex": "data["}, "not a regular expression"),
        ({"basic_auth": "nobody"}, "user:password"),
        ({"basic_auth": ["a:b"]}, "takes a list of values"),
        ({"s3_enabled": True}, "s3_credentials is missing"),
        ({"s3_enabled": "maybe"}, "neither true nor false"),
        ({"s3_enabled": True, "s3_credentials": {"access_key": "a"}}, "host is missing"),
        ({"s3_enabled": True, "s3_credentials": {"host": "h", "access_key": "a"}}, "s3SecretKey is missing"),
        ({"s3_enabled": True, "s3_credentials": {"bucket": "h"}}, "bucket is no setting of Stor"),
        ({"statsite": {"proto": "tcp"}}, "proto is not udp"),
        ({"statsite": {"sample_rate": 2}}, "a number above 0 to 1"),
        ({"statsite": "host"}, "statsite is no table"),
        ({"memcached_servers": ["/sock"]}, "not a server"),
        ({"rabbitmq_uri": "amqp://nobody:nobody@"}, "rabbitmqUri .*not an AMQP URI"),
        ({"rabbitmq_uri": ["amqp://localhost"]}, "rabbitmqUri"),
        ({"storagePairs": []}, "storagePairs is no setting of Stor"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigInvalidError, match=words) as refused:
        settings_of(tmp_path, {"storage_pairs": [["/x", "/y"]]} | more)
    assert "nobody" not in str(refused.value)


def test_switched_off_object_store_is_not_asked(tmp_path: Path) -> None:
    for enabled in ({"s3_enabled": False}, {}):
        values = {key: value for key, value in EXAMPLE.items() if key != "s3_enabled"} | enabled
        assert settings_of(tmp_path, values).settings.s3_endpoint is None


def test_server_of_announcements_is_taken_as_it_is_and_not_shown(tmp_path: Path) -> None:
    uri = "amqp://ann:s3cret@localhost/stor?routing_key=x"
    effective = settings_of(tmp_path, EXAMPLE | {"rabbitmq_uri": uri})
    assert effective.settings.rabbitmq_uri == uri
    assert "s3cret" not in json.dumps(to_plain(effective.settings))


@pytest.mark.parametrize("uri", ["", "http://localhost", "none"])
def test_uri_that_is_none_of_amqp_announces_nothing(tmp_path: Path, uri: str) -> None:
    effective = settings_of(tmp_path, {"storage_pairs": [["/a", "/b"]], "rabbitmq_uri": uri})
    assert effective.settings.rabbitmq_uri is None
    (notice,) = effective.notices
    assert "rabbitmq_uri: " in notice


def test_server_of_announcements_may_be_null(tmp_path: Path) -> None:
    effective = settings_of(tmp_path, {"storage_pairs": [["/a", "/b"]], "rabbitmq_uri": None})
    assert (effective.settings.rabbitmq_uri, effective.notices) == (None, ())
