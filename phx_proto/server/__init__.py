"""The server's side of the protocol: `ServerProtocol`, what it tells, and who is present."""

from .protocol import ServerProtocol

__all__ = ["ServerProtocol"]
