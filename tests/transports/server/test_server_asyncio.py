"""The server's channels over real sockets: joins, messages, broadcasts, as a client sees them on the wire."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from math import nan
from typing import Any

import pytest
from phoenix_by_hand import OK, Application, Client, Log, Room, connected, conversation, errors, serving
from websockets.exceptions import InvalidStatus

from phx_proto.errors import InvalidHandler, InvalidPayload, InvalidTimeout, OtherLoop
from phx_proto.formats import V1Server, V2Server
from phx_transports.server import Refuse, Server, ServerChannel, ServerSocket, Termination, on

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("clean_loop")]


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("max_connections", ["10", True, 0, 1.5, nan]),
        ("handshake_timeout", ["10", True, 0, nan, None]),
        ("max_size", ["10", True, 0, 1.5, nan]),
        ("max_buffered", ["10", True, 0, 1.5, None]),
        ("send_timeout", ["10", True, -1, nan, None]),
    ],
)
async def test_an_option_that_cannot_be_is_refused_by_name(option: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises((TypeError, ValueError), match=f"^{option} is "):
            Server(**{option: value})


@pytest.mark.parametrize("timeout", ["10", True, nan, [1]])
async def test_an_end_within_what_is_no_time_is_refused_and_the_server_goes_on(timeout: Any) -> None:
    async with serving() as (_, running), connected(running.url) as client:
        for end in (running.close, running.abort):
            with pytest.raises(InvalidTimeout):
                await end(timeout=timeout)
        with pytest.raises((TypeError, ValueError), match="drain_timeout"):
            await running.run(drain_timeout=timeout)
        await client.alive()


# ---- joins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "payload", "join_ref", "expected"),
    [
        ("room:a", {}, "1", OK),
        ("room:a", {"answer": [1]}, "1", {"status": "ok", "response": [1]}),
        ("room:a", {"refuse": {"reason": "no"}}, "1", {"status": "error", "response": {"reason": "no"}}),
        ("other", {}, None, {"status": "error", "response": {"reason": "unmatched topic"}}),
    ],
)
async def test_a_join_is_answered(topic: str, payload: Any, join_ref: str | None, expected: Any) -> None:
    async with serving() as (_, running), connected(running.url) as client:
        answer = await client.ask("1", "1", topic, "phx_join", payload)
        assert answer == [join_ref, "1", topic, "phx_reply", expected]


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ({"crash": 1}, "RuntimeError"),
        ({"answer": "unencodable"}, "InvalidPayload"),
        ({"refuse": {1j}}, "InvalidPayload"),
    ],
)
async def test_a_join_that_cannot_be_answered_crashes_and_is_reported(payload: Any, error: str) -> None:
    application = Application()
    application.channel("unsendable")(lambda: Unsendable())
    topic = "unsendable" if "refuse" in payload else "room:a"
    async with serving(application) as (_, running), connected(running.url) as client:
        answer = await client.ask("1", "1", topic, "phx_join", {} if "refuse" in payload else payload)
        assert answer[4] == {"status": "error", "response": {"reason": "join crashed"}}
        assert errors(application) == [("join", topic, None, error)]
        await client.alive()


class Unsendable(ServerChannel):
    async def join(self, topic: str, params: Any) -> Any:
        raise Refuse({"set": {1j}})


async def test_what_joined_pushes_comes_after_the_joins_reply() -> None:
    async with serving() as (_, running), connected(running.url) as client:
        await client.join(payload={"welcome": True})
        assert await client.next() == ["1", None, "room:a", "welcome", {"topic": "room:a"}]


async def test_a_joined_that_raises_crashes_the_channel() -> None:
    async with serving() as (application, running), connected(running.url) as client:
        await client.join(payload={"crash_joined": True})
        assert (await client.next())[3] == "phx_error"
        assert errors(application) == [("joined", "room:a", None, "RuntimeError")]


async def test_a_push_in_join_crashes_it() -> None:
    application = Application()

    @application.channel("early")
    class Early(ServerChannel):
        async def join(self, topic: str, params: Any) -> Any:
            self.push("too soon", {})

    async with serving(application) as (_, running), connected(running.url) as client:
        answer = await client.ask("1", "1", "early", "phx_join")
        assert answer[4]["response"] == {"reason": "join crashed"}
        assert errors(application) == [("join", "early", None, "InvalidState")]


async def test_a_duplicate_join_replaces_the_channel() -> None:
    async with conversation() as (application, client):
        assert await client.ask("2", "2", "room:a", "phx_join") == ["2", "2", "room:a", "phx_reply", OK]
        assert await client.next() == ["1", "1", "room:a", "phx_close", {}]
        assert await application.terminated.until_count(1) == [("room:a", Termination.REPLACED)]
        application.broadcast("room:a", "shout", {})
        assert (await client.next())[3] == "shout"
        await client.alive()


async def test_a_refused_join_leaves_nothing_to_terminate_or_to_broadcast_to() -> None:
    async with serving() as (application, running), connected(running.url) as client:
        await client.ask("1", "1", "room:a", "phx_join", {"refuse": {}})
        application.broadcast("room:a", "shout", {})
        await client.alive()
    assert application.terminated.entries == []


async def test_a_join_whose_client_goes_meanwhile_is_terminated() -> None:
    async with serving() as (application, running):
        async with connected(running.url) as client:
            await client.send("1", "1", "room:a", "phx_join", {"gate": True})
            await application.joining.until_count(1)
            client.websocket.transport.abort()
        application.rooms[0].gate.set()
        assert await application.terminated.until_count(1) == [("room:a", Termination.CONNECTION)]


# ---- messages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "payload", "expected"),
    [
        ("echo", {"a": [1, None]}, {"status": "ok", "response": {"a": [1, None]}}),
        ("mirror", {}, OK),
        ("plain", 7, {"status": "ok", "response": {"plain": 7}}),
        ("refused", "x", {"status": "error", "response": {"why": "x"}}),
        ("status", {"status": "maybe", "response": 1}, {"status": "maybe", "response": 1}),
    ],
)
async def test_a_message_is_replied_to(event: str, payload: Any, expected: Any) -> None:
    async with conversation() as (_, client):
        assert await client.ask("1", "2", "room:a", event, payload) == ["1", "2", "room:a", "phx_reply", expected]


async def test_a_handler_that_returns_none_does_not_reply() -> None:
    async with conversation() as (_, client):
        await client.send("1", "2", "room:a", "silent")
        assert (await client.ask("1", "3", "room:a", "echo"))[1] == "3"


async def test_a_reply_may_come_later_and_meanwhile_others_are_handled() -> None:
    async with conversation() as (application, client):
        await client.send("1", "2", "room:a", "later", {"x": 1})
        assert (await client.ask("1", "3", "room:a", "echo"))[1] == "3"
        application.rooms[0].gate.set()
        assert await client.next() == ["1", "2", "room:a", "phx_reply", {"status": "late", "response": {"x": 1}}]


async def test_a_channel_cannot_answer_the_message_of_another() -> None:
    async with conversation() as (application, client):
        await client.join("room:b", "2")
        await client.send("1", "3", "room:a", "gate")
        first, second = application.rooms
        while first.message is None:
            await asyncio.sleep(0)
        with pytest.raises(ValueError, match="another channel, on topic 'room:a'"):
            second.reply(first.message)
        first.reply(first.message)
        assert (await client.next())[:3] == ["1", "3", "room:a"]
        first.gate.set()


async def test_one_channel_is_handled_in_order_and_another_beside_it() -> None:
    async with conversation() as (application, client):
        await client.join("room:b", "2")
        await client.send("1", "3", "room:a", "gate")
        await client.send("1", "4", "room:a", "echo")
        assert (await client.ask("2", "5", "room:b", "echo"))[1] == "5"
        application.rooms[0].gate.set()
        assert [(await client.next())[1] for _ in range(2)] == ["3", "4"]


async def test_binary_goes_both_ways() -> None:
    async with conversation() as (_, client):
        await client.websocket.send(bytes([0, 1, 1, 6, 4]) + b"1" + b"2" + b"room:a" + b"echo" + b"\xff\x00")
        assert await client.next() == bytes([1, 1, 1, 6, 2]) + b"1" + b"2" + b"room:a" + b"ok" + b"\xff\x00"


async def test_a_push_goes_to_its_client_alone() -> None:
    async with conversation() as (_, client):
        assert await client.ask("1", "2", "room:a", "push", {"x": 1}) == ["1", None, "room:a", "pushed", {"x": 1}]


async def test_a_leave_terminates() -> None:
    async with conversation() as (application, client):
        assert await client.ask("1", "2", "room:a", "phx_leave") == ["1", "2", "room:a", "phx_reply", OK]
        assert await client.next() == ["1", "1", "room:a", "phx_close", {}]
        assert await application.terminated.until_count(1) == [("room:a", Termination.LEFT)]


async def test_a_stop_comes_after_the_reply() -> None:
    async with conversation() as (application, client):
        assert (await client.ask("1", "2", "room:a", "stop"))[4] == OK
        assert await client.next() == ["1", "1", "room:a", "phx_close", {}]
        assert await application.terminated.until_count(1) == [("room:a", Termination.STOPPED)]


async def test_a_stop_from_outside_comes_at_once() -> None:
    async with conversation() as (application, client):
        application.rooms[0].stop()
        assert await client.next() == ["1", "1", "room:a", "phx_close", {}]


@pytest.mark.parametrize(
    ("event", "call", "error"),
    [
        ("unknown", "handle_in", "NotImplementedError"),
        ("nan", "handle_in", "InvalidPayload"),
        ("cancelled", "handle_in", "CancelledError"),
        ("spawn_crash", "spawn", "RuntimeError"),
    ],
)
async def test_a_crash_ends_its_channel_alone_and_is_reported(event: str, call: str, error: str) -> None:
    async with conversation() as (application, client):
        await client.join("room:b", "2")
        answer = await client.ask("1", "3", "room:a", event)
        assert answer == ["1", "1", "room:a", "phx_error", {"reason": "channel_crash"}]
        assert await application.terminated.until_count(1) == [("room:a", Termination.CRASHED)]
        reported = None if call == "spawn" else event
        assert errors(application) == [(call, "room:a", reported, error)]
        assert (await client.ask("2", "4", "room:b", "echo"))[1] == "4"
        assert (await client.ask("5", "5", "room:a", "phx_join"))[4] == OK


async def test_a_terminate_that_raises_is_reported() -> None:
    async with serving() as (application, running), connected(running.url) as client:
        await client.join(payload={"crash_terminate": True})
        await client.ask("1", "2", "room:a", "phx_leave")
        await application.errors.until_count(1)
        assert errors(application) == [("terminate", "room:a", None, "RuntimeError")]


async def test_what_a_channel_spawned_is_cancelled_when_it_ends() -> None:
    ended = Log()
    application = Application()

    @application.on("work", topic="work")
    async def work(channel: ServerChannel, payload: Any) -> Any:
        async def endless() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.add("cancelled")

        channel.spawn(endless())
        return {}

    async with serving(application) as (_, running), connected(running.url) as client:
        await client.join("work")
        await client.ask("1", "2", "work", "work")
        await client.send("1", "3", "work", "phx_leave")
        assert await ended.until_count(1) == ["cancelled"]


async def test_only_a_coroutine_can_be_spawned() -> None:
    async with conversation() as (application, client):
        work: Any = application.rooms[0].joined  # not called
        with pytest.raises(TypeError, match="Coroutine"):
            application.rooms[0].spawn(work)
        await client.alive()


async def test_calls_into_a_channel_that_has_ended_do_nothing() -> None:
    async with conversation() as (application, client):
        await client.ask("1", "2", "room:a", "phx_leave")
        await application.terminated.until_count(1)
        room = application.rooms[0]

        async def never() -> None: ...

        room.push("pushed", {})
        room.stop()
        room.spawn(never())
        assert (await client.next())[3] == "phx_close"
        await client.alive()


# ---- last words -----------------------------------------------------------------------------------------------------


class Parting(ServerChannel):
    """Says good-bye to its client and to everyone."""

    async def terminate(self, reason: Termination) -> None:
        if self.params.get("slow"):
            await asyncio.sleep(0.01)
        self.push("bye", {})
        self.broadcast("gone", {"reason": reason.name})
        if self.params.get("raise"):
            raise RuntimeError

    @on("stop")
    async def end(self, payload: Any) -> Any:
        self.stop()
        return {}

    @on("spawn_crash")
    async def spawn_crash(self, payload: Any) -> None:
        async def fail() -> None:
            raise RuntimeError

        self.spawn(fail())


def parting() -> Application:
    application = Application()
    application.channel("parting")(Parting)
    return application


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    ("event", "reason", "answer", "last"),
    [
        ("phx_leave", "LEFT", True, ["phx_close", {}]),
        ("stop", "STOPPED", True, ["phx_close", {}]),
        ("unknown", "CRASHED", False, ["phx_error", {"reason": "channel_crash"}]),
        ("spawn_crash", "CRASHED", False, ["phx_error", {"reason": "channel_crash"}]),
    ],
)
async def test_what_terminate_sends_comes_before_the_end(
    event: str, reason: str, last: Any, *, answer: bool, slow: bool
) -> None:
    async with (
        serving(parting()) as (application, running),
        connected(running.url) as client,
        connected(running.url) as other,
    ):
        await other.join("parting")
        await client.join("parting", payload={"slow": slow})
        await client.send("1", "2", "parting", event)
        if answer:
            assert await client.next() == ["1", "2", "parting", "phx_reply", OK]
        assert await client.next() == ["1", None, "parting", "bye", {}]
        assert await client.next() == [None, None, "parting", "gone", {"reason": reason}]
        assert await client.next() == ["1", "1", "parting", *last]
        assert await other.next() == [None, None, "parting", "gone", {"reason": reason}]
        await client.join("parting", "3")
        errors(application)


@pytest.mark.parametrize("how", ["closed", "dropped", "replaced"])
async def test_what_terminate_sends_reaches_the_others_where_its_own_client_cannot_hear(how: str) -> None:
    async with (
        serving(parting()) as (_, running),
        connected(running.url) as client,
        connected(running.url) as other,
    ):
        await other.join("parting")
        await client.join("parting")
        if how == "closed":
            await client.websocket.close()
        elif how == "dropped":
            client.websocket.transport.abort()
        else:
            assert (await client.ask("2", "2", "parting", "phx_join"))[1] == "2"
            assert await client.next() == ["1", "1", "parting", "phx_close", {}]
        reason = "REPLACED" if how == "replaced" else "CONNECTION"
        assert await other.next() == [None, None, "parting", "gone", {"reason": reason}]


async def test_a_terminate_that_raises_is_a_crash_to_the_client() -> None:
    async with serving(parting()) as (application, running), connected(running.url) as client:
        await client.join("parting", payload={"raise": True})
        await client.send("1", "2", "parting", "phx_leave")
        assert [(await client.next())[3] for _ in range(4)] == ["phx_reply", "bye", "gone", "phx_error"]
        assert errors(application) == [("terminate", "parting", None, "RuntimeError")]


async def test_a_join_while_terminate_runs_does_not_wait_for_it_and_keeps_its_broadcasts() -> None:
    gate, over = asyncio.Event(), Log()
    application = Application()

    @application.channel("x")
    class Slow(ServerChannel):
        async def terminate(self, reason: Termination) -> None:
            if reason is Termination.LEFT:
                await gate.wait()
                self.push("late", {})
                over.add(reason)

    async with serving(application) as (_, running), connected(running.url) as client:
        await client.join("x")
        await client.ask("1", "2", "x", "phx_leave")
        assert (await client.ask("3", "3", "x", "phx_join"))[1] == "3"
        assert await client.next() == ["1", "1", "x", "phx_close", {}]
        gate.set()
        await over.until_count(1)
        await client.alive()
        application.broadcast("x", "news", {})
        assert (await client.next())[3] == "news"


async def test_an_end_while_a_handler_runs_is_told_at_once() -> None:
    gate = asyncio.Event()
    application = Application()

    @application.channel("x")
    class Busy(Parting):
        async def handle_in(self, event: str, payload: Any) -> Any:
            async def fail() -> None:
                raise RuntimeError

            self.spawn(fail())
            await gate.wait()

    async with serving(application) as (_, running), connected(running.url) as client:
        await client.join("x")
        assert (await client.ask("1", "2", "x", "wait"))[3] == "phx_error"
        gate.set()
        await client.alive()
        assert errors(application) == [("spawn", "x", None, "RuntimeError")]


async def test_a_stop_in_joined_comes_after_it() -> None:
    application = Application()

    @application.channel("x")
    class Short(Parting):
        async def joined(self) -> None:
            self.stop()
            self.push("welcome", {})

    async with serving(application) as (_, running), connected(running.url) as client:
        await client.join("x")
        assert [(await client.next())[3] for _ in range(4)] == ["welcome", "bye", "gone", "phx_close"]


# ---- broadcasts -----------------------------------------------------------------------------------------------------


async def test_a_broadcast_reaches_everyone_and_comes_before_the_reply() -> None:
    shout = [None, None, "room:a", "shout", {"x": 1}]
    async with conversation() as (application, client), connected(application.url) as other:
        await other.join(ref="9")
        assert await client.ask("1", "2", "room:a", "broadcast", {"x": 1}) == shout
        assert await client.next() == ["1", "2", "room:a", "phx_reply", OK]
        assert await other.next() == shout


class Filtering(Room):
    """Lets its client have what is meant for everybody, or for it by name."""

    intercept = ("shout", "crash")

    async def handle_out(self, event: str, payload: Any) -> None:
        if event == "crash":
            raise RuntimeError("handle_out")
        if payload.get("to") in (None, self.params.get("name")):
            self.push(event, payload | {"for": self.params.get("name")})


@asynccontextmanager
async def filtered() -> AsyncIterator[tuple[Application, Client, Client]]:
    """Two clients whose broadcasts are intercepted, with join_refs 1 and 9."""
    application = Application()
    application.channel("filtered:*")(lambda: Filtering(application))
    async with (
        serving(application) as (_, running),
        connected(running.url) as first,
        connected(running.url, "1.0.0") as second,
    ):
        await first.join("filtered:a", "1", {"name": "first"})
        await second.join("filtered:a", "9", {"name": "second"})
        yield application, first, second


async def test_an_intercepted_broadcast_is_pushed_by_each_channel_after_the_reply_of_what_caused_it() -> None:
    async with filtered() as (_, first, second):
        reply = await first.ask("1", "2", "filtered:a", "broadcast", {"n": 1})
        assert reply == ["1", "2", "filtered:a", "phx_reply", OK]
        assert await first.next() == ["1", None, "filtered:a", "shout", {"n": 1, "for": "first"}]
        assert (await second.next())["payload"] == {"n": 1, "for": "second"}


async def test_an_intercepted_broadcast_may_be_kept_from_a_client_and_others_go_by_as_ever() -> None:
    async with filtered() as (application, first, second):
        application.broadcast("filtered:a", "shout", {"to": "second"})
        application.broadcast("filtered:a", "other", {})
        assert await first.next() == [None, None, "filtered:a", "other", {}]
        assert [(await second.next())["event"] for _ in range(2)] == ["other", "shout"]


async def test_broadcast_from_passes_by_the_senders_own_handle_out() -> None:
    async with filtered() as (_, first, second):
        await first.ask("1", "2", "filtered:a", "broadcast_from", {"n": 1})
        assert (await second.next())["payload"]["for"] == "second"
        await first.alive()


async def test_a_handle_out_that_raises_crashes_its_channel_and_is_reported() -> None:
    async with filtered() as (application, first, _):
        application.broadcast("filtered:a", "crash", {})
        assert (await first.next())[3] == "phx_error"
        await application.terminated.until_count(2)
        assert errors(application) == [("handle_out", "filtered:a", "crash", "RuntimeError")] * 2


async def test_a_class_that_intercepts_needs_a_handle_out() -> None:
    class Forgetful(Room):
        intercept = frozenset({"shout"})

    application = Application()
    application.channel("forgetful:*")(lambda: Forgetful(application))
    async with serving(application) as (_, running), connected(running.url) as client:
        await client.join("forgetful:a")
        application.broadcast("forgetful:a", "shout", {})
        assert (await client.next())[3] == "phx_error"
        assert errors(application) == [("handle_out", "forgetful:a", "shout", "NotImplementedError")]


async def test_what_is_intercepted_is_a_collection() -> None:
    with pytest.raises(InvalidHandler, match=r"\('shout',\)"):
        type("Wrong", (ServerChannel,), {"intercept": "shout"})


async def test_a_call_on_another_thread_is_refused() -> None:
    async with conversation() as (application, client):
        (room,), (socket,) = application.rooms, application.sockets
        for call in (
            partial(application.broadcast, "room:a", "shout", {}),
            partial(room.push, "shout", {}),
            socket.disconnect,
            socket.close,
        ):
            with pytest.raises(OtherLoop, match="call_soon_threadsafe"):
                await asyncio.to_thread(call)
        await client.alive()


async def test_broadcast_from_leaves_the_sender_out() -> None:
    async with serving() as (_, running), connected(running.url) as client, connected(running.url) as other:
        await client.join()
        await other.join()
        assert await client.ask("1", "2", "room:a", "broadcast_from", {"x": 1}) == ["1", "2", "room:a", "phx_reply", OK]
        assert (await other.next())[3:] == ["shout", {"x": 1}]
        await client.alive()


async def test_a_broadcast_is_encoded_once_for_each_version(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for serializer in (V1Server, V2Server):
        original = serializer.broadcast

        def counted(self: Any, *fields: Any, _original: Any = original) -> Any:
            calls.append(self.vsn)
            return _original(self, *fields)

        monkeypatch.setattr(serializer, "broadcast", counted)
    async with serving() as (application, running), contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connected(running.url, vsn)) for vsn in ("2.0.0", "1.0.0", "2.0.0", "1.0.0")
        ]
        for client in clients:
            await client.join()
        application.broadcast("room:a", "shout", {"x": 1})
        object_ = {"topic": "room:a", "event": "shout", "payload": {"x": 1}, "ref": None}
        array = [None, None, "room:a", "shout", {"x": 1}]
        assert [await client.next() for client in clients] == [array, object_, array, object_]
        assert sorted(calls) == ["1.0.0", "2.0.0"]


async def test_a_broadcast_that_one_version_cannot_carry_reaches_nobody_and_crashes_its_channel() -> None:
    async with (
        serving() as (application, running),
        connected(running.url) as new,
        connected(running.url, "1.0.0") as old,
    ):
        await new.join()
        await old.join()
        assert (await new.ask("1", "2", "room:a", "broadcast_binary"))[3] == "phx_error"
        assert errors(application) == [("handle_in", "room:a", "broadcast_binary", "BinaryNotSupported")]
        application.broadcast("room:a", "shout", {})
        assert (await old.next())["event"] == "shout"


async def test_a_broadcast_that_cannot_be_encoded_raises_at_the_call() -> None:
    async with conversation() as (application, client):
        with pytest.raises(InvalidPayload):
            application.broadcast("room:a", "shout", {"x": float("inf")})
        application.broadcast("room:nobody", "shout", {"x": float("inf")})
        await client.alive()


async def test_who_left_gets_no_broadcast() -> None:
    async with conversation() as (application, client):
        await client.ask("1", "2", "room:a", "phx_leave")
        await client.next()
        application.broadcast("room:a", "shout", {})
        await client.alive()


# ---- functions ------------------------------------------------------------------------------------------------------


async def test_functions_serve_a_topic_without_a_class() -> None:
    application = Application()

    @application.on("add", topic="sum:*")
    def add(channel: ServerChannel, payload: Any) -> Any:
        return {"topic": channel.topic, "sum": sum(payload)}

    async with serving(application) as (_, running), connected(running.url) as client:
        await client.join("sum:a")
        answer = await client.ask("1", "2", "sum:a", "add", [1, 2])
        assert answer[4] == {"status": "ok", "response": {"topic": "sum:a", "sum": 3}}


async def test_a_method_may_be_overridden_and_events_are_inherited() -> None:
    class Base(ServerChannel):
        @on("who")
        async def who(self, payload: Any) -> Any:
            return "base"

        @on("kept")
        async def kept(self, payload: Any) -> Any:
            return "kept"

    class Derived(Base):
        async def who(self, payload: Any) -> Any:
            return "derived"

        async def handle_in(self, event: str, payload: Any) -> Any:
            return f"any {event}"

    application = Application()
    application.channel("x")(Derived)
    async with serving(application) as (_, running), connected(running.url) as client:
        await client.join("x")
        answers = [(await client.ask("1", "2", "x", event))[4]["response"] for event in ("who", "kept", "else")]
        assert answers == ["derived", "kept", "any else"]


async def test_a_pattern_cannot_be_taken_twice() -> None:
    application = Application()
    with pytest.raises(InvalidHandler, match="taken"):
        application.channel("room:*")(ServerChannel)


async def test_a_registration_without_its_event_or_topics_is_refused() -> None:
    application: Any = Application()
    handler: Any = Room.joined
    with pytest.raises(InvalidHandler, match="name its topics"):
        application.channel(Room)
    with pytest.raises(InvalidHandler, match="name its event"):
        application.on(handler, topic="room:*")
    with pytest.raises(InvalidHandler, match="name its event"):
        on(handler)


async def test_what_is_no_channel_crashes_the_join_and_is_reported_as_such() -> None:
    application = Application()
    no_channel: Any = dict
    application.channel("wrong")(no_channel)
    async with serving(application) as (_, running), connected(running.url) as client:
        answer = await client.ask("1", "1", "wrong", "phx_join")
        assert answer[4]["response"] == {"reason": "join crashed"}
        assert str(application.errors.entries[0].error) == "what is registered for the topic is a ServerChannel, not {}"
        assert errors(application) == [("join", "wrong", None, "TypeError")]


# ---- errors ---------------------------------------------------------------------------------------------------------


async def be_cancelled() -> None:
    """The task that calls it, a worker, is cancelled from outside."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


async def test_a_worker_cancelled_from_outside_crashes_its_channel_and_others_go_on() -> None:
    application = Application()

    @application.on("suicide", topic="x")
    async def suicide(channel: ServerChannel, payload: Any) -> Any:
        await be_cancelled()

    async with serving(application) as (_, running), connected(running.url) as client:
        await client.join("x")
        assert (await client.ask("1", "2", "x", "suicide"))[3] == "phx_error"
        assert errors(application) == [("handle_in", "x", None, "CancelledError")]
        await client.join("x", "3")


async def test_a_worker_cancelled_in_a_join_crashes_the_join() -> None:
    application = Application()

    @application.channel("x")
    class Cancels(ServerChannel):
        async def join(self, topic: str, params: Any) -> Any:
            await be_cancelled()

    async with serving(application) as (_, running), connected(running.url) as client:
        answer = await client.ask("1", "1", "x", "phx_join")
        assert answer[4]["response"] == {"reason": "join crashed"}
        assert errors(application) == [("join", "x", None, "CancelledError")]
        await client.join("room:a", "3")


async def test_a_worker_cancelled_in_terminate_ends_its_channel() -> None:
    application = Application()

    @application.channel("x")
    class Cancels(ServerChannel):
        async def terminate(self, reason: Termination) -> None:
            await be_cancelled()

    async with serving(application) as (_, running), connected(running.url) as client:
        await client.join("x")
        await client.ask("1", "2", "x", "phx_leave")
        assert (await client.next())[3] == "phx_close"
        assert errors(application) == [("terminate", "x", None, "CancelledError")]


class Own(BaseException):
    """An application's own, that is no `Exception`."""


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, Own])
@pytest.mark.parametrize("call", ["join", "joined", "handle_in", "terminate", "spawn"])
async def test_an_error_that_would_end_a_program_ends_its_channel_alone(call: str, error: type[BaseException]) -> None:
    application = Application()

    @application.channel("x")
    class Ends(ServerChannel):
        async def call(self, name: str) -> None:
            if name == call:
                raise error

        async def join(self, topic: str, params: Any) -> None:
            await self.call("join")

        async def joined(self) -> None:
            await self.call("joined")

        async def handle_in(self, event: str, payload: Any) -> None:
            await self.call("handle_in")
            self.spawn(self.call("spawn"))

        async def terminate(self, reason: Termination) -> None:
            await self.call("terminate")

    async with (
        serving(application) as (_, running),
        connected(running.url) as client,
        connected(running.url) as other,
    ):
        await other.join("room:a")
        answer = await client.ask("1", "1", "x", "phx_join")
        if call == "join":
            assert answer[4] == {"status": "error", "response": {"reason": "join crashed"}}
        else:
            if call == "terminate":
                assert (await client.ask("1", "2", "x", "phx_leave"))[4] == OK
            elif call != "joined":
                await client.send("1", "2", "x", "do")
            assert (await client.next())[3] == "phx_error"
        assert (await other.ask("1", "2", "room:a", "echo"))[1] == "2"
        event = "do" if call == "handle_in" else None
        assert errors(application) == [(call, "x", event, error.__name__)]
        await client.join("room:b", "4")


async def test_an_on_error_that_raises_is_told_to_the_loop() -> None:
    contexts: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    usual = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: contexts.append(context))

    def fail(report: object) -> None:
        raise SystemExit("on_error")

    server = Server(on_error=fail)
    server.channel("x")(ServerChannel)
    async with server.serve() as running, connected(running.url) as client:
        await client.join("x")
        assert (await client.ask("1", "2", "x", "what"))[3] == "phx_error"
    loop.set_exception_handler(usual)
    assert [context["message"] for context in contexts] == ["on_error failed"]


async def test_errors_are_logged_without_an_on_error(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.channel("x")(ServerChannel)
    async with server.serve() as running, connected(running.url) as client:
        await client.join("x")
        await client.ask("1", "2", "x", "what", {"secret": "sekret"})
    assert "handle_in of event 'what' on topic 'x' failed" in caplog.text
    assert "sekret" not in caplog.text


@pytest.mark.parametrize("call", ["connect", "join", "handle_in"])
async def test_what_a_client_sent_in_confidence_is_masked_in_the_log(
    call: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def connect(socket: ServerSocket) -> None:
        if call == "connect":
            raise ValueError(f"who is {socket.auth_token}, {socket.params}, {socket.headers}?")

    server = Server(connect=connect)

    @server.channel("x")
    class Repeats(ServerChannel):
        async def join(self, topic: str, params: Any) -> Any:
            if call == "join":
                raise KeyError(params["key"])

        async def handle_in(self, event: str, payload: Any) -> Any:
            try:
                raise KeyError(self.socket.auth_token)
            except KeyError as error:
                raise RuntimeError(f"{self.socket.params} {self.socket.headers} {self.params}") from error

    token = base64.b64encode(b"s3cret of the token").decode().rstrip("=")
    subprotocols = ["phoenix", f"base64url.bearer.phx.{token}"]
    headers = {"Authorization": "Bearer s3cret-of-a-header"}
    vsn = "2.0.0&key=s3cret-of-the-url"
    async with server.serve() as running:
        with contextlib.suppress(InvalidStatus):
            async with connected(running.url, vsn, subprotocols=subprotocols, additional_headers=headers) as client:
                await client.ask("1", "1", "x", "phx_join", {"key": "s3cret-of-the-join"})
                await client.ask("1", "2", "x", "what", {})
    assert call in caplog.text
    assert "[secret]" in caplog.text
    assert "s3cret" not in caplog.text


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RecursionError

    __repr__ = __str__


@pytest.mark.parametrize("text", ["a\nb\x1b[2J\u202e", "x" * 100_000, None])
async def test_a_clients_words_are_logged_cut_and_escaped(text: str | None, caplog: pytest.LogCaptureFixture) -> None:
    server = Server()

    @server.channel("x*")
    class Repeats(ServerChannel):
        async def handle_in(self, event: str, payload: Any) -> Any:
            if text is None:
                raise Unspeakable
            try:
                raise ValueError(payload)
            except ValueError as error:
                raise RuntimeError(payload) from error

    words = text or ""
    async with server.serve() as running, connected(running.url) as client:
        await client.join(f"x{words[:5_000]}")
        assert (await client.ask("1", "2", f"x{words[:5_000]}", words, words))[3] == "phx_error"
        await client.alive()
    logged = caplog.text
    assert len(logged) < 5_000
    assert not {"\x1b", "\u202e"} & set(logged)
    assert "a\nb" not in logged
    assert ("Unspeakable" if text is None else "RuntimeError: ") in logged
    assert "in handle_in" in logged
