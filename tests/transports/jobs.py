"""Handlers that another process can import."""

import os
from pathlib import Path
from typing import Any

from phx_proto.message import Message


def write_down(message: Message[Any]) -> None:
    with Path(message.payload["file"]).open("a") as file:
        file.write(f"{message.payload['n']} {os.getpid()}\n")
    if message.payload["n"] == 2:
        raise ValueError("two")
