# pyright: basic, reportMissingImports=false
"""Spans and metrics for OpenTelemetry (extra `otel`): handlers, pushes, joins, leaves, connects, and the counters.

    telemetry = Telemetry()
    router = Router(around=telemetry.around)                  # a span for each call of a handler
    async with connect(url, router=router, wait=False) as client:
        telemetry.observe(client)                             # spans of calls and connects, metrics

Calls and connects are observed through their events, so only `around` adds work for a message. A client that is not
observed, and a router without `around`, do no extra work.
"""

import weakref
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from operator import attrgetter
from time import perf_counter, time_ns
from typing import Any, Final

from phx_proto import events
from phx_proto.handlers import Handler
from phx_proto.message import Message
from phx_proto.states import SocketState

from .extras import needs

with needs("opentelemetry", extra="otel", user="phx_transports.otel"):
    from opentelemetry import context, metrics, propagate, trace
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.trace import SpanKind, StatusCode

__all__ = ["Telemetry"]

_NAME: Final = "phx_channels"

#: The events that end a call, with the call's name.
_ENDS: Final = {
    events.ChannelJoined: "join",
    events.JoinFailed: "join",
    events.LeaveEnded: "leave",
    events.ReplyReceived: "push",
    events.PushFailed: "push",
}

#: Of `Stats`: counters, and current values.
_COUNTERS: Final = ("received", "delivered", "handled", "unhandled", "stale", "dropped", "bad_frames", "connects")
_GAUGES: Final = ("backlog", "backlog_bytes")


class Telemetry:
    """Makes spans and metrics for clients.

    It can be pickled, so `around` works for handlers in processes. There it uses the worker's providers, and the parent
    of its spans is the context that was current where the work was sent.

    Args:
        tracer_provider: Makes the spans; by default the global one.
        meter_provider: Makes the metrics; by default the global one.
        parent_of: Returns the trace context that the server sent with a message, as a carrier for the propagators
            (`{"traceparent": …}`), or `None`. Without one, the parent of a handler's span is the context that was
            current at `observe`.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        parent_of: Callable[[Message[Any]], Mapping[str, str] | None] | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_NAME, tracer_provider=tracer_provider)
        self._meter = metrics.get_meter(_NAME, meter_provider=meter_provider)
        self._parent_of = parent_of
        self._context: context.Context | None = None
        self._clients: weakref.WeakSet[Any] = weakref.WeakSet()
        self._seconds = self._meter.create_histogram(
            "phx.client.duration", unit="s", description="Of handlers, pushes, joins, leaves and connects"
        )
        self._events = self._meter.create_counter("phx.client.events", description="What happened, by type")

    def __reduce__(self) -> tuple[Any, ...]:
        carrier: dict[str, str] = {}
        propagate.inject(carrier, self._context)
        return _rebuilt, (carrier, self._parent_of)

    @contextmanager
    def around(self, handler: Handler, message: Message[Any]) -> Generator[None, None, None]:
        """A span for a call of a handler, for `Router(around=…)`. A handler's error is recorded and raised again."""
        carrier = None if self._parent_of is None else self._parent_of(message)
        parent = self._context if carrier is None else propagate.extract(carrier)
        attributes = {**_where(message.topic, message.event), "phx.handler": handler.name}
        began = perf_counter()
        try:
            with self._tracer.start_as_current_span(
                f"handle {message.event}", parent, kind=SpanKind.CONSUMER, attributes=attributes
            ):
                yield
        finally:
            self._seconds.record(perf_counter() - began, {"phx.kind": "handle", "phx.event": message.event})

    def observe(self, client: Any) -> None:
        """Make spans of a client's calls and connects from now on, and metrics of its counters.

        Args:
            client: Of any adapter. The current context (span, baggage) becomes the parent of all that follows.
        """
        self._context = context.get_current()
        driver = client._driver
        observer = _Observer(self._tracer, self._seconds, self._events, self._context)
        driver.session.on_begin = observer.begun
        driver.session.listeners.append(observer.told)
        if not self._clients:
            self._register()
        self._clients.add(driver.proto)

    def _register(self) -> None:
        for name in _COUNTERS:
            self._meter.create_observable_counter(f"phx.client.{name}", [self._reading(attrgetter(f"stats.{name}"))])
        for name in _GAUGES:
            self._meter.create_observable_gauge(f"phx.client.{name}", [self._reading(attrgetter(f"stats.{name}"))])
        self._meter.create_observable_gauge("phx.client.open", [self._reading(_is_open)])

    def _reading(self, read: Callable[[Any], int]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observations(options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(read(proto), {"phx.url": proto.endpoint.redacted}) for proto in list(self._clients)]

        return observations


class _Observer:
    """Turns one client's events into spans."""

    def __init__(self, tracer: Any, seconds: Any, counter: Any, parent: Any) -> None:
        self._tracer = tracer
        self._seconds = seconds
        self._events = counter
        self._parent = parent
        self._calls: dict[str, tuple[int, Any]] = {}  # by ref: its start, and its context
        self._connects: dict[int, int] = {}  # by socket: the attempt's start

    def begun(self, ref: str) -> None:
        """A call has begun, on the caller's thread or task."""
        self._calls[ref] = (time_ns(), context.get_current())

    def told(self, event: events.Event) -> None:
        """Called with each event."""
        self._events.add(1, {"phx.type": type(event).__name__})
        ref = getattr(event, "ref", None)
        if (kind := _ENDS.get(type(event))) and ref in self._calls:
            self._call(kind, event, *self._calls.pop(ref))
        elif isinstance(event, events.PingAnswered):
            self._calls.pop(event.ref, None)
        elif isinstance(event, events.Connecting):
            self._connects[event.socket] = time_ns()
        elif isinstance(event, events.Connected | events.ConnectFailed):
            began = self._connects.pop(event.socket, time_ns())
            self._span("connect", began, self._parent, {"phx.socket": event.socket}, getattr(event, "error", None))

    def _call(self, kind: str, event: Any, began: int, parent: Any) -> None:
        name = kind if kind != "push" else f"push {event.event}"
        attributes = _where(event.topic, getattr(event, "event", ""))
        if isinstance(event, events.ReplyReceived):
            attributes["phx.status"] = event.reply.status
        self._span(name, began, parent, attributes, getattr(event, "error", None))

    def _span(self, name: str, began: int, parent: Any, attributes: dict[str, Any], error: Any) -> None:
        span = self._tracer.start_span(name, parent, SpanKind.CLIENT, attributes, start_time=began)
        if error is not None:
            span.record_exception(error)
            span.set_status(StatusCode.ERROR, str(error))
            span.set_attribute("error.type", type(error).__name__)
        elif attributes.get("phx.status", "ok") != "ok":
            span.set_status(StatusCode.ERROR, "the server's status")
        span.end()
        self._seconds.record((time_ns() - began) / 1e9, {"phx.kind": name.partition(" ")[0]})


def _where(topic: str, event: str) -> dict[str, Any]:
    found = {"messaging.system": "phoenix", "messaging.destination.name": topic}
    return found | {"phx.event": event} if event else found


def _is_open(proto: Any) -> int:
    return int(proto.state is SocketState.OPEN)


def _rebuilt(carrier: dict[str, str], parent_of: Any) -> Telemetry:
    telemetry = Telemetry(parent_of=parent_of)
    telemetry._context = propagate.extract(carrier)
    return telemetry
