"""The server's TLS context."""

import ssl

from nekko.config.settings import Settings
from nekko.errors import ConfigInvalidError


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """Make the context that TCP listeners use, None where no certificate is configured.

    Raises:
        ConfigInvalidError: Certificate or key cannot be used.
    """
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ValueError) as error:
        files = f"tlsCert {settings.tls_cert}, tlsKey {settings.tls_key}"
        raise ConfigInvalidError(f"{files}: cannot be used: {error}") from error
    # Bulk over HTTP/2 costs several times as much here as over HTTP/1.1.
    context.set_alpn_protocols(["http/1.1"])
    return context
