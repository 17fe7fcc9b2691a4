"""OpenTelemetry: the spans and metrics that a client makes, and none where they were not requested."""

import asyncio
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from serving_in_thread import until
from snippets import blocks, run

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from phx_proto import Message, Router
from phx_proto.errors import JoinRefused, PushRejected
from phx_transports import asyncio as on_asyncio
from phx_transports import threads
from phx_transports.otel import Telemetry
from phx_transports.server import Server, ServerChannel
from phx_transports.testing import Peer, deliver, serve

TOPIC = "sim:1"


class Collected:
    """Telemetry whose spans and metrics are kept."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        meters = MeterProvider([self._reader])
        self.telemetry = Telemetry(tracer_provider=self.tracers, meter_provider=meters, **options)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def span(self, name: str) -> ReadableSpan:
        [found] = [span for span in self.spans if span.name == name]
        return found

    def metric(self, name: str) -> Any:
        data: Any = self._reader.get_metrics_data()
        metrics = [metric for one in data.resource_metrics for scope in one.scope_metrics for metric in scope.metrics]
        [found] = [metric for metric in metrics if metric.name == name]
        return [(dict(point.attributes), getattr(point, "value", None)) for point in found.data.data_points]


def describe(span: ReadableSpan) -> tuple[str, str]:
    return span.name, span.status.status_code.name


def test_calls_and_connects_are_spans(phx_peer: Peer) -> None:
    collected = Collected()
    phx_peer.fail_connect()
    phx_peer.expect_join(TOPIC).reply()
    phx_peer.expect_join("sim:2").refuse({"reason": "not yours"})
    phx_peer.expect_push(TOPIC, "top_up").reply({})
    phx_peer.expect_push(TOPIC, "top_up").refuse({"reason": "no credit"})
    with threads.connect(phx_peer.url, transport=phx_peer, wait=False) as client:
        collected.telemetry.observe(client)
        phx_peer.clock.advance(1)
        channel = client.join(TOPIC)
        with pytest.raises(JoinRefused):
            client.join("sim:2")
        channel.push("top_up")
        with pytest.raises(PushRejected):
            channel.push("top_up")
        channel.leave()
    told = [describe(span) for span in collected.spans if span.name != "connect"]
    assert told == [
        ("join", "UNSET"),
        ("join", "ERROR"),
        ("push top_up", "UNSET"),
        ("push top_up", "ERROR"),
        ("leave", "UNSET"),
    ]
    assert collected.span("leave").attributes == {"messaging.system": "phoenix", "messaging.destination.name": TOPIC}
    assert ("connect", "UNSET") in map(describe, collected.spans)


async def called_within_a_span(collected: Collected, peer: Peer) -> None:
    tracer = collected.tracers.get_tracer("test")
    peer.allow_join(TOPIC)
    peer.expect_push(TOPIC, "top_up").reply({})
    async with on_asyncio.connect(peer.url, transport=peer) as client:
        collected.telemetry.observe(client)
        channel = await client.join(TOPIC)
        with tracer.start_as_current_span("request"):
            await channel.push("top_up")


def test_a_push_is_a_child_of_its_caller(phx_peer: Peer) -> None:
    collected = Collected()
    asyncio.run(called_within_a_span(collected, phx_peer))
    push, request = collected.span("push top_up"), collected.span("request")
    assert push.parent is not None
    assert push.parent.span_id == request.context.span_id
    assert collected.span("join").parent is None


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor(1)], ids=["workers", "executor"])
def test_handlers_are_children_of_what_was_current(phx_peer: Peer, executor: Any) -> None:
    collected = Collected()
    router = Router(around=collected.telemetry.around)
    inside: list[Any] = []

    @router.on("balance")
    def save(message: Message) -> None:
        inside.append(trace.get_current_span().get_span_context().span_id)
        raise ValueError("no such card")

    phx_peer.allow_join(TOPIC)
    with threads.connect(phx_peer.url, transport=phx_peer, router=router, executor=executor) as client:
        with collected.tracers.get_tracer("test").start_as_current_span("service"):
            collected.telemetry.observe(client)
        client.join(TOPIC)
        phx_peer.push(TOPIC, "balance", {})
        phx_peer.settle()
    handled, service = collected.span("handle balance"), collected.span("service")
    assert describe(handled) == ("handle balance", "ERROR")
    assert handled.parent is not None
    assert handled.parent.span_id == service.context.span_id
    assert inside == [handled.context.span_id]
    assert [event.name for event in handled.events] == ["exception"]


def test_the_servers_context_is_the_parent() -> None:
    collected = Collected(parent_of=lambda message: message.payload.get("trace"))
    router = Router(around=collected.telemetry.around)
    router.add(lambda message: None, "balance")
    sent = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    deliver(router, TOPIC, "balance", {"trace": sent}).check()
    deliver(router, TOPIC, "balance", {}).check()
    first, second = collected.spans
    assert first.parent is not None
    assert f"{first.parent.span_id:016x}" == "b7ad6b7169203331"
    assert second.parent is None


def test_metrics(phx_peer: Peer) -> None:
    collected = Collected()
    router = Router(around=collected.telemetry.around)
    router.add(lambda message: None, "balance")
    phx_peer.allow_join(TOPIC)
    with threads.connect(phx_peer.url, transport=phx_peer, router=router) as client:
        collected.telemetry.observe(client)
        client.join(TOPIC)
        phx_peer.push(TOPIC, "balance", {})
        phx_peer.settle()
        url = {"phx.url": phx_peer.url + "/websocket"}
        assert collected.metric("phx.client.open") == [(url, 1)]
        [(attributes, handled)] = collected.metric("phx.client.handled")
        assert (attributes, handled) == (url, 1)
        kinds = [attributes["phx.kind"] for attributes, _ in collected.metric("phx.client.duration")]
        assert sorted(kinds) == ["handle", "join"]
    counted = {attributes["phx.type"]: count for attributes, count in collected.metric("phx.client.events")}
    assert counted["ChannelJoined"] == 1
    assert counted["Closed"] == 1


def parent_of_span(message: Message) -> None:
    span = trace.get_current_span()
    parent = f"{span.get_span_context().trace_id:032x}"
    if message.payload["trace"] != parent:
        raise ValueError(f"{parent} in the worker, {message.payload} in the client")


def set_provider() -> None:
    trace.set_tracer_provider(TracerProvider())


def test_the_context_goes_to_processes() -> None:
    collected, failures = Collected(), list[Any]()
    router = Router(around=collected.telemetry.around)
    router.add(parent_of_span, "balance")
    application = Server()

    @application.channel("sim:*")
    class Sim(ServerChannel):
        async def join(self, topic: str, params: Any) -> Any: ...

    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=set_provider)
    options: Any = {"router": router, "executor": pool, "proxy": None, "on_handler_error": failures.append}
    tracer = collected.tracers.get_tracer("test")
    with (
        pool,
        serve(application) as server,
        tracer.start_as_current_span("service") as span,
        threads.connect(server.url, **options) as client,
    ):
        collected.telemetry.observe(client)
        client.join(TOPIC)
        server.broadcast(TOPIC, "balance", {"trace": f"{span.get_span_context().trace_id:032x}"})
        until(lambda: client.stats.handled > 0)
    assert not failures


def test_it_survives_pickling() -> None:
    assert isinstance(pickle.loads(pickle.dumps(Telemetry())), Telemetry)


async def page(peer: Peer, names: dict[str, Any]) -> None:
    peer.expect_join(TOPIC).reply()
    peer.expect_push(TOPIC, "top_up", {"cents": 500}).reply()
    names["connect"] = partial(on_asyncio.connect, transport=peer)
    main = asyncio.create_task(names["main"](peer.url))
    await asyncio.sleep(0)
    await peer.clock.elapse(1)
    main.cancel()
    await asyncio.wait([main])


def test_the_pages_example(phx_peer: Peer) -> None:
    guide = Path(__file__).parents[2] / "docs" / "metrics.md"
    asyncio.run(page(phx_peer, run(blocks(guide, marker="otel"), name="guide")))
