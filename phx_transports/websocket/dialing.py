"""Connects to a host's addresses in parallel (see `reaching.py`), for adapters that wait with selectors."""

import contextlib
import os
import socket
from collections.abc import Generator, Iterable
from errno import EINPROGRESS, EWOULDBLOCK
from typing import Final

from phx_proto.errors import ConnectError

from .options import Factory
from .reaching import Info, Race

_GOES_ON: Final = frozenset({0, EINPROGRESS, EWOULDBLOCK, 10035})  # 10035: Windows' WSAEWOULDBLOCK


class Dialing:
    """Connects to the addresses of a host, without blocking.

    Attributes:
        race: Decides which address is due when.
        sockets: Those that are connecting; each is writable when its result is known.
    """

    def __init__(self, infos: Iterable[Info], now: float) -> None:
        self.race = Race(infos, now)
        self.sockets: list[socket.socket] = []

    def begin(self, now: float) -> list[socket.socket]:
        """Begin to connect to the addresses that are due; returns their sockets."""
        begun: list[socket.socket] = []
        while (info := self.race.due(now)) is not None:
            family, kind, number, _, address = info
            sock: socket.socket | None = None
            try:
                sock = socket.socket(family, kind, number)
                sock.setblocking(False)
                code = sock.connect_ex(address)
                if code not in _GOES_ON:
                    raise OSError(code, os.strerror(code))
            except OSError as error:
                if sock is not None:
                    sock.close()
                self.race.failed(error, now)
            else:
                begun.append(sock)
        self.sockets += begun
        return begun

    def connected(self, sock: socket.socket, now: float) -> bool:
        """Whether a writable socket is connected; then it belongs to the caller. If not, it was closed."""
        self.sockets.remove(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == 0:
            return True
        sock.close()
        self.race.failed(OSError(code, os.strerror(code)), now)
        return False

    def close(self) -> None:
        """Close the sockets that are still connecting."""
        while self.sockets:
            with contextlib.suppress(OSError):
                self.sockets.pop().close()


def made_by(factory: Factory, host: str, port: int) -> socket.socket:
    """The socket from the application's factory.

    Raises:
        ConnectError: The factory failed, or returned no stream socket.
    """
    with factory_told():
        sock = factory(host, port)
    check_socket(sock)
    return sock


@contextlib.contextmanager
def factory_told() -> Generator[None]:
    """Raises errors of a factory within a block as `ConnectError`."""
    try:
        yield
    except Exception as error:
        raise ConnectError(f"the connection factory failed: {error!r}") from error


def check_socket(sock: socket.socket) -> None:
    """Refuse and close a factory's socket that is not a stream, by `ConnectError`."""
    if sock.type != socket.SOCK_STREAM:
        sock.close()
        raise ConnectError("the connection factory gave a socket that is not a stream")
