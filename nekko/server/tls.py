"""The server's TLS: its context, and taking that anew when its files change."""

import ssl
from pathlib import Path

from nekko.config.settings import Settings
from nekko.errors import ConfigInvalidError


class ServerTls:
    """The TLS of TCP listeners. Connections take `context` as it is when they are accepted."""

    def __init__(self, settings: Settings, context: ssl.SSLContext) -> None:
        self._settings = settings
        self.context = context

    @property
    def files(self) -> list[Path]:
        """What the context was made of."""
        settings = self._settings
        return [file for file in (settings.tls_cert, settings.tls_key, settings.tls_client_ca) if file is not None]

    def load(self) -> None:
        """Make the context anew.

        Raises:
            ConfigInvalidError: A file cannot be used; the context stays as it was.
        """
        self.context = _context(self._settings) or self.context


def server_tls(settings: Settings) -> ServerTls | None:
    """Give the TLS of TCP listeners, None where no certificate is configured.

    Raises:
        ConfigInvalidError: A file cannot be used; the message names its setting and the cause.
    """
    context = _context(settings)
    return None if context is None else ServerTls(settings, context)


def _context(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        if settings.tls_client_ca is not None:
            raise ConfigInvalidError(f"tlsClientCa {settings.tls_client_ca}: there is no TLS without tlsCert")
        return None
    if settings.tls_client_auth == "require" and settings.tls_client_ca is None:
        raise ConfigInvalidError("tlsClientAuth require: tlsClientCa must say by whom the certificates are signed")
    assert settings.tls_key is not None  # the configuration refuses one without the other
    _check_pem("tlsCert", settings.tls_cert, "CERTIFICATE")
    _check_pem("tlsKey", settings.tls_key, "PRIVATE KEY")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ValueError) as error:
        files = f"tlsCert {settings.tls_cert} with tlsKey {settings.tls_key}"
        raise ConfigInvalidError(f"{files}: {error}") from error
    if settings.tls_client_ca is not None:
        _check_pem("tlsClientCa", settings.tls_client_ca, "CERTIFICATE")
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except (OSError, ValueError) as error:
            raise ConfigInvalidError(f"tlsClientCa {settings.tls_client_ca}: {error}") from error
        is_required = settings.tls_client_auth == "require"  # else a client without one may still read
        context.verify_mode = ssl.CERT_REQUIRED if is_required else ssl.CERT_OPTIONAL
    # Bulk over HTTP/2 costs several times as much here as over HTTP/1.1.
    context.set_alpn_protocols(["http/1.1"])
    return context


def _check_pem(setting: str, path: Path, label: str) -> None:
    """Refuse a file that is not of its kind; OpenSSL's own words for that do not tell which file is meant."""
    try:
        text = path.read_text("ascii", "replace")
    except OSError as error:
        raise ConfigInvalidError(f"{setting} {path}: {error.strerror}") from error
    if f"{label}-----" not in text:
        raise ConfigInvalidError(f"{setting} {path}: there is no {label.lower()} in PEM form in it")
    if "ENCRYPTED" in text:
        # OpenSSL would ask the terminal for the password.
        raise ConfigInvalidError(f"{setting} {path}: it is encrypted, and there is nobody to ask for its password")
