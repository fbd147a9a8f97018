"""ociregistry's configuration file starts nekko unmodified: the documented one, and one with everything in it."""

from pathlib import Path

import httpx
import pytest

from nekko.config.ociregistry import DIALECT
from nekko.config.settings import Host, PruneConfig, Settings
from nekko.config.sources import Effective, read
from nekko.errors import ConfigInvalidError
from tests.daemon import daemon
from tests.servers import free_port

DOCUMENTED = """
imagePath: /var/lib/ociregistry
logLevel: error
# empty means log to stderr
logFile:
preloadImages:
imageFile:
port: 8080
#os: linux
#arch: amd64
pullTimeout: 60000
alwaysPullLatest: false
airGapped: false
helloWorld: false
health:
registries: []
pruneConfig:
  enabled: false
  duration: 30d
  type: accessed
  frequency: 1d
  count: -1
  dryRun: false
serverTlsConfig:
  cert:
  key:
  ca:
  clientAuth:
"""

FULL = """
imagePath: /srv/images
logLevel: debug
logFile: /var/log/x
preloadImages: /etc/images.txt,/etc/more.tar
port: 9999
host: 127.0.0.1
os: linux
arch: arm64
pullTimeout: 1500
alwaysPullLatest: true
airGapped: true
health: 8081
metrics: 8082
defaultNs: quay.io
theme: dark
registries:
- name: my-upstream:8888
  description: foo
  scheme: http
  auth: {user: ann, password: no, passwordFromEnv: THE_PASSWORD}
  mirrors: [a.example.com, "b.example.com:5000/hub"]
  proxy: none
  connectTimeoutSeconds: 3
- name: upstream one
- name: upstream2
- name: index.docker.io
  auth: {token: {static: QVdTOnB3}}
  tls: {insecureSkipVerify: true, colour: red}
- name: 1.dkr.ecr.eu-west-1.amazonaws.com
  auth: {token: {provider: ecr, providerOpts: "profile=default,region=eu-west-1", expiry: 6h}}
- name: Foo.bar.1.io
  tls: {ca: /my/ca.crt, cert: /my/client.cert, key: /my/client.key}
serverTlsConfig: {cert: /my/c, key: /my/k, ca: /my/ca, clientAuth: verify}
maxTransfers: 3
"""


def parsed(tmp_path: Path, text: str, **flags: object) -> Effective:
    file = tmp_path / "ociregistry.yaml"
    file.write_text(text)
    return read({"config_file": file, **flags}, {})


def test_documented_file_is_taken_with_the_defaults_of_ociregistry(tmp_path: Path) -> None:
    effective = parsed(tmp_path, DOCUMENTED)
    expected = Settings(
        cache_dir=Path("/var/lib/ociregistry"), address=("0.0.0.0:8080",), manifest_timeout_seconds=60.0,
        prune_config=PruneConfig(), verbose=-2,
    )  # fmt: skip
    assert effective.settings == expected
    (notice,) = effective.notices
    assert notice.startswith(f"file {tmp_path}/ociregistry.yaml: taken as ociregistry takes them")


def test_everything_is_taken_or_told(tmp_path: Path) -> None:
    effective = parsed(tmp_path, FULL)
    assert effective.settings == Settings(
        cache_dir=Path("/srv/images"), verbose=1, address=("127.0.0.1:9999",), manifest_timeout_seconds=1.5,
        log_file=Path("/var/log/x"), preload_platform="linux/arm64",
        preload_images=("/etc/images.txt", "/etc/more.tar"), always_pull_latest=True, air_gapped=True,
        listen=(":8081=health", ":8082=metrics"), default_registry="quay.io", max_transfers=3,
        tls_cert=Path("/my/c"), tls_key=Path("/my/k"), tls_client_ca=Path("/my/ca"), tls_client_auth="require",
        hosts={
            "my-upstream:8888": Host(
                scheme="http", username="ann", password="no", password_env="THE_PASSWORD", proxy="none",
                mirrors=("a.example.com", "b.example.com:5000/hub"), connect_timeout_seconds=3.0,
            ),
            "upstream2": Host(),
            "docker.io": Host(basic_token="QVdTOnB3", insecure_skip_verify=True),
            "1.dkr.ecr.eu-west-1.amazonaws.com": Host(
                token_provider="ecr", token_provider_options=("profile=default", "region=eu-west-1"),
                token_expiry_seconds=21600.0,
            ),
            "foo.bar.1.io": Host(ca=Path("/my/ca.crt"), cert=Path("/my/client.cert"), key=Path("/my/client.key")),
        },
    )  # fmt: skip
    told = "\n".join(effective.notices)
    for key in ("theme", "colour", "'upstream one'", "registries[2]: no image is of 'upstream2'"):
        assert key in told
    assert len(effective.notices) == 5


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    effective = parsed(tmp_path, DOCUMENTED, cache_dir="/else", address=("localhost:1",))
    assert (effective.settings.cache_dir, effective.settings.address) == (Path("/else"), ("localhost:1",))
    assert effective.origin["manifestTimeoutSeconds"].startswith("file ")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("imagePath: /x\nhelloWorld: perhaps", "helloWorld"),
        ("imagePath: /x\nlogLevel: loud", "logLevel: 'loud' is neither"),
        ("pullTimeout: soon", "pullTimeout: 'soon'"),
        ("imagePath: /x\nport: http", "address"),
        ("imagePath: /x\nhealth: x", "listen"),
        ("registries: {}", "registries: takes a list"),
        ("registries: [x]", "registries[0] is no table"),
        ("registries: [{scheme: http}]", "[0]: name is missing"),
        ("registries: [{name: docker.io}, {name: index.docker.io}]", "docker.io is given twice"),
        ("registries: [{name: a.b, scheme: ftp}]", "'ftp' is neither"),
        ("registries: [{name: a.b, auth: {token: {provider: gcr}}}]", "'gcr' is neither ecr"),
        ("registries: [{name: a.b, auth: {token: {provider: ecr, providerOpts: zone=a}}}]", "'zone=a' is none of"),
        ("registries: [{name: a.b, tls: {cert: /x}}]", "key is missing"),
        ("registries: [{name: a.b, mirrors: [https://c.d]}]", "is not a mirror: write host[:port]"),
        ("registries: [{name: a.b, mirrors: [c.d/../e]}]", "is not a mirror: write host[:port]"),
        ("registries: [{name: a.b, mirrors: [ann:secret@c.d]}]", "'c.d' is not a host"),
        ("registries: [{name: a.b, mirrors: [c.d, a.b]}]", "a.b is asked anyway"),
        ("serverTlsConfig: {clientAuth: maybe}", "clientAuth: 'maybe'"),
        ("serverTlsConfig: {cert: /x}", "tlsKey is missing"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_key(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigInvalidError) as caught:
        parsed(tmp_path, text)
    assert problem in str(caught.value)


def test_flags_of_ociregistry_win_over_environment_and_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("host: 127.0.0.1\nport: 9000\nlogLevel: warn\nhealth: 9001\nimagePath: /in/file\n")
    spoken = {"port": "9002", "imagePath": "/in/flag", "arch": "arm64"}
    environ = {"NEKKO_ADDRESS": ":1", "CACHE_DIR": "/in/environment", "VERBOSE": "1"}
    effective = read({"config_file": file, DIALECT: spoken}, environ)
    assert effective.settings == Settings(
        cache_dir=Path("/in/flag"), address=("127.0.0.1:9002",), verbose=1, listen=(":9001=health",),
        manifest_timeout_seconds=60.0, preload_platform="linux/arm64",
    )  # fmt: skip
    origins = {key: effective.origin[key] for key in ("cacheDir", "address", "verbose", "listen", "preloadPlatform")}
    assert origins == {
        "cacheDir": "flag --image-path", "address": "flag --port", "verbose": "environment VERBOSE",
        "listen": f"file {file}", "preloadPlatform": "flag --arch",
    }  # fmt: skip


def test_dialect_without_a_file_has_the_defaults_of_ociregistry() -> None:
    effective = read({DIALECT: {}}, {})
    assert effective.settings == Settings(
        cache_dir=Path("/var/lib/ociregistry"), address=("0.0.0.0:8080",), manifest_timeout_seconds=60.0, verbose=-2
    )
    assert "its defaults hold" in effective.notices[0]


def test_unknown_keys_are_told_in_the_dialect_whatever_the_file_has(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("colour: red\nmaxTransfers: 3\n")
    effective = read({"config_file": file, DIALECT: {}}, {})
    assert effective.settings.max_transfers == 3
    assert any("colour is no setting" in notice for notice in effective.notices)


def test_file_of_nekko_stays_strict(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalidError, match="port is no setting"):
        parsed(tmp_path, "cacheDir: /x\nport: 8080\n")


def test_daemon_starts_from_the_documented_file(tmp_path: Path) -> None:
    port, health, metrics = free_port(), free_port(), free_port()
    text = DOCUMENTED.replace("/var/lib/ociregistry", str(tmp_path / "images")).replace("8080", str(port))
    (tmp_path / "c.yaml").write_text(text.replace("health:", f"host: 127.0.0.1\nmetrics: {metrics}\nhealth: {health}"))
    extra = ("--config-file", str(tmp_path / "c.yaml"), "--address", f"127.0.0.1:{port}")
    with daemon(tmp_path, *extra) as node:
        assert httpx.get(f"http://127.0.0.1:{port}/v2/").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{health}/health").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{health}/metrics").status_code == 404
        assert httpx.get(f"http://127.0.0.1:{health}/v2/").status_code == 404
        assert "nekko_" in httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
        assert "taken as ociregistry takes them" in node.log.read_text()
