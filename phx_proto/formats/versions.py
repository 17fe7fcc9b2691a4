"""The server's serializer for the version that a client asks for."""

import re
from collections.abc import Callable
from typing import Final

from .interfaces import ServerSerializer
from .v1 import V1Server
from .v2 import V2Server


def serializer_for(vsn: str | None) -> ServerSerializer | None:
    """The serializer of the version that a client asks for in its URL; `None` if the server has none (HTTP 403).

    Args:
        vsn: The parameter `vsn`; `None` if the URL has none.

    >>> serializer_for("2.0.5").vsn
    '2.0.0'
    """
    found = _VSN.fullmatch("1.0.0" if vsn is None else vsn)
    return _SERIALIZERS[found["major"]]() if found else None


_NUMBER: Final = r"(?:0|[1-9][0-9]*)"
_PRE: Final = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_BUILD: Final = r"[0-9A-Za-z-]+"
#: What `~> 1.0.0` and `~> 2.0.0` match of the semantic versions: 2.0.5-rc.1 as well, but 2.0.0-rc.1 comes before 2.0.0.
_VSN: Final = re.compile(
    rf"(?P<major>[12])\.0\.(?:0|[1-9][0-9]*(?:-{_PRE}(?:\.{_PRE})*)?)(?:\+{_BUILD}(?:\.{_BUILD})*)?"
)
_SERIALIZERS: Final[dict[str, Callable[[], ServerSerializer]]] = {"1": V1Server, "2": V2Server}
