"""The wire's formats: messages in vsn 1.0.0 and 2.0.0, as JSON and in binary, for both sides."""

from .interfaces import Request, Serializer, ServerSerializer, decode_reply
from .v1 import V1, V1Server
from .v2 import V2, BinaryReader, V2Server
from .versions import serializer_for

__all__ = [
    "V1",
    "V2",
    "BinaryReader",
    "Request",
    "Serializer",
    "ServerSerializer",
    "V1Server",
    "V2Server",
    "decode_reply",
    "serializer_for",
]
