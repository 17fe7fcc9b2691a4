"""The wire's formats: what a message looks like in vsn 1.0.0 and 2.0.0, as JSON and in binary, for both sides."""

from .serializers import V1, V2, Serializer, V1Server, V2Server

__all__ = ["V1", "V2", "Serializer", "V1Server", "V2Server"]
