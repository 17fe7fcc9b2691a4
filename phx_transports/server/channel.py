"""A channel as an application writes it, and the runner that carries it through its life.

One `ServerChannel` object is one join of one topic. Its calls come one at a time, in the order of the wire: `join`,
`joined`, then a handler for each message, and `terminate` last, which follows every join that was accepted. Channels
run beside each other. A handler that raises, `SystemExit` and the like included, crashes its channel, is reported, and
harms nothing else; a handler that runs when its channel ends is left to finish.

Calls into a channel that has ended do nothing, for nobody can know in time. `LocalError`s (a payload that cannot be
encoded) are raised at the call, and crash the channel when its handler lets them through, as on a real server.
"""

import asyncio
import contextlib
import inspect
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, TypeVar

from phx_proto.errors import InvalidState
from phx_proto.message import Reply
from phx_proto.server.events import ChannelTerminated, JoinRequested, MessageIn, Termination
from phx_proto.server.tracker import Tracker
from phx_proto.shown import LIMIT, escaped, shown

from ..asyncio.workers import WorkerPool, is_stopped
from .hub import Hub
from .presence import ChannelPresence

if TYPE_CHECKING:
    from .socket import Driver, ServerSocket

F = TypeVar("F", bound=Callable[..., Any])

_NOTHING: Final[dict[str, Any]] = {}
_MARK: Final = "__phx_events__"


class Refuse(Exception):
    """Raised in `join`: the join is refused. Raised in a handler: the reply has status `"error"`.

    Args:
        response: Any JSON value or bytes.
    """

    def __init__(self, response: Any = _NOTHING) -> None:
        super().__init__("refused")
        self.response = response


def on(event: str) -> Callable[[F], F]:
    """Register a method of a `ServerChannel` for an event; it is called with the payload. It may be stacked."""

    def mark(function: F) -> F:
        setattr(function, _MARK, (*getattr(function, _MARK, ()), event))
        return function

    return mark


class ServerChannel:
    """One join of one topic by one client. Subclass it; every method to override may also be a plain function.

    Attributes:
        topic: E.g. `"room:lobby"`.
        params: What the client joined with: any JSON value or bytes.
        socket: Of the client, with its own params, id and assigns.
        message: The one in hand, while a handler runs: for `reply` later.
    """

    topic: str
    params: Any
    socket: "ServerSocket"
    message: MessageIn | None = None
    _runner: "Runner"
    _events: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._events = {
            event: name
            for base in reversed(cls.__mro__)
            for name, member in vars(base).items()
            for event in getattr(member, _MARK, ())
        }

    # ---- to override -------------------------------------------------------------------------------------------------

    async def join(self, topic: str, params: Any) -> Any:
        """Answer a join: return the response (`None` for an empty one), or raise `Refuse`.

        Anything else that is raised refuses the join as crashed. Nothing can be pushed yet; see `joined`.
        """
        return None

    async def joined(self) -> None:
        """Comes after the client was told that it has joined, before its first message."""

    async def handle_in(self, event: str, payload: Any) -> Any:
        """Handle an event that has no `on` method.

        Returns:
            The response of an ok reply; a `Reply` for any status; `None` for no reply, or for one that comes later.

        Raises:
            Refuse: The response of an error reply.
        """
        raise NotImplementedError(f"{type(self).__name__} has no handler for event {shown(event)}")

    async def terminate(self, reason: Termination) -> None:
        """The channel has ended; what was spawned has been cancelled.

        After a leave, a `stop` or a crash the client is told of the end when this has returned: what is pushed and
        broadcast here still reaches it. If this raises, it is told of a crash. Nothing reaches the client when its
        connection has ended, when it has joined the topic anew, or when the end came while a handler was running.
        """

    async def handle(self, event: str, payload: Any) -> Any:
        """Handle any event: by its `on` method, else by `handle_in`. For what concerns every message."""
        name = self._events.get(event)
        if name is None:
            return await _value(self.handle_in(event, payload))
        return await _value(getattr(self, name)(payload))

    # ---- to call -----------------------------------------------------------------------------------------------------

    @property
    def presence(self) -> ChannelPresence:
        """Who is on the topic. What this channel tracks there ends with it."""
        return self._runner.presence

    def attach(self, runner: "Runner", socket: "ServerSocket", topic: str, params: Any) -> None:
        """Make it the channel of a join; called by the server, after `__init__`."""
        self._runner, self.socket, self.topic, self.params = runner, socket, topic, params

    def push(self, event: str, payload: Any) -> None:
        """Send an event to this client alone.

        Raises:
            LocalError: The payload cannot be encoded, or the join was not answered yet.
        """
        self._runner.push(event, payload)

    def broadcast(self, event: str, payload: Any) -> None:
        """Send an event to everyone who has the topic joined, this client included.

        Raises:
            LocalError: The payload cannot be encoded for one of them; nobody got it.
        """
        self._runner.broadcast(event, payload)

    def broadcast_from(self, event: str, payload: Any) -> None:
        """Send an event to everyone else who has the topic joined. Raises as `broadcast`."""
        self._runner.broadcast_from(event, payload)

    def reply(self, message: MessageIn, response: Any = _NOTHING, *, status: str = "ok") -> None:
        """Answer a message whose handler returned `None`, at any time.

        Args:
            message: What `self.message` was in the handler.
            response: Any JSON value or bytes.
            status: Any text.

        Raises:
            LocalError: The response cannot be encoded.
        """
        self._runner.reply(message, Reply(status, response))

    def stop(self) -> None:
        """End the channel, once the message in hand is handled and replied to. Its client will not join it again."""
        self._runner.stop()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the channel. It is cancelled when the channel ends; if it raises, the channel crashes.

        Spawn from `joined` on: what `join` spawns may run before the client is told.
        """
        self._runner.spawn(work)


# ---- what goes wrong ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallbackError:
    """A call into the application raised.

    Attributes:
        call: `"connect"`, `"join"`, `"joined"`, `"handle_in"`, `"terminate"` or `"spawn"`.
        topic: Of the channel; `None` for `connect`.
        event: Of the message; `None` for every other call.
        error: What it raised.
    """

    call: str
    topic: str | None
    event: str | None
    error: BaseException


OnError: TypeAlias = Callable[[CallbackError], None]


def log_callback_error(report: CallbackError) -> None:
    """Log the error with its traceback: what happens unless `on_error` says otherwise.

    An error's text may be a client's: where it is very long or no plain line, the log has it cut and escaped.
    """
    what = report.call if report.event is None else f"{report.call} of event {shown(report.event)}"
    where = "" if report.topic is None else f" on topic {shown(report.topic)}"
    _logger.error("%s%s failed: %s", what, where, shown(report.error), exc_info=_loggable(report.error))


def _loggable(error: BaseException) -> BaseException:
    """The error, or where its text or that of one before it cannot be shown, one that looks like it and can."""
    chain = [error]
    while len(chain) < _MOST_CAUSES and (before := _before(chain[-1])) is not None:
        chain.append(before)
    if all(map(_is_plain, chain)) and _before(chain[-1]) is None:
        return error
    loggable: BaseException | None = None
    for each in reversed(chain):
        kind = type(each)
        named = type(kind.__name__, (Exception,), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})
        following = named(_text(each)).with_traceback(each.__traceback__)
        following.__cause__, loggable = loggable, following
    assert loggable is not None, "there is one error at least"
    return loggable


_MOST_CAUSES: Final = 10


def _before(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_plain(error: BaseException) -> bool:
    try:
        text = str(error)
    except Exception:
        return False
    return len(text) <= LIMIT and text.isprintable()


def _text(error: BaseException) -> str:
    try:
        return escaped(str(error))
    except Exception:
        return "its text cannot be had"


_logger: Final = logging.getLogger("phx_transports.server")


# ---- what runs them -------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Definition:
    """What an application said about a topic pattern.

    Attributes:
        make: Makes the channel of a join; a class, usually.
        handlers: Functions by event; they go before the channel's own methods.
    """

    make: Callable[[], ServerChannel]
    handlers: dict[str, Callable[[Any, Any], Any]] = field(default_factory=dict[str, Callable[[Any, Any], Any]])


@dataclass(slots=True, eq=False)
class Context:
    """What the sockets of a running server share.

    Attributes:
        runners: Those of channels that are not over, `terminate` included.
    """

    definitions: dict[str, Definition]
    hub: Hub
    tracker: Tracker
    on_error: OnError
    pool: "WorkerPool[Runner]"
    runners: "set[Runner]" = field(default_factory=lambda: set[Runner]())

    def report(self, call: str, error: BaseException, topic: str | None = None, event: str | None = None) -> None:
        """Tell the application of its error; that it cannot even hear that goes to the loop."""
        try:
            self.on_error(CallbackError(call, topic, event, error))
        except BaseException as failed:
            context = {"message": "on_error failed", "exception": failed}
            asyncio.get_running_loop().call_exception_handler(context)


class Runner:
    """Carries one join through its life: takes what the core asks and tells, and calls the application with it."""

    def __init__(self, context: Context, driver: "Driver", request: JoinRequested) -> None:
        self._context = context
        self._driver = driver
        self._definition = context.definitions[request.pattern]
        self._handle = request.channel
        self._channel: ServerChannel | None = None  # once its join returned
        self._inbox: deque[JoinRequested | MessageIn | ChannelTerminated] = deque()
        self._queued = False
        self._over = False
        self._released = False
        self._in_hand = False  # a call into the application runs that may go on after the channel's end
        self._stopping = False
        self._spawned: set[asyncio.Task[None]] = set()
        self._presence: ChannelPresence | None = None  # once it was asked for
        self.retired = asyncio.Event()
        context.runners.add(self)

    def put(self, event: JoinRequested | MessageIn | ChannelTerminated) -> None:
        """Handle it after those before it; never in this call."""
        if isinstance(event, ChannelTerminated):
            self._over = True
            if self._in_hand or event.reason in _WORDLESS:
                self._release()
        self._inbox.append(event)
        self._queue()

    @staticmethod
    async def work(queue: "deque[Runner]") -> None:
        """Have each of them handle what it has; for the pool."""
        while queue:
            runner = queue.popleft()
            try:
                await runner.drain()
            except (Exception, asyncio.CancelledError) as error:
                stopped = is_stopped(error)
                if not (stopped and runner._context.pool.closed):
                    runner._failed(error)
                if stopped:
                    raise

    async def drain(self) -> None:
        """Handle what there is."""
        while self._inbox:
            match self._inbox.popleft():
                case JoinRequested() as request:
                    await self._join(request)
                case MessageIn() as message:
                    await self._message(message)
                case ChannelTerminated(reason=reason):
                    await self._terminate(reason)
        self._queued = False

    def _failed(self, error: BaseException) -> None:
        """Its worker was cancelled from outside while it was here."""
        self._queued = False
        if self._over and not self._inbox:  # in `terminate`, which is the last
            self._context.report("terminate", error, self._handle.topic)
            self._release()
            self._driver.pump()
            self._context.runners.discard(self)
            self.retired.set()
        elif self._channel is not None:
            self._crash("handle_in", error)
        elif not self.retired.is_set():
            self._context.report("join", error, self._handle.topic)
            with contextlib.suppress(InvalidState):  # it was answered already
                self._driver.protocol.crash_join(self._handle)
            self._driver.forget(self._handle)
            self._release()
            self._context.runners.discard(self)
            self._driver.pump()
        if self._inbox:
            self._queue()

    def unsubscribe(self) -> None:
        """Its client gets no more broadcasts."""
        self._context.hub.unsubscribe(self._handle.topic, self._driver, self)

    async def retire(self) -> None:
        """The end, without a word to the application."""
        self._release()
        self._driver.pump()
        await self._cancel_spawned()
        self._context.runners.discard(self)
        self.retired.set()

    # ---- what the channel calls --------------------------------------------------------------------------------------

    @property
    def presence(self) -> ChannelPresence:
        if self._presence is None:
            self._presence = ChannelPresence(self._context.tracker, self._context.hub, self._handle.topic, self.push)
            if self._released:
                self._presence.end()
        return self._presence

    def push(self, event: str, payload: Any) -> None:
        self._driver.protocol.push(self._handle, event, payload)
        self._driver.pump()

    def broadcast(self, event: str, payload: Any) -> None:
        self._context.hub.broadcast(self._handle.topic, event, payload)

    def broadcast_from(self, event: str, payload: Any) -> None:
        self._context.hub.broadcast(self._handle.topic, event, payload, but=self._driver)

    def reply(self, message: MessageIn, reply: Reply) -> None:
        self._driver.protocol.reply(message, reply.status, reply.response)
        self._driver.pump()

    def stop(self) -> None:
        if self._in_hand:
            self._stopping = True
        else:
            self._driver.protocol.stop(self._handle)
            self._driver.pump()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._over:
            work.close()
            return
        task = asyncio.create_task(self._run_spawned(work))
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)
        task.add_done_callback(lambda _: work.close())  # it may not have begun

    def _release(self) -> None:
        """Nothing of the channel reaches its client any more."""
        self._released = True
        self.unsubscribe()
        if self._presence is not None:
            self._presence.end()
        self._driver.protocol.terminated(self._handle)

    def _queue(self) -> None:
        if not self._queued:
            self._queued = True
            self._context.pool.add((self,))

    # ---- its life ----------------------------------------------------------------------------------------------------

    async def _join(self, request: JoinRequested) -> None:
        protocol, topic = self._driver.protocol, self._handle.topic
        try:
            channel = self._definition.make()
            channel.attach(self, self._driver.socket, topic, request.payload)
            response = await _value(channel.join(topic, request.payload))
            protocol.accept(self._handle, _NOTHING if response is None else response)
        except Refuse as refused:
            await self._fail_join(partial(protocol.refuse, self._handle, refused.response))
            return
        except BaseException as error:
            raise_if_ended(error)
            self._context.report("join", error, topic)
            await self._fail_join(partial(protocol.crash_join, self._handle))
            return
        self._channel = channel
        if not self._over:  # the connection may have ended under the join
            self._context.hub.subscribe(topic, self._driver, self)
            self._driver.pump()
            await self._guarded("joined", partial(self._call, channel.joined))
            if self._stopping:
                self.stop()

    async def _fail_join(self, answer: Callable[[], None]) -> None:
        try:
            answer()
        except Exception as error:  # the response cannot be encoded
            self._context.report("join", error, self._handle.topic)
            self._driver.protocol.crash_join(self._handle)
        self._driver.forget(self._handle)
        self._driver.pump()
        await self.retire()

    async def _message(self, message: MessageIn) -> None:
        protocol, channel = self._driver.protocol, self._channel
        assert channel is not None, "messages come after an accepted join"
        channel.message = message
        try:
            reply = await self._reply_to(channel, message)
            if reply is not None:
                protocol.reply(message, reply.status, reply.response)
        except BaseException as error:
            raise_if_ended(error)
            self._context.report("handle_in", error, self._handle.topic, message.event)
            protocol.crash(self._handle)
        finally:
            channel.message = None
        if self._stopping:
            protocol.stop(self._handle)
        protocol.finish(message)
        self._driver.pump()

    async def _reply_to(self, channel: ServerChannel, message: MessageIn) -> Reply | None:
        event, payload = message.event, message.payload
        function = self._definition.handlers.get(event)
        try:
            call = partial(channel.handle, event, payload) if function is None else partial(function, channel, payload)
            answer = await self._call(call)
        except Refuse as refused:
            return Reply("error", refused.response)
        return answer if answer is None or isinstance(answer, Reply) else Reply("ok", answer)

    async def _terminate(self, reason: Termination) -> None:
        channel = self._channel
        await self._cancel_spawned()
        if channel is not None:
            await self._guarded("terminate", partial(self._call, partial(channel.terminate, reason)))
        await self.retire()

    async def _guarded(self, call: str, function: Callable[[], Any]) -> None:
        try:
            await function()
        except BaseException as error:
            raise_if_ended(error)
            self._crash(call, error)

    async def _call(self, function: Callable[[], Any]) -> Any:
        self._in_hand = True
        try:
            return await _value(function())
        finally:
            self._in_hand = False

    async def _cancel_spawned(self) -> None:
        for task in self._spawned:
            task.cancel()
        if self._spawned:
            await asyncio.wait(self._spawned)

    async def _run_spawned(self, work: Coroutine[Any, Any, None]) -> None:
        await self._guarded("spawn", lambda: work)

    def _crash(self, call: str, error: BaseException) -> None:
        self._context.report(call, error, self._handle.topic)
        self._driver.protocol.crash(self._handle)
        self._driver.pump()


async def _value(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def raise_if_ended(error: BaseException) -> None:
    """Raises what came from outside: the server closes, or the loop does. Everything else is the application's own.

    An application's `SystemExit` and `KeyboardInterrupt` would leave the loop, and so end every other client's
    connection. Ctrl+C itself comes as a signal; see `RunningServer.run`.
    """
    if is_stopped(error) or isinstance(error, GeneratorExit):
        raise error


#: After these ends nothing of a channel reaches its client.
_WORDLESS: Final = (Termination.REPLACED, Termination.CONNECTION)
