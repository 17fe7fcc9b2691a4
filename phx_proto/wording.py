"""The wording of errors: how their texts are filled in, and what HTTP statuses and close codes mean."""

from string import Formatter
from typing import Any, Final
from urllib.parse import urlsplit

from .shown import escaped, shown

#: Characters of a text that may contain a peer's text.
LONGEST: Final = 1000

#: The close code for a message that was too big for the server (RFC 6455 §7.4.1).
MESSAGE_TOO_BIG: Final = 1009


class Words(Formatter):
    """Fills in an error's text: `{name!r}` by `shown`, `{name!s}` by `escaped`: a value may come from a peer."""

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion is None:
            return value
        return shown(value) if conversion == "r" else escaped(str(value), LONGEST)


def refusal_advice(status: int, location: str | None) -> str:
    """What to do about a handshake that was refused with this HTTP status; empty if that is not known.

    Args:
        status: The status.
        location: Where a redirect points to. Only scheme, host and port are shown: the rest may hold secrets.
    """
    if not (300 <= status <= 399 and location):
        return _ADVICE.get(status, "")
    try:
        parts = urlsplit(location)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if host is None:
        return " (it redirects to another path, which is not followed: is the socket mounted there?)"
    place = f"[{host}]" if ":" in host else host
    if port is not None:
        place = f"{place}:{port}"
    target = escaped(f"{scheme}://{place}" if scheme else f"//{place}")
    return f" (it redirects to {target}, which is not followed: if that is the right server, give its URL)"


def closing(code: int | None, reason: str) -> str:
    """A close code and a reason as text."""
    meaning = "without a close code" if code is None else f"with code {code}{_CODES.get(code, '')}"
    said = f": {escaped(reason, LONGEST)}" if reason else ""
    return f"{meaning}{said}{_TOO_BIG if code == MESSAGE_TOO_BIG else ''}"


_TOO_LONG: Final = (
    " (params, token or headers are longer than the server takes, which is 8,000 to 10,000 bytes for the URL by "
    "default: send large values as params of a join)"
)
_ADVICE: Final = {
    401: " (check the token)",
    403: " (check params, token, vsn and origin)",
    404: " (does the server mount the socket there, e.g. wss://host/socket? one with a path of its own needs `path`)",
    414: _TOO_LONG,
    431: _TOO_LONG,
}

#: What close codes mean, by the registry of RFC 6455 §11.7.
_CODES: Final = {
    1001: " (going away)",
    1002: " (protocol error)",
    1008: " (policy violation)",
    1009: " (message too big)",
    1011: " (internal error)",
    1012: " (service restart)",
    1013: " (try again later)",
}
_TOO_BIG: Final = (
    " (a message of ours was larger than the server takes, or was compressed more than 25:1, which Bandit refuses:"
    " send less at once, or connect without compression)"
)
