"""`phx serve`: a server with rooms that echo, broadcast, track presence and crash on request, to try clients by hand.

Each event is one line on stdout. Clients choose its text, so unprintable characters are escaped and long lines are cut.
Only the names of params are shown, because they may hold tokens.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from itertools import count
from socket import gaierror
from typing import Any, Final, cast

import msgspec

from phx_proto import V1, V2
from phx_proto.message import PHX_REPLY
from phx_proto.server.events import MessageIn
from phx_proto.shown import escaped, shown

from ..server import CallbackError, Refuse, RefuseConnect, Reply, Server, ServerChannel, ServerSocket, Termination
from ..server.wire import ServerWire
from ..testing.transcript import decoded
from .arguments import Options
from .target import say

_PRIVATE: Final = "room:private"
_LONGEST_LINE: Final = 300
_SLOWEST: Final = 600_000  # ms
_DRAIN: Final = 5.0  # seconds for clients to go


class Plan(Options):
    """The command line."""

    host: str
    port: int
    path: str
    token: str | None
    tick: float | None
    quiet: bool


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl+C; returns the exit code. `BrokenPipeError`: the reader of stdout is gone."""
    return asyncio.run(_serve(Plan(arguments)))


async def _serve(plan: Plan) -> int:
    journal = Journal()
    rooms = Rooms(plan, (lambda text: None) if plan.quiet else journal.tell)
    async with AsyncExitStack() as stack:
        try:
            wire = partial(RoomWire, tell=rooms.tell)
            running = await stack.enter_async_context(rooms.server.serve(plan.host, plan.port, wire=wire))
        except (OSError, UnicodeError) as error:
            say(f"cannot listen on {plan.host}:{plan.port}: {_why(error)}")
            return 1
        serving = asyncio.create_task(running.run(drain_timeout=_DRAIN))
        await asyncio.sleep(0)  # from here on signals are handled
        journal.write(f"serving {running.url} (Ctrl+C ends it)")
        if not plan.quiet:
            journal.write(_guide(running.url, token=plan.token is not None))
        ends = (serving, journal.failure)
        while not (await asyncio.wait(ends, timeout=plan.tick, return_when=asyncio.FIRST_COMPLETED))[0]:
            rooms.tick()
    await serving
    return _code(journal)


def _code(journal: "Journal") -> int:
    if not journal.failure.done():
        return 0
    error = journal.failure.result()
    if isinstance(error, BrokenPipeError):
        raise error
    say(f"cannot write to stdout: {error.strerror}")
    os._exit(1)  # Python would try once more and complain


class Journal:
    """Writes to stdout; `failure` is set once that is no longer possible."""

    def __init__(self) -> None:
        self.failure: asyncio.Future[OSError] = asyncio.get_running_loop().create_future()

    def tell(self, text: str) -> None:
        """Write one line, with the time of day."""
        self.write(f"{time.strftime('%H:%M:%S')}  {escaped(text, _LONGEST_LINE)}")

    def write(self, text: str) -> None:
        """Write text unchanged, at once."""
        if self.failure.done():
            return
        out = sys.stdout
        try:
            out.write(text.encode(out.encoding, "backslashreplace").decode(out.encoding) + "\n")
            out.flush()
        except OSError as error:
            self.failure.set_result(error)


# ---- the application ------------------------------------------------------------------------------------------------


class Rooms:
    """The application; `tell` is called with a line for each event."""

    def __init__(self, plan: Plan, tell: Callable[[str], None]) -> None:
        self.server = Server(path=plan.path, connect=self._connect, on_error=self._crashed)
        self.server.channel("room:*")(lambda: Room(self))
        self.joined: set[Room] = set()
        self.tell = tell
        self._token = plan.token
        self._strangers = count(1)
        self._ticks = count(1)

    def tick(self) -> None:
        """Broadcast one `tick` to every room with a client."""
        number = next(self._ticks)
        for topic in {room.topic for room in self.joined}:
            self.server.broadcast(topic, "tick", {"n": number})

    def _connect(self, socket: ServerSocket) -> None:
        if self._token is not None and self._token not in (socket.auth_token, socket.params.get("token")):
            self.tell("refused a connection: its token is wrong or missing")
            raise RefuseConnect(403, "the token is wrong or missing")
        name = _name(socket.params, "user_id") or f"anon-{next(self._strangers)}"
        socket.assigns["name"] = name
        self.tell(f"{name} connected, params: {_names(socket.params)}")

    def _crashed(self, report: CallbackError) -> None:
        where = report.call if report.event is None else f"event {report.event}"
        self.tell(f"{report.topic or 'the server'} crashed in {where}: {shown(report.error)}")


class RoomWire(ServerWire):
    """A connection that also reports requests on topics without a channel."""

    def __init__(self, *args: Any, tell: Callable[[str], None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._tell = tell

    def put(self, data: str | bytes) -> None:
        super().put(data)
        message = decoded(data, V2(), V1()) if isinstance(data, str) and "unmatched topic" in data else None
        if message is not None and message.event == PHX_REPLY:
            why = "it is not joined" if message.topic.startswith("room:") else "only room:* is served"
            self._tell(f"a request on {message.topic} was answered with unmatched topic: {why}")


class Room(ServerChannel):
    """One client in one room."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._name = ""

    async def join(self, topic: str, params: Any) -> Any:
        self._name = _name(params, "name") or self.socket.assigns["name"]
        if topic == _PRIVATE:
            self._tell(f"was refused {topic}")
            raise Refuse({"reason": "this room is private"})
        self._tell(f"joined {topic}, params: {_names(params)}")
        return params

    async def joined(self) -> None:
        self._rooms.joined.add(self)
        self.presence.track(self._name, {"online_at": int(time.time())})
        self.presence.push_state()

    async def terminate(self, reason: Termination) -> None:
        self._rooms.joined.discard(self)
        if reason is Termination.CRASHED:  # it has a line of its own
            return
        code = self.socket.ended.code if self.socket.ended is not None else None
        self._tell(f"left {self.topic}: {reason.value}{'' if code is None else f' ({code})'}")

    async def handle_in(self, event: str, payload: Any) -> Any:
        self._tell(f"pushed {event} to {self.topic}: {_excerpt(payload)}")
        match event:
            case "shout" | "broadcast":
                self.broadcast(event, payload)
                return {}
            case "stop":
                self.stop()
                return {}
            case "crash":
                raise RuntimeError("asked to")
            case "slow":
                delay = _fields(payload).get("ms")
                if not (isinstance(delay, int | float) and 0 <= delay <= _SLOWEST):
                    raise Refuse({"reason": f"slow takes a number of ms, from 0 to {_SLOWEST}"})
                assert self.message is not None, "a handler runs"
                self.spawn(self._reply_later(self.message, delay / 1000))  # later messages do not wait
                return None
            case _:  # `echo`, and unknown events
                return Reply("ok", payload)

    async def _reply_later(self, message: MessageIn, delay: float) -> None:
        await asyncio.sleep(delay)
        self.reply(message, message.payload)

    def _tell(self, text: str) -> None:
        self._rooms.tell(f"{self._name} {text}")


def _name(params: Any, key: str) -> str:
    value = _fields(params).get(key)
    return str(value) if isinstance(value, str | int) else ""


def _names(params: Any) -> str:
    """The part of params that may be shown."""
    if not isinstance(params, dict):
        return "not an object"
    return ", ".join(f"{name}=…" for name in _fields(params) if name != "vsn") or "none"


def _fields(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _excerpt(payload: Any) -> str:
    if isinstance(payload, bytes):
        return f"{len(payload)} B of binary"
    try:
        return msgspec.json.encode(payload).decode()
    except (ValueError, RecursionError):  # nested too deeply
        return shown(payload)


# ---- what is said ---------------------------------------------------------------------------------------------------

_GUIDE: Final = """\

  phx listen {url} room:lobby{option}

  import {{Socket}} from "phoenix"
  const socket = new Socket("{url}", {{{auth}params: {{user_id: "ann"}}}})
  const room = socket.channel("room:lobby", {{}})
  room.on("shout", payload => console.log(payload))
  socket.connect()
  room.join().receive("ok", () => room.push("shout", {{body: "hi"}}))

rooms: any room:*, but {private} refuses; events: echo, shout, broadcast, slow, stop, crash; more: phx serve --help
"""


def _guide(url: str, *, token: bool) -> str:
    option, auth = (" --token …", 'authToken: "…", ') if token else ("", "")
    return _GUIDE.format(url=url, option=option, auth=auth, private=_PRIVATE)


def _why(error: OSError | UnicodeError) -> str:
    """A listener's error as text; shorter for an address in use."""
    if isinstance(error, OSError) and not isinstance(error, gaierror) and error.errno is not None:
        return os.strerror(error.errno)
    return (isinstance(error, OSError) and error.strerror) or str(error)
