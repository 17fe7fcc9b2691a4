"""Runs one join of one channel: takes the core's events and calls the application's methods."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from phx_proto.checks import check_kind
from phx_proto.errors import InvalidState
from phx_proto.message import Reply
from phx_proto.server.events import BroadcastOut, ChannelTerminated, JoinRequested, MessageIn, Termination
from phx_proto.server.tracker import Tracker
from phx_proto.shown import Secrets, secrets_in, shown

from ..asyncio.workers import WorkerPool, is_stopped
from .channel import NO_RESPONSE, Refuse, ServerChannel, value_of
from .driver import ChannelEvent, SocketDriver
from .hub import Hub
from .presence import ChannelPresence
from .reports import CallbackError, OnError, raise_if_ended


@dataclass(slots=True, eq=False)
class Definition:
    """The application's definition of a topic pattern; its functions take precedence over the channel's methods."""

    make: Callable[[], ServerChannel]
    handlers: dict[str, Callable[[Any, Any], Any]] = field(default_factory=dict[str, Callable[[Any, Any], Any]])


@dataclass(slots=True, eq=False)
class Context:
    """What the sockets of a running server share; `runners` of channels whose `terminate` has not ended."""

    definitions: dict[str, Definition]
    hub: Hub
    tracker: Tracker
    on_error: OnError
    pool: "WorkerPool[ChannelRunner]"
    runners: "set[ChannelRunner]" = field(default_factory=lambda: set[ChannelRunner]())

    def report(
        self,
        call: str,
        error: BaseException,
        topic: str | None = None,
        event: str | None = None,
        *,
        secrets: Callable[[], Secrets],
    ) -> None:
        """Report an error to the application; if `on_error` raises, the loop reports that."""
        try:
            self.on_error(CallbackError(call, topic, event, error, secrets()))
        except BaseException as failed:
            context = {"message": "on_error failed", "exception": failed}
            asyncio.get_running_loop().call_exception_handler(context)


class ChannelRunner:
    """Runs one join from its request to its end."""

    def __init__(self, context: Context, driver: SocketDriver, request: JoinRequested) -> None:
        self._context = context
        self._driver = driver
        self._params = request.payload
        self._definition = context.definitions[request.pattern]
        self._handle = request.channel
        self._channel: ServerChannel | None = None  # set when its join has returned
        self._inbox: deque[ChannelEvent] = deque()
        self._queued = False
        self._over = False
        self._released = False
        self._in_hand = False  # a call into the application runs that may continue after the channel's end
        self._stopping = False
        self._spawned: set[asyncio.Task[None]] = set()
        self._presence: ChannelPresence | None = None  # set on first use
        self.intercepts: Collection[str] = ()  # set when its join has returned
        self.retired = asyncio.Event()
        context.runners.add(self)

    def put(self, event: ChannelEvent, /) -> None:
        if isinstance(event, ChannelTerminated):
            self._over = True
            if self._in_hand or event.reason in _WORDLESS:
                self._release()
        self._inbox.append(event)
        self._queue()

    @staticmethod
    async def work(queue: "deque[ChannelRunner]") -> None:
        """Let each runner handle its events; the pool's work."""
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
        while self._inbox:
            match self._inbox.popleft():
                case JoinRequested():
                    await self._join()
                case MessageIn() as message:
                    if self._driver.full:
                        await self._driver.writable()
                    await self._message(message)
                case BroadcastOut() as message:
                    await self._message(message)
                case ChannelTerminated(reason=reason):
                    await self._terminate(reason)
        self._queued = False

    def _failed(self, error: BaseException) -> None:
        """Its worker was cancelled from outside while it worked here."""
        self._queued = False
        if self._over and not self._inbox:  # in `terminate`, the last call
            self._report("terminate", error)
            self._end()
        elif self._channel is not None:
            self._crash("handle_in", error)
        elif not self.retired.is_set():
            self._report("join", error)
            with contextlib.suppress(InvalidState):  # it has been answered
                self._driver.protocol.crash_join(self._handle)
            self._driver.forget(self._handle)
            self._end()
        if self._inbox:
            self._queue()

    def intercept(self, event: str, payload: Any, /) -> None:
        self._driver.step(self._driver.protocol.intercept, self._handle, event, payload)

    def unsubscribe(self) -> None:
        """Stop broadcasts to its client."""
        self._context.hub.unsubscribe(self._handle.topic, self._driver, self)

    async def retire(self) -> None:
        """End without calling the application."""
        self._driver.step(self._release)
        await self._cancel_spawned()
        self._end()

    def _end(self) -> None:
        self._driver.step(self._release)
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
        self._driver.call(self._driver.protocol.push, self._handle, event, payload)

    def broadcast(self, event: str, payload: Any) -> None:
        self._context.hub.broadcast(self._handle.topic, event, payload)

    def broadcast_from(self, event: str, payload: Any) -> None:
        self._context.hub.broadcast(self._handle.topic, event, payload, but=self._driver)

    def reply(self, message: MessageIn, reply: Reply) -> None:
        if message.channel is not self._handle:
            topic = shown(message.channel.topic)
            raise ValueError(f"the message came to another channel, on topic {topic}: call that channel's reply")
        self._driver.call(self._driver.protocol.reply, message, reply.status, reply.response)

    def stop(self) -> None:
        if self._in_hand:
            self._stopping = True
        else:
            self._driver.step(self._driver.protocol.stop, self._handle)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        check_kind("the work to spawn", work, Coroutine)
        if self._over:
            work.close()
            return
        task = asyncio.create_task(self._guarded("spawn", lambda: work))
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)
        task.add_done_callback(lambda _: work.close())  # it may not have begun

    def _release(self) -> None:
        """Let nothing more of the channel reach its client."""
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

    async def _join(self) -> None:
        protocol, topic = self._driver.protocol, self._handle.topic
        try:
            channel = self._definition.make()
            check_kind("what is registered for the topic", channel, ServerChannel)
            channel.attach(self, self._driver.socket, topic, self._params)
            response = await value_of(channel.join(topic, self._params))
            protocol.accept(self._handle, NO_RESPONSE if response is None else response)
        except Refuse as refused:
            await self._fail_join(partial(protocol.refuse, self._handle, refused.response))
            return
        except BaseException as error:
            raise_if_ended(error)
            self._report("join", error)
            await self._fail_join(partial(protocol.crash_join, self._handle))
            return
        self._channel = channel
        self.intercepts = channel.intercept
        if not self._over:  # the connection may have ended during the join
            self._context.hub.subscribe(topic, self._driver, self)
            self._driver.pump()
            await self._guarded("joined", partial(self._call, channel.joined))
            if self._stopping:
                self.stop()

    async def _fail_join(self, answer: Callable[[], None]) -> None:
        try:
            answer()
        except Exception as error:  # the response cannot be encoded
            self._report("join", error)
            self._driver.protocol.crash_join(self._handle)
        self._driver.forget(self._handle)
        self._driver.pump()
        await self.retire()

    async def _message(self, message: MessageIn | BroadcastOut) -> None:
        protocol, channel = self._driver.protocol, self._channel
        assert channel is not None, "messages come after an accepted join"
        try:
            if isinstance(message, BroadcastOut):
                await self._call(partial(channel.handle_out, message.event, message.payload))
            else:
                channel.message = message
                reply = await self._reply_to(channel, message)
                if reply is not None:
                    protocol.reply(message, reply.status, reply.response)
        except BaseException as error:
            raise_if_ended(error)
            self._report("handle_out" if isinstance(message, BroadcastOut) else "handle_in", error, message.event)
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
        if answer is None or isinstance(answer, Reply):
            return answer  # pyright: ignore[reportUnknownVariableType] - a reply with any response
        return Reply("ok", answer)

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
            return await value_of(function())
        finally:
            self._in_hand = False

    async def _cancel_spawned(self) -> None:
        others = self._spawned - {asyncio.current_task()}  # it may close the server
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)

    def _crash(self, call: str, error: BaseException) -> None:
        self._report(call, error)
        self._driver.step(self._driver.protocol.crash, self._handle)

    def _report(self, call: str, error: BaseException, event: str | None = None) -> None:
        def secrets() -> Secrets:
            return self._driver.socket.secrets().also(secrets_in(self._params))

        self._context.report(call, error, self._handle.topic, event, secrets=secrets)


#: After these ends, nothing of a channel reaches its client.
_WORDLESS: Final = (Termination.REPLACED, Termination.CONNECTION)
