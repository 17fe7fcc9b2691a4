"""How a client's connections are opened, as that travels from `connect` to the transport."""

from dataclasses import dataclass
from ssl import SSLContext
from typing import Generic, Literal, TypeVar

from .cutter import MAX_SIZE

F = TypeVar("F")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOptions(Generic[F]):
    """How a client's connections are opened.

    Attributes:
        ssl: For `wss://`; by default the system's certificates are trusted and the host's name is verified.
        proxy: A proxy's URL, `None` for none, `True` for what the environment says.
        max_size: The largest message to receive, in bytes; `None` for no limit.
        compression: `"deflate"` to offer permessage-deflate.
        factory: Makes the TCP connection instead, from host and port.
    """

    ssl: SSLContext | None = None
    proxy: str | Literal[True] | None = True
    max_size: int | None = MAX_SIZE
    compression: Literal["deflate"] | None = None
    factory: F | None = None
