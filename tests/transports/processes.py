"""Python in processes of its own, and their output line by line: for the tests of the commands."""

import asyncio
import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

LONG = 20  # seconds until a wait that should be short fails
PHX = ("-m", "phx_transports.cli")

#: What is compiled once need not be compiled in every process, which is half of its start.
_COMPILED = tempfile.mkdtemp(prefix="phx-tests-")
atexit.register(shutil.rmtree, _COMPILED, ignore_errors=True)


#: What the commands under test are not to see of this process. `COLUMNS` and `LINES` outdo the size of the terminal
#: that a test opens; readline, which pytest imports, sets them for child processes, xdist's workers among them.
_HIDDEN = {"PHX_PARAMS", "PHX_TOKEN", "PHX_URL", "PYTHONDONTWRITEBYTECODE", "COLUMNS", "LINES"}


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
    return kept | {"PYTHONPYCACHEPREFIX": _COMPILED} | (more or {})


@asynccontextmanager
async def python(*arguments: str, env: dict[str, str] | None = None, **streams: Any) -> AsyncIterator[Process]:
    streams = {"stdout": PIPE, "stderr": PIPE} | streams
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environment(env), **streams)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def finished(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    async with python(*arguments, env=env) as process, asyncio.timeout(LONG):
        out, err = await process.communicate()
        return code_of(process), out.decode(), err.decode()


def code_of(process: Process) -> int:
    assert process.returncode is not None
    return process.returncode


async def ended(process: Process) -> int:
    async with asyncio.timeout(LONG):
        return await process.wait()


async def complaints(process: Process) -> bytes:
    """The rest of what it says on stderr."""
    assert process.stderr is not None
    async with asyncio.timeout(LONG):
        return await process.stderr.read()


async def line(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    async with asyncio.timeout(LONG):
        text = (await stream.readline()).decode()
    assert text, "the stream has ended"
    return text.rstrip("\n")


async def until(stream: asyncio.StreamReader | None, words: str) -> str:
    while words not in (text := await line(stream)):
        pass
    return text
