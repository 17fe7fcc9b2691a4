"""`phx listen --record`: every frame of a client, written down as it comes and goes, for the test kit to replay.

One JSON object a line, as in the recorded sessions of a real server: `dir` is `send`, `recv`, or what became of the
connection; `c` which connection, `t_ms` milliseconds since the beginning. The file may hold what is secret to the
server's users; only its owner can read it, and of what was sent, values under names such as `token` are masked.
"""

import os
import time
from collections.abc import Callable
from typing import Any, BinaryIO, Final

import msgspec

from phx_proto import Message, Serializer
from phx_proto.events import Connected, Disconnected, Event

from ..testing.transcript import masked


class Recorder:
    """Writes the session of one client to a file that is not there yet.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._out: BinaryIO = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", 0)
        self._clock = clock
        self._began = clock()
        self._connection = 1

    def close(self) -> None:
        """Nothing more is written."""
        self._out.close()

    def event(self, event: Event) -> None:
        """Write what became of the connection."""
        match event:
            case Disconnected(code=None):
                self._write("eof")
            case Disconnected(code=code, reason=reason):
                self._write("recv", op="close", code=code, reason=reason)
            case Connected(reconnected=True):
                self._connection += 1
            case _:
                pass

    def frame(self, direction: str, frame: str | bytes) -> None:
        """Write a frame."""
        if isinstance(frame, str):
            self._write(direction, op="text", data=frame)
        else:
            self._write(direction, op="binary", hex=frame.hex())

    def _write(self, direction: str, **fields: Any) -> None:
        at = round((self._clock() - self._began) * 1000, 1)
        self._out.write(
            msgspec.json.encode({"t_ms": at, "dir": direction, "c": str(self._connection), **fields}) + b"\n"
        )


#: With this ref the core tries out what a join or a push carries; nothing is sent.
_TRIED: Final = "0"


class RecordedSerializer:
    """A wire format whose frames are recorded."""

    def __init__(self, serializer: Serializer, recorder: Recorder) -> None:
        self._serializer = serializer
        self._recorder = recorder

    @property
    def vsn(self) -> str:
        """The version."""
        return self._serializer.vsn

    def encode(self, message: Message[Any], /) -> str | bytes:
        """Make a frame."""
        frame = self._serializer.encode(message)
        if message.ref == _TRIED:
            return frame
        public = message if isinstance(message.payload, bytes) else message.with_payload(masked(message.payload))
        self._recorder.frame("send", self._serializer.encode(public))
        return frame

    def decode(self, frame: str | bytes, /) -> Message[Any]:
        """Read a frame."""
        self._recorder.frame("recv", frame)
        return self._serializer.decode(frame)
