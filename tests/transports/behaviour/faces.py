"""A client, its channels and streams, as a behaviour is written with them: blocking, whichever adapter is behind."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

from msgspec import UNSET

from phx_proto.core import Stats
from phx_proto.events import Event
from phx_proto.handlers.handler import Handler
from phx_proto.handlers.router import Router
from phx_proto.message import Message, Reply
from phx_proto.states import ChannelState, SocketState

if TYPE_CHECKING:
    from .adapters import Adapter

END: Final = object()  #: What an adapter gives instead of a stream's next item, after the last.

Function = Callable[..., Any]


class Face:
    """Something of an adapter's own, and the adapter that it is used by."""

    def __init__(self, native: Any, adapter: "Adapter") -> None:
        self.native = native
        self.adapter = adapter

    def __repr__(self) -> str:
        return repr(self.native)


class Client(Face):
    """A client of whichever adapter. Any thread may use it."""

    @property
    def state(self) -> SocketState:
        return self.native.state  # type: ignore[no-any-return]

    @property
    def error(self) -> BaseException | None:
        return self.native.error  # type: ignore[no-any-return]

    @property
    def stats(self) -> Stats:
        return self.adapter.call(lambda: self.native.stats)  # type: ignore[no-any-return]

    @property
    def channels(self) -> Mapping[str, Any]:
        return self.native.channels  # type: ignore[no-any-return]

    def channel(self, topic: str, params: Any = None, **options: Any) -> "Channel":
        return Channel(self.adapter.call(lambda: self.native.channel(topic, params, **options)), self.adapter)

    def join(self, topic: str, params: Any = None, **options: Any) -> "Channel":
        return Channel(self.adapter.call(lambda: self.native.join(topic, params, **options)), self.adapter)

    @contextmanager
    def joined(self, topic: str, params: Any = None) -> Iterator["Channel"]:
        with self.adapter.within(lambda: self.native.joined(topic, params)) as channel:
            yield Channel(channel, self.adapter)

    def events(self) -> "Stream":
        return Stream(self.adapter.call(lambda: self.native.events()), self.adapter)

    def ping(self, **options: Any) -> float:
        return self.adapter.call(lambda: self.native.ping(**options))  # type: ignore[no-any-return]

    def wait_connected(self) -> None:
        self.adapter.call(lambda: self.native.wait_connected())

    def wait_closed(self) -> None:
        self.adapter.wait_for_the_end(self.native, "wait_closed")

    def run(self) -> None:
        self.adapter.wait_for_the_end(self.native, "run")

    def reconnect(self) -> None:
        self.adapter.call(lambda: self.native.reconnect())

    def stop(self) -> None:
        self.adapter.call(lambda: self.native.stop())

    def close(self) -> None:
        self.adapter.call(lambda: self.native.close())

    def abort(self) -> None:
        self.adapter.call(lambda: self.native.abort())


class Channel(Face):
    """A channel of whichever adapter."""

    @property
    def topic(self) -> str:
        return self.native.topic  # type: ignore[no-any-return]

    @property
    def state(self) -> ChannelState:
        return self.native.state  # type: ignore[no-any-return]

    @property
    def last_seen(self) -> Any:
        return self.native.last_seen

    @property
    def client(self) -> Client:
        return Client(self.native.client, self.adapter)

    def join(self, **options: Any) -> Any:
        return self.adapter.call(lambda: self.native.join(**options))

    def leave(self, **options: Any) -> None:
        self.adapter.call(lambda: self.native.leave(**options))

    def push(self, event: str, payload: Any = UNSET, **options: Any) -> Reply:
        return self.adapter.call(lambda: self.native.push(event, payload, **options))  # type: ignore[no-any-return]

    def cast(self, event: str, payload: Any = UNSET) -> None:
        self.adapter.call(lambda: self.native.cast(event, payload))

    def on(self, event: str, **options: Any) -> Callable[[Function], Function]:
        return _adding(self.add, event, options)

    def add(self, function: Function, event: str, **options: Any) -> Handler:
        handler = self.adapter.handler(function)
        return self.adapter.call(lambda: self.native.add(handler, event, **options))  # type: ignore[no-any-return]

    def off(self, handler: Handler) -> None:
        self.adapter.call(lambda: self.native.off(handler))

    def messages(self, *event: str, **options: Any) -> "Stream":
        return Stream(self.native.messages(*event, **options), self.adapter)

    def stream(self, *event: str, **options: Any) -> "Stream":
        return Stream(self.native.stream(*event, **options), self.adapter)

    def wait_for(self, event: str, predicate: Callable[[Message[Any]], bool] | None = None, **options: Any) -> Any:
        return self.adapter.call(lambda: self.native.wait_for(event, predicate, **options))

    def track_presence(self, **names: str) -> Any:
        return self.adapter.call(lambda: self.native.track_presence(**names))

    @property
    def present(self) -> Any:
        return self.adapter.call(lambda: self.native.present)


class Stream(Face):
    """Messages or events, one after another; none is waited for longer than `LONG`."""

    def __enter__(self) -> Self:
        self.adapter.enter(self.native)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.adapter.leave(self.native)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        item = self.adapter.next_of(self.native)
        if item is END:
            raise StopIteration
        return item

    def next_of(self, kind: type[Event] | type[Any]) -> Any:
        """The next of a kind; what comes before is passed over."""
        for item in self:
            if isinstance(item, kind):
                return item
        raise AssertionError("the stream has ended")

    def take(self, count: int) -> list[Any]:
        return [next(self) for _ in range(count)]

    def payloads(self, count: int) -> list[Any]:
        return [message.payload for message in self.take(count)]


class Handlers:
    """A router, for functions written once."""

    def __init__(self, adapter: "Adapter") -> None:
        self.native = Router()
        self._adapter = adapter

    def on(self, event: str, **options: Any) -> Callable[[Function], Function]:
        return _adding(self.add, event, options)

    def add(self, function: Function, event: str, **options: Any) -> Handler:
        return self.native.add(self._adapter.handler(function), event, **options)

    def off(self, handler: Handler) -> None:
        self.native.off(handler)


def _adding(add: Callable[..., Handler], event: str, options: dict[str, Any]) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        add(function, event, **options)
        return function

    return register
