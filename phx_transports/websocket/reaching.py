"""Connecting to a host over TCP: the order in which its addresses are tried, and when. Free of I/O, for all adapters.

Happy Eyeballs (RFC 8305): IPv6 and IPv4 addresses alternate. While an attempt has no result, the next address is tried
after `STAGGER`; after a failure, at once. So an address that drops packets costs a quarter of a second, not the whole
timeout. The adapter owns the sockets.
"""

import ipaddress
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from math import inf
from typing import Any, Final, TypeAlias

from .answer import USE_NO_TLS

#: Seconds after which the next address is tried beside the ones that have not answered (RFC 8305 §5).
STAGGER: Final = 0.25

#: As returned by `socket.getaddrinfo`: family, type, protocol, canonical name, address.
Info: TypeAlias = tuple[Any, Any, int, str, Any]


class Race:
    """Decides which address of a host to try when; the first that accepts wins.

    Args:
        infos: The addresses, in the resolver's order.

    >>> race = Race([(2, 1, 6, "", ("192.0.2.1", 80)), (2, 1, 6, "", ("192.0.2.2", 80))], now=0.0)
    >>> race.due(0.0)[4], race.due(0.0), race.patience(0.0)
    (('192.0.2.1', 80), None, 0.25)
    >>> race.due(0.25)[4], race.patience(0.25)
    (('192.0.2.2', 80), inf)
    """

    def __init__(self, infos: Iterable[Info], now: float) -> None:
        self._waiting = deque(_by_turns(infos))
        self._begins_at = now
        self._trying = 0
        self._error: OSError | None = None

    @property
    def lost(self) -> OSError | None:
        """Why no address can be reached, once all have failed."""
        if self._trying or self._waiting:
            return None
        return self._error or OSError("the host has no address")

    def due(self, now: float) -> Info | None:
        """The address to try now, if any; call again until it returns none."""
        if not self._waiting or now < self._begins_at:
            return None
        self._trying += 1
        self._begins_at = now + STAGGER
        return self._waiting.popleft()

    def patience(self, now: float) -> float:
        """Seconds until the next address is due; `math.inf` if there is none."""
        return max(self._begins_at - now, 0.0) if self._waiting else inf

    def failed(self, error: OSError, now: float) -> None:
        """An attempt has failed: the next address is due at once."""
        self._trying -= 1
        self._begins_at = now
        if not isinstance(self._error, ConnectionRefusedError):  # which says more than "unreachable"
            self._error = error


def place_of(host: str, port: int) -> str:
    """Host and port, for messages."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def tls_name(host: str) -> str:
    """The name that a certificate is for: without the dot of an absolute name, or an IPv6 address's zone."""
    return host.partition("%")[0].removesuffix(".")


def missing_tcp(host: str, port: int, infos: Iterable[Info], *, proxy: str = "") -> str:
    """What is missing while addresses are tried; for `Link.waits`."""
    addresses = list(dict.fromkeys(str(info[4][0]) for info in infos))
    return f"{proxy}{_place(host, port, addresses)} did not accept a TCP connection"


def missing_answer(host: str, port: int, address: str, *, tls: bool) -> str:
    """What is missing after the address, `""` if unknown, has accepted TCP; for `Link.waits`."""
    place = _place(host, port, [address] if address else [])
    problem = f"{place} accepted the connection but did not answer the handshake"
    return f"{problem} of TLS ({USE_NO_TLS})" if tls else problem


def missing_name(host: str, *, proxy: str = "") -> str:
    """What is missing while the host's name is looked up; for `Link.waits`."""
    return f"the name server did not tell the address of {proxy}{host}"


def is_numeric(host: str) -> bool:
    """Whether the host is an IP address already."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def address_of(peer: Any) -> str:
    """The IP address in a result of `getpeername`; `""` for another kind of socket."""
    return str(peer[0]) if isinstance(peer, tuple) and peer else ""  # pyright: ignore[reportUnknownArgumentType]


def _place(host: str, port: int, addresses: list[str]) -> str:
    place = place_of(host, port)
    return place if addresses in ([], [host]) else f"{place} ({', '.join(addresses)})"


def _by_turns(infos: Iterable[Info]) -> Iterator[Info]:
    """The address families alternately, beginning with the resolver's first (RFC 8305 §4)."""
    families: dict[Any, list[Info]] = {}
    for info in infos:
        families.setdefault(info[0], []).append(info)
    for row in zip_longest(*families.values()):
        yield from (info for info in row if info is not None)
