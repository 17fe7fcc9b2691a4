"""`phx listen --record`: writes every frame of a client to a file, for the test kit to replay.

One JSON object a line, as in the recorded sessions of a real server: `dir` is `send`, `recv`, or an event of the
connection; `c` is the connection's number, `t_ms` milliseconds since the beginning. The file may hold secrets of the
server's users: only its owner can read it, and in sent frames, values under names such as `token` are masked.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import msgspec

from phx_proto import Serializer

from ..asyncio import Client
from ..testing.transcript import masked


class Recorder:
    """Writes the session of one client to a new file; `OSError` if it cannot be made."""

    def __init__(self, path: str, serializer: Serializer, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._out: BinaryIO = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", 0)
        self._serializer = serializer
        self._clock = clock
        self._began = clock()
        self._failed: Callable[[OSError], object] = lambda error: None

    def close(self) -> None:
        """Stop writing."""
        self._out.close()

    def record(self, client: Client) -> None:
        """Write what a client's connections carry from now on; a write error ends the client."""
        driver, loop = client._driver, asyncio.get_running_loop()  # pyright: ignore[reportPrivateUsage]
        self._failed = lambda error: loop.call_soon(driver.fail, error)
        driver.proto.observe(self)

    # ---- callbacks of the core --------------------------------------------------------------------------------------

    def sent(self, connection: int, frame: str | bytes, /) -> None:
        if isinstance(frame, str):
            message = self._serializer.decode(frame)
            frame = self._serializer.encode(message.with_payload(masked(message.payload)))
        self._frame("send", connection, frame)

    def received(self, connection: int, frames: Sequence[str | bytes], /) -> None:
        for frame in frames:
            self._frame("recv", connection, frame)

    def lost(self, connection: int, code: int | None, reason: str, /) -> None:
        if code is None:
            self._write("eof", connection)
        else:
            self._write("recv", connection, op="close", code=code, reason=reason)

    def _frame(self, direction: str, connection: int, frame: str | bytes) -> None:
        if isinstance(frame, str):
            self._write(direction, connection, op="text", data=frame)
        else:
            self._write(direction, connection, op="binary", hex=frame.hex())

    def _write(self, direction: str, connection: int, **fields: Any) -> None:
        at = round((self._clock() - self._began) * 1000, 1)
        line = msgspec.json.encode({"t_ms": at, "dir": direction, "c": str(connection), **fields}) + b"\n"
        try:
            self._out.write(line)
        except OSError as error:
            error.filename = self._path
            self._failed(error)
