"""What commands print on stdout: one JSON object a line, without terminal control characters."""

import json
from base64 import b64encode
from typing import Any, BinaryIO

import msgspec

from phx_proto import Message
from phx_proto.presence import PresenceChange


class Printer:
    """Writes messages to a stream; `unwritten` is set while a line is not written yet, or could not be."""

    def __init__(self, out: BinaryIO) -> None:
        self.unwritten = False
        self._out = out

    def message(self, message: Message[Any]) -> None:
        """Write a message, its payload as received, without parsing."""
        self._write(
            printed({"topic": message.topic, "event": message.event}, "payload", message.undecoded, ref=message.ref)
        )

    def presence(self, topic: str, change: PresenceChange) -> None:
        """Write joins and leaves, a line each."""
        for verb, entries in (("leave", change.leaves), ("join", change.joins)):
            for key, entry in entries.items():
                self._write(printed({"topic": topic, "presence": verb, "key": key}, "metas", entry["metas"]))

    def _write(self, line: bytes) -> None:
        """Write one whole line, at once."""
        self.unwritten = True
        self._out.write(line)
        self._out.flush()
        self.unwritten = False


def printed(fields: dict[str, Any], name: str, value: Any, *, ref: str | None = None) -> bytes:
    """A line with these fields and a named value, in base64 and marked as such if it is bytes."""
    binary = isinstance(value, bytes)
    fields |= {name: b64encode(value).decode() if binary else value}  # `msgspec.Raw` is written unchanged
    if ref is not None:
        fields |= {"ref": ref}
    if binary:
        fields |= {"encoding": "base64"}
    return _in_one_line(msgspec.json.encode(fields)) + b"\n"


def _in_one_line(line: bytes) -> bytes:
    """The same JSON in one line, without terminal control characters."""
    text = line.decode(errors="replace")  # the payload has not been checked
    if text.isprintable():
        return text.encode()
    for blank in "\n\r\t":  # white space between tokens: inside strings it is escaped
        text = text.replace(blank, " ")
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text).encode()
