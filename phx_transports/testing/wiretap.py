"""Records what the connections of `serve` carried; described as text only when it is read.

It is written on the server's loop, and may be read by any thread.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Final, TypeAlias

from phx_proto.formats import V1, V2, V1Server, V2Server
from phx_proto.message import HEARTBEAT, PHX_CLOSE, PHX_ERROR, PHX_LEAVE, PHX_REPLY

from ..websocket.cutter import Received
from .transcript import NOTHING, Entry, Side, Transcript, decoded, doing, named

#: Entries that are kept, the latest.
KEPT: Final = 500

_Asked: TypeAlias = dict[tuple[int, str], str]  # requests in words, by connection and ref


class Wiretap:
    """The latest frames of one server's connections."""

    def __init__(self) -> None:
        self._connections = 0  # the number of connections so far
        self._began = monotonic()
        self._kept: deque[tuple[float, int, Side, Callable[[_Asked], tuple[str, Any]]]] = deque(maxlen=KEPT)

    def connected(self) -> int:
        """A connection opened; returns its number, from 1 on."""
        self._connections += 1
        self.tell(self._connections, Side.CLIENT, "connects")
        return self._connections

    def carried(self, connection: int, side: Side, frame: Received) -> None:
        self._keep(connection, side, partial(_READERS[side], frame, connection))

    def tell(self, connection: int, side: Side, words: str) -> None:
        self._keep(connection, side, lambda asked: (words, NOTHING))

    def transcript(self) -> Transcript:
        """All that is kept, as text. If there were several connections, their numbers are shown."""
        transcript, asked = Transcript(), dict[tuple[int, str], str]()
        for at, connection, side, read in tuple(self._kept):
            words, payload = read(asked)
            numbered = f"#{connection} {words}" if self._connections > 1 and connection else words
            transcript.entries.append(Entry(at, side, numbered, payload=payload))
        return transcript

    def _keep(self, connection: int, side: Side, read: Callable[[_Asked], tuple[str, Any]]) -> None:
        self._kept.append((monotonic() - self._began, connection, side, read))


def _from_client(frame: Received, connection: int, asked: _Asked) -> tuple[str, Any]:
    request = decoded(frame, V2Server(), V1Server())
    if request is None:
        return f"sends what is no message ({len(frame)} long)", NOTHING
    topic, event = request.topic, request.event
    heartbeat = event == HEARTBEAT
    asked[connection, str(request.ref)] = "heartbeat" if heartbeat else named(event, topic)
    words = "sends a heartbeat" if heartbeat else doing(event, topic)
    return words, NOTHING if heartbeat or event == PHX_LEAVE else request.payload


def _from_server(frame: Received, connection: int, asked: _Asked) -> tuple[str, Any]:
    message = decoded(frame, V2(), V1())
    if message is None:
        return f"sends what is no message ({len(frame)} long)", NOTHING
    topic, event, payload = message.topic, message.event, message.payload
    if event == PHX_REPLY:
        request = asked.pop((connection, str(message.ref)), f'request {message.ref} on "{topic}"')
        return f"answers the {request} with {payload['status']}", payload["response"]
    verb = {PHX_CLOSE: "closes", PHX_ERROR: "crashes"}.get(event)
    return (f'pushes "{event}" to "{topic}"', payload) if verb is None else (f'{verb} "{topic}"', payload or NOTHING)


_READERS: Final = {Side.CLIENT: _from_client, Side.SERVER: _from_server}
