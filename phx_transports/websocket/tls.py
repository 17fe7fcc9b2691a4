"""TLS as bytes in and bytes out, for adapters that own their sockets: threads and wsproto."""

import contextlib
import ssl
import threading
from typing import Final

#: Bytes that a TLS record has at most.
RECORD: Final = 2**14

_READ: Final = 8 * RECORD  # that are decrypted at once


class Tls:
    """TLS on one connection. One thread may pass in received bytes while another one encrypts.

    Attributes:
        open: Whether the handshake is over.
        ended: Whether the peer has ended the TLS connection.
    """

    def __init__(self, context: ssl.SSLContext, server_hostname: str | None) -> None:
        self.open = False
        self.ended = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._lock = threading.Lock()  # OpenSSL's objects can be used by one thread at a time
        self._shake()

    def receive(self, data: bytes) -> bytes:
        """Takes received bytes; returns the decrypted ones. Afterwards there may be bytes to send.

        Raises:
            ssl.SSLError: The peer broke a rule, or its certificate is not accepted; an alert for it is to be sent.
        """
        parts: list[bytes] = []
        with self._lock:
            self._incoming.write(data)
            self._shake()
            if self.open:
                with contextlib.suppress(ssl.SSLWantReadError):
                    while part := self._object.read(_READ):
                        parts.append(part)
                    self.ended = True
        return b"".join(parts)

    def send(self, data: bytes = b"") -> bytes:
        """Encrypts bytes, once the handshake is over; returns the bytes to write."""
        rest = memoryview(data)
        with self._lock:
            while rest:
                rest = rest[self._object.write(rest) :]
            return self._outgoing.read()

    def _shake(self) -> None:
        if not self.open:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._object.do_handshake()
                self.open = True
