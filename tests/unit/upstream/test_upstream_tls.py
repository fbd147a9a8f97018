"""TLS without a socket: what is decrypted of the bytes that arrived."""

import contextlib
import ssl

import pytest
import trustme

from nekko.upstream.backend import Tls

RECORD = 16384
BODY = bytes(range(256)) * (4 * RECORD // 256)
NO_RECORD = b"\x17\x03\x03\x00\x20" + bytes(32)
"""A record that no key has made."""


class FarEnd:
    """The server's side of a connection whose bytes are carried by hand."""

    def __init__(self) -> None:
        authority = trustme.CA()
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("far.example").configure_cert(server)
        authority.configure_trust(client)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = server.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.tls = Tls(client, "far.example")
        for handshake in (self.tls.object.do_handshake, self._object.do_handshake) * 2:
            with contextlib.suppress(ssl.SSLWantReadError):
                handshake()
            self._incoming.write(self.tls.to_send())
            if sent := self._outgoing.read():
                self.tls.received(sent)

    def encrypted(self, body: bytes) -> bytes:
        assert self._object.write(body) == len(body)
        return self._outgoing.read()


@pytest.mark.parametrize("last_words", [NO_RECORD, b""], ids=["garbled", "torn off"])
def test_bytes_before_a_fault_are_given_before_it_is_told(last_words: bytes) -> None:
    far, buffer = FarEnd(), bytearray(2 * len(BODY))
    for data in (far.encrypted(BODY), last_words):
        far.tls.received(data)
    assert bytes(buffer[: far.tls.read_into(memoryview(buffer))]) == BODY
    for _ in range(2):
        with pytest.raises(ssl.SSLError) as told:
            far.tls.read_into(memoryview(buffer))
        assert not isinstance(told.value, ssl.SSLWantReadError)
