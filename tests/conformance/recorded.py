"""The recorded sessions: what went over the wire between a client and a real Phoenix server, line by line.

`transcripts/README.md` tells what the lines mean. `PHX_TRANSCRIPTS` names another folder of such files, which may have
folders within.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(os.environ.get("PHX_TRANSCRIPTS") or Path(__file__).parent / "transcripts")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a session.

    Attributes:
        time: Seconds since the session's start.
        kind: The line's `dir`: `send` and `recv` from the client's point of view, `http_req`, `note` …
        connection: Which connection; empty for a note.
        op: Of a frame: `text`, `binary`, `ping`, `pong`, `close`, `raw`.
        data: What the frame carries: `str` for text, `bytes` else (and for text that is not UTF-8).
        fields: Everything the line says.
    """

    time: float
    kind: str
    connection: str
    op: str
    data: str | bytes
    fields: dict[str, Any]

    @property
    def code(self) -> int:
        """The code of a close frame; 1005 if it names none."""
        return int(self.fields.get("code") or 1005)

    @property
    def status(self) -> int:
        """Of an HTTP response; 0 if there was none."""
        return int(self.fields["status"] if "status" in self.fields else self.fields.get("line", "- 0").split()[1])

    @property
    def target(self) -> str:
        """Of an HTTP request: the path with its query."""
        return str(self.fields["line"].split()[1])

    @property
    def headers(self) -> dict[str, str]:
        """Of an HTTP request or response, names in lower case."""
        return {name.lower(): value for name, value in dict(self.fields.get("headers") or {}).items()}

    @property
    def clipped(self) -> bool:
        """Whether the recording has only a part of it."""
        text = self.data if isinstance(self.data, str) else ""
        return (
            any(name.endswith("_head") for name in self.fields) or re.search(r"\.\.\.\(\d+ bytes\)", text) is not None
        )


@dataclass(frozen=True, slots=True)
class Session:
    """One scenario."""

    name: str
    lines: tuple[Line, ...]

    @property
    def connections(self) -> tuple[str, ...]:
        """The WebSocket connections in it, in order of appearance."""
        return tuple(dict.fromkeys(line.connection for line in self.lines if line.kind in ("send", "recv")))


def names() -> list[str]:
    """Every recorded session, by its file's name without the ending."""
    return sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.jsonl"))


def load(name: str) -> Session:
    """Read one session."""
    lines = (FOLDER / f"{name}.jsonl").read_bytes().split(b"\n")
    return Session(name, tuple(line_of(json.loads(line)) for line in lines if line))


def comparable(frame: str | bytes, refs: dict[str, str]) -> Any:
    """A frame's value, with what is random in it replaced by what it stands for.

    Args:
        refs: Names presence refs by order of appearance; kept by the caller, one for each side.
    """
    if isinstance(frame, bytes):
        return frame.hex()
    return _comparable(json.loads(frame), refs)


def line_of(fields: dict[str, Any]) -> Line:
    """Read one line of a session."""
    data = fields.get("data")
    if data is None:
        data = bytes.fromhex(fields.get("hex", ""))
    return Line(fields["t_ms"] / 1000, fields["dir"], fields.get("c", ""), fields.get("op", ""), data, fields)


def _comparable(value: Any, refs: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _comparable_field(key, value[key], refs) for key in sorted(value)}
    if isinstance(value, list):
        return [_comparable(item, refs) for item in value]
    if isinstance(value, str):
        return re.sub(r"#PID<[\d.]+>", "#PID<>", value)
    return value if value is None else (type(value).__name__, repr(value))  # 1, 1.0, true, 0.0 and -0.0 are five values


def _comparable_field(key: str, value: Any, refs: dict[str, str]) -> Any:
    if key in ("phx_ref", "phx_ref_prev"):
        return refs.setdefault(value, f"ref {len(refs)}")
    return _comparable(value, refs)
