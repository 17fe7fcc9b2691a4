"""What the clients and channels of both faces have in common: everything that does not wait."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Any, ClassVar, Generic, NoReturn, TypeVar, overload

from phx_proto.channel import Channel as CoreChannel
from phx_proto.core import Stats
from phx_proto.errors import InvalidHandler
from phx_proto.handlers.handler import Handler
from phx_proto.handlers.payloads import P, PayloadType
from phx_proto.handlers.router import F, HandlerFunction, Q, R, Registers, decorator
from phx_proto.presence import Entries, Presence
from phx_proto.queues import Bound
from phx_proto.resume import Resume
from phx_proto.states import ChannelState, SocketState

from .batches import refuse_to_leave
from .channels import Channels
from .driver import Driver

ClientT = TypeVar("ClientT")
ChannelT = TypeVar("ChannelT")
DriverT = TypeVar("DriverT", bound=Driver)


class ChannelFace(Generic[ClientT, DriverT]):
    """A topic on a client: the part that does not wait."""

    __slots__ = ("_client", "_core", "_driver")

    def __init__(self, core: CoreChannel, client: ClientT, driver: DriverT) -> None:
        self._core = core
        self._client = client
        self._driver = driver

    def __repr__(self) -> str:
        return repr(self._core)

    def __reduce__(self) -> NoReturn:
        refuse_to_leave(self.topic)

    @property
    def topic(self) -> str:
        """The topic."""
        return self._core.topic

    @property
    def state(self) -> ChannelState:
        """The channel's current state."""
        return self._core.state

    @property
    def response(self) -> Any:
        """The server's answer to the latest join: a JSON value, bytes, or the join's type; `None` before."""
        return self._core.response

    @property
    def last_seen(self) -> Any:
        """The id of the message handled last, for a channel that resumes: save it for the next start.

        `None` while there is none. It may call the function of its `Resume`, and raises what that raises.
        """
        return self._core.last_seen

    @property
    def client(self) -> ClientT:
        """The client it belongs to."""
        return self._client

    def begin_leave(self) -> None:
        """Send the leave without waiting for its answer."""
        self._driver.step(self._core.leave)

    @overload
    def on(  # type: ignore[overload-overlap]
        self, event: str, *, payload: type[P], concurrency: int | None = None, executor: Executor | None = None
    ) -> Registers[P, Q, R]: ...

    @overload
    def on(
        self, event: str, *, payload: object = None, concurrency: int | None = None, executor: Executor | None = None
    ) -> Callable[[F], F]: ...

    def on(
        self, event: str, *, payload: Any = None, concurrency: int | None = None, executor: Executor | None = None
    ) -> Any:
        """Register the decorated function for an event of this channel alone; see `Router.on`."""
        return decorator(partial(self.add, payload=payload, concurrency=concurrency, executor=executor), event)

    def add(
        self,
        function: HandlerFunction[P],
        event: str,
        *,
        payload: PayloadType[P] = None,
        concurrency: int | None = None,
        executor: Executor | None = None,
    ) -> Handler:
        """Register a function for an event of this channel alone; `off` removes it.

        Raises:
            InvalidHandler: It can never be called correctly, or cannot run where this client runs handlers.
        """

        def register(now: float) -> Handler:
            handler = self._core.add(function, event, payload=payload, concurrency=concurrency, executor=executor)
            try:
                self._driver.check(handler)
            except InvalidHandler:
                self._core.off(handler)
                raise
            return handler

        return self._driver.step(register)

    def off(self, what: Handler | Callable[..., Any] | str) -> tuple[Handler, ...]:
        """Remove handlers of this channel, and return them; see `Router.off`.

        Raises:
            NotRegistered: There is none (any more).
        """
        return self._driver.step(lambda now: self._core.off(what))

    def track_presence(self, *, state: str | None = None, diff: str | None = None) -> Presence:
        """Keep track of who is present, best before the join; its `entries` are then always current.

        Changes come as `PresenceChanged` among `Client.events()`. They also come as messages `presence_join` and
        `presence_leave`, with the entries by key, to the handlers and streams of these events; adding one of those also
        starts tracking.

        Args:
            state: The event with the whole state; `None` for `"presence_state"`, or for the event given before.
            diff: The event with a change; `None` for `"presence_diff"`, or for the event given before.

        Raises:
            InvalidEvent: No message can be of such an event.
        """
        return self._driver.step(lambda now: self._core.track_presence(state=state, diff=diff))

    @property
    def present(self) -> Entries:
        """Who is present now, by key; `InvalidState` where `track_presence` was not called."""
        return self._core.present


class ClientFace(Generic[ChannelT, DriverT]):
    """A client: the part that does not wait.

    Attributes:
        router: The handlers; they may be added and removed at any time.
        channels: The live channels by topic; read-only, and never a copy.
    """

    _channel_type: ClassVar[Callable[..., Any]]

    def __init__(self, driver: DriverT) -> None:
        self.router = driver.proto.router
        self.channels: Mapping[str, ChannelT] = Channels(driver.proto)
        self._driver = driver
        self._proto = driver.proto
        driver.proto.unjoined.context = self._channel_type(driver.proto.unjoined, self, driver)

    def __repr__(self) -> str:
        return f"Client({self._proto.endpoint.redacted!r}, {self.state.value})"

    @property
    def state(self) -> SocketState:
        """The connection's current state."""
        return self._proto.state

    @property
    def error(self) -> BaseException | None:
        """Why it ended; `None` before its end, or if the application closed it."""
        return self._driver.session.error

    @property
    def stats(self) -> Stats:
        """Current counters."""
        return self._driver.stats

    def channel(
        self, topic: str, params: Any = None, *, bound: Bound | None = None, resume: Resume | None = None
    ) -> ChannelT:
        """Make a channel without joining it, to add handlers or streams before its join.

        Args:
            topic: The topic.
            params: Payload of its joins; or a callable that is called at every join, for instance to resume from the
                last message seen. On asyncio it may be async.
            bound: A bound on waiting messages, above which some are dropped; none by default.
            resume: How its joins go on after the message handled last; its param is added to `params`.

        Raises:
            TopicInUse: A live channel of the topic exists.
            ConnectionClosed: The client is closed.
            InvalidHandler: The router has a handler for it that cannot run here, or not in its executor.
        """
        self._driver.check_channel(topic, params)

        def make(now: float) -> ChannelT:
            core = self._proto.channel(topic, params, bound=bound, resume=resume)
            channel: ChannelT = self._channel_type(core, self, self._driver)
            core.context = channel
            return channel

        return self._driver.step(make)

    def reconnect(self) -> None:
        """Drop the connection and connect again at once, e.g. with a new token; channels rejoin."""
        self._driver.step(self._proto.reconnect)

    def stop(self) -> None:
        """Begin to close gracefully, as `close` does, without waiting for it; also from within a handler."""
        self._driver.stop()
