"""Handlers that another process can import. What they saw they write to a file that their message names."""

import os
import threading
from pathlib import Path
from typing import Any

import msgspec

from phx_proto.message import Message


class Note(msgspec.Struct):
    file: str
    n: int


def write_down(message: Message[Any]) -> None:
    """A line with the number and the process."""
    with Path(message.payload["file"]).open("a") as file:
        file.write(f"{message.payload['n']} {os.getpid()}\n")
    if message.payload["n"] == 2:
        raise ValueError("two")


def write_note(message: Message[Note]) -> None:
    """A line with the topic and the number."""
    with Path(message.payload.file).open("a") as file:
        file.write(f"{message.topic} {message.payload.n}\n")


def wait_at_gate(message: Message[Any]) -> None:
    """Returns when somebody opens the pipe to write."""
    Path(message.payload["gate"]).read_text()


def die_at_gate(message: Message[Any]) -> None:
    wait_at_gate(message)
    os._exit(1)


class Demanding(Exception):
    """It cannot be unpickled: what makes it anew demands more than it was pickled with."""

    def __init__(self, what: str, *, where: str) -> None:
        super().__init__(f"{what} in {where}")

    def __reduce__(self) -> tuple[type["Demanding"], tuple[str]]:  # also where a library pickles exceptions its own way
        return Demanding, (str(self),)


class Holding(Exception):
    """It cannot even be pickled."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.lock = threading.Lock()


def raise_what_cannot_travel(message: Message[Any]) -> None:
    if message.payload == 1:
        raise Demanding("a leak", where="the cellar")
    if message.payload == 2:
        raise Holding("on")
