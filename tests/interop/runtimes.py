"""Where the scenarios run: in Node and in headless Chromium, each ended with all of its processes."""

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from stage import HERE, MODULES, Stage
from websockets.asyncio.client import ClientConnection, connect

ARTEFACTS: Final = HERE.parents[1] / "artefacts"
SCREENSHOT: Final = ARTEFACTS / "phoenix_js_in_chromium.png"

#: Seconds for all scenarios.
PATIENCE: Final = 90.0

Playing: TypeAlias = Callable[[Stage], AbstractAsyncContextManager["Play"]]


@dataclass(frozen=True, slots=True)
class Play:
    """A run that has begun.

    Attributes:
        process: Of Node or the browser.
        said: What it writes, for when something goes wrong.
        after: What to do once the scenarios are over.
    """

    process: asyncio.subprocess.Process
    said: list[str]
    after: Callable[[], Awaitable[None]] | None = None


async def perform(runtime: str) -> Stage:
    """Run all scenarios in a runtime.

    Raises:
        RuntimeError: It ended early, or did not get to the end.
    """
    async with Stage().open() as stage, _RUNTIMES[runtime](stage) as play:
        ended = asyncio.create_task(play.process.wait())
        finished = asyncio.create_task(stage.finished.wait())
        await asyncio.wait({ended, finished}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        finished.cancel()
        if not stage.finished.is_set():
            raise RuntimeError("the scenarios did not get to their end:\n" + "".join(play.said))
        if play.after is not None:
            await play.after()
    return stage


def missing(runtime: str) -> str | None:
    """What is not installed; `None` if everything is."""
    if not (MODULES / "phoenix").is_dir() or not (MODULES / "ws").is_dir():
        return "phoenix.js is not installed: run tests/interop/install.sh"
    if _program(runtime) is None:
        return f"{runtime} is not installed: run tests/interop/install.sh"
    return None


# ---- private --------------------------------------------------------------------------------------------------------

_PROGRAMS: Final = {"node": ("node",), "chromium": ("chromium", "chromium-browser", "google-chrome")}

_NO_SESSION: Final[Mapping[str, str]] = MappingProxyType({})

_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--enable-logging=stderr",
    "--window-size=1000,900",
)


def _program(runtime: str) -> str | None:
    return next(filter(None, map(shutil.which, _PROGRAMS[runtime.partition("-")[0]])), None)


@asynccontextmanager
async def _in_node(stage: Stage, *, transport: str = "websocket") -> AsyncGenerator[Play]:
    async with _process("node", str(HERE / "in_node.mjs"), f"ws://{stage.address}/stage", transport) as play:
        yield play


@asynccontextmanager
async def _in_chromium(stage: Stage, *, transport: str = "websocket") -> AsyncGenerator[Play]:
    # Its helpers may still write there while it is killed: what that leaves behind is the system's to tidy.
    with tempfile.TemporaryDirectory(prefix="phx-chromium-", ignore_cleanup_errors=True) as profile:
        arguments = (*_FLAGS, f"--user-data-dir={profile}", f"http://{stage.address}/?{transport}")
        async with _process("chromium", *arguments, TMPDIR=profile) as play:
            photograph = None if transport == "longpoll" else lambda: _take_screenshot(play.said)
            yield Play(play.process, play.said, photograph)


@asynccontextmanager
async def _process(runtime: str, *arguments: str, **environment: str) -> AsyncGenerator[Play]:
    """A process with its output, killed at the end together with its children."""
    program = _program(runtime)
    assert program is not None
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    said: list[str] = []
    listening = asyncio.create_task(_listen(process, said))
    try:
        yield Play(process, said)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await listening


async def _listen(process: asyncio.subprocess.Process, said: list[str]) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        said.append(line.decode(errors="replace"))  # noqa: PERF401 - what was said is wanted while it still speaks


async def _take_screenshot(said: list[str]) -> None:
    """Photograph the page, by the browser's debugging protocol; the browser said at its start where that is."""
    found = re.search(r"DevTools listening on (ws://\S+)", "".join(said))
    assert found is not None
    async with connect(found[1], max_size=None, proxy=None) as browser:
        targets = (await _call(browser, "Target.getTargets", {}))["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = await _call(browser, "Target.attachToTarget", {"targetId": page, "flatten": True})
        shot = await _call(browser, "Page.captureScreenshot", {"captureBeyondViewport": True}, attached)
    ARTEFACTS.mkdir(exist_ok=True)
    SCREENSHOT.write_bytes(base64.b64decode(shot["data"]))


async def _call(browser: ClientConnection, method: str, params: Any, session: Mapping[str, str] = _NO_SESSION) -> Any:
    await browser.send(json.dumps({"id": 1, "method": method, "params": params, **session}))
    async for text in browser:
        answer = json.loads(text)
        if "id" in answer:
            return answer["result"]
    raise RuntimeError("the browser said no more")


_RUNTIMES: Final[Mapping[str, Playing]] = MappingProxyType(
    {
        "node": _in_node,
        "chromium": _in_chromium,
        "node-longpoll": partial(_in_node, transport="longpoll"),
        "chromium-longpoll": partial(_in_chromium, transport="longpoll"),
    }
)
