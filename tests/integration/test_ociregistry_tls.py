"""`serverTlsConfig` of ociregistry's file, in all its forms, as its clients meet it."""

import ssl
import time
from pathlib import Path

import httpx
import pytest
import trustme

from nekko.config.sources import read
from nekko.errors import ConfigInvalidError
from tests.daemon import daemon
from tests.servers import free_port

SECONDS = 30.0
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


def write(cert: trustme.LeafCert, chain: Path, key: Path) -> None:
    chain.write_bytes(b"".join(pem.bytes() for pem in cert.cert_chain_pems))
    key.write_bytes(cert.private_key_pem.bytes())


def client(authority: trustme.CA, cert: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if cert is not None:
        cert.configure_cert(context)
    return context


@pytest.mark.parametrize("auth", ["", "clientAuth: none", "clientAuth: verify"])
def test_clients_are_met_as_the_file_says_and_new_certificates_count(tmp_path: Path, auth: str) -> None:
    authority, others, stranger = trustme.CA(), trustme.CA(), trustme.CA()
    chain, key, ca, port = tmp_path / "c.crt", tmp_path / "c.key", tmp_path / "ca.crt", free_port()
    write(authority.issue_cert("127.0.0.1"), chain, key)
    others.cert_pem.write_to_path(ca)
    file = tmp_path / "c.yaml"
    file.write_text(
        f"imagePath: {tmp_path}/cache\nserverTlsConfig:\n  cert: {chain}\n  key: {key}\n  ca: {ca}\n  {auth}\n"
    )
    url = f"https://127.0.0.1:{port}/v2/"
    with daemon(tmp_path, "--config-file", str(file), "--address", f"127.0.0.1:{port}"):
        good, bad = others.issue_cert("client@x.org"), stranger.issue_cert("client@x.org")
        assert httpx.get(url, verify=client(authority, good)).status_code == 200
        for cert in (None, bad):
            if auth == "clientAuth: verify":
                with pytest.raises(httpx.TransportError):
                    httpx.get(url, verify=client(authority, cert))
            else:
                assert httpx.get(url, verify=client(authority, cert)).status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http"))

        newer = trustme.CA()
        write(newer.issue_cert("127.0.0.1"), chain, key)
        deadline = time.monotonic() + SECONDS
        while not _answers(url, client(newer, good)):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def _answers(url: str, context: ssl.SSLContext) -> bool:
    try:
        return httpx.get(url, verify=context).status_code == 200
    except httpx.TransportError:
        return False


def settings_of(tmp_path: Path, text: str) -> tuple[Path | None, str, str]:
    (tmp_path / "c.yaml").write_text(f"imagePath: /x\nserverTlsConfig: {{cert: /c, key: /k, {text}}}\n")
    effective = read({"config_file": tmp_path / "c.yaml"}, {})
    return effective.settings.tls_client_ca, effective.settings.tls_client_auth, " ".join(effective.notices)


@pytest.mark.skipif(not BUNDLE.is_file(), reason="this host trusts nobody")
def test_verify_without_ca_takes_the_authorities_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    authorities, auth, told = settings_of(tmp_path, "clientAuth: verify")
    assert authorities is not None
    assert (authorities.is_file(), auth) == (True, "require")
    assert "prune, load and stop as well" in told


def test_ca_without_verify_is_told_to_mean_nothing(tmp_path: Path) -> None:
    authorities, auth, told = settings_of(tmp_path, "ca: /ca, clientAuth: none")
    assert (authorities, auth) == (None, "optional")
    assert "clients are not asked for certificates" in told


def test_any_other_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalidError, match="'want' is neither none nor verify"):
        settings_of(tmp_path, "clientAuth: want")
