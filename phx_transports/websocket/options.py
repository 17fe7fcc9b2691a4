"""How a client's connections are opened: the options that `connect` passes to the transport.

The code that opens connections is imported with the first one: it needs websockets, h11 and the standard library's
HTTP, whose import takes longer than that of this whole library.
"""

import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from ssl import SSLContext
from typing import Final, Generic, Literal, TypeAlias, TypeVar
from urllib.parse import unquote

from phx_proto.checks import check_count

#: The largest message that clients take by default, in bytes; Phoenix servers send frames as large as their payloads.
MAX_SIZE: Final = 16 * 2**20

#: Returns a connected stream socket for a host and port, e.g. through a tunnel or to a Unix socket.
Factory: TypeAlias = Callable[[str, int], socket.socket]
AsyncFactory: TypeAlias = Callable[[str, int], Awaitable[socket.socket]]

F = TypeVar("F")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOptions(Generic[F]):
    """How a client's connections are opened; see `connect` for each."""

    ssl: SSLContext | None = None
    proxy: str | Literal[True] | None = True
    max_size: int | None = MAX_SIZE
    compression: Literal["deflate"] | None = None
    factory: F | None = None

    def __post_init__(self) -> None:
        check_count("max_size", self.max_size, optional=True)


def proxy_secrets(proxy: str | Literal[True] | None) -> Iterator[str]:
    """The passwords, alone and with their users, of a proxy, or of all proxies in the environment; see `proxy_for`."""
    from urllib.request import getproxies

    for url in getproxies().values() if proxy is True else [proxy or ""]:
        credentials = unquote(url.rpartition("@")[0].rpartition("/")[2])
        yield from (credentials, credentials.partition(":")[2])
