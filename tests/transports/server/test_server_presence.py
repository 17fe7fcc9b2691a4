"""Presence on the asyncio server, as clients see it on the wire."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from phoenix_by_hand import OK, Application, Client, connected, errors, serving

from phx_proto.formats import V2Server
from phx_transports.server import Refuse, ServerChannel, on

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("clean_loop")]

TOPIC = "presence:lobby"


class Lobby(ServerChannel):
    """Tracks the name its client joins with, and does what it is told."""

    async def join(self, topic: str, params: Any) -> None:
        if "track_and_refuse" in params:
            self.presence.track(params["name"], {})
            raise Refuse
        if "track_and_crash" in params:
            self.presence.track(params["name"], {})
            raise RuntimeError

    async def joined(self) -> None:
        self.presence.track(self.params["name"], {"mood": "ok"})
        self.presence.push_state()

    @on("track")
    async def track(self, payload: Any) -> Any:
        return {"phx_ref": self.presence.track(payload["name"], payload.get("meta", {}))}

    @on("track_late")
    async def track_late(self, payload: Any) -> Any:
        self.socket.assigns["begun"].set()
        await self.socket.assigns["gate"].wait()
        assert self.presence.track("ghost", {}) == ""
        assert self.presence.update("ghost", {}) == ""
        self.socket.assigns["done"].set()

    @on("update")
    async def update(self, payload: Any) -> Any:
        return {"phx_ref": self.presence.update(self.params["name"], payload)}

    @on("untrack")
    async def untrack(self, payload: Any) -> Any:
        self.presence.untrack(payload.get("name"))
        return {}

    @on("list")
    async def list(self, payload: Any) -> Any:
        return self.presence.list()

    @on("stop")
    async def end(self, payload: Any) -> None:
        self.stop()


@asynccontextmanager
async def lobby() -> AsyncIterator[tuple[Application, Client]]:
    """An application, and ann in its lobby; she has seen her own arrival."""
    application = Application()
    application.channel("presence:*")(Lobby)
    async with serving(application) as (_, running), connected(running.url) as ann:
        await ann.join(TOPIC, payload={"name": "ann"})
        diff, state = await ann.next(), await ann.next()
        assert diff[:4] == [None, None, TOPIC, "presence_diff"]
        assert state[:4] == ["1", None, TOPIC, "presence_state"]
        assert state[4] == diff[4]["joins"]
        yield application, ann


async def changed(client: Client) -> tuple[list[str], list[str]]:
    """Who joins and who leaves by the next message, a diff."""
    _, _, topic, event, payload = await client.next()
    assert (topic, event) == (TOPIC, "presence_diff")
    return list(payload["joins"]), list(payload["leaves"])


async def here(client: Client) -> list[str]:
    answer = await client.ask("1", "list", TOPIC, "list")
    return list(answer[4]["response"])


async def test_everyone_on_the_topic_is_told_and_the_newcomer_gets_the_state() -> None:
    async with lobby() as (application, ann), connected(application.url) as bob:
        await bob.join(TOPIC, payload={"name": "bob"})
        assert await changed(ann) == (["bob"], [])
        assert await changed(bob) == (["bob"], [])
        assert list((await bob.next())[4]) == ["ann", "bob"]


async def test_clients_that_are_cut_all_at_once_are_not_told_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    application = Application()
    application.channel("presence:*")(Lobby)
    async with serving(application) as (_, running), connected(running.url) as ann, connected(running.url) as bob:
        await ann.join(TOPIC, payload={"name": "ann"})
        await bob.join(TOPIC, payload={"name": "bob"})
        await ann.next()
        told: list[str] = []
        monkeypatch.setattr(V2Server, "broadcast", lambda self, topic, event, payload: told.append(event))
        running.cut()
        assert told == []


async def test_an_update_names_the_ref_before_it() -> None:
    async with lobby() as (_, ann):
        old = (await ann.ask("1", "2", TOPIC, "list"))[4]["response"]["ann"]["metas"][0]["phx_ref"]
        diff = (await ann.ask("1", "3", TOPIC, "update", {"mood": "great"}))[4]
        (new,) = diff["joins"]["ann"]["metas"]
        assert diff["leaves"] == {"ann": {"metas": [{"mood": "ok", "phx_ref": old}]}}
        assert new == {"mood": "great", "phx_ref": new["phx_ref"], "phx_ref_prev": old}
        assert (await ann.next())[4] == {"status": "ok", "response": {"phx_ref": new["phx_ref"]}}


async def test_several_keys_may_be_tracked_and_untracked_one_by_one() -> None:
    async with lobby() as (_, ann):
        await ann.send("1", "2", TOPIC, "track", {"name": "ann's phone"})
        assert await changed(ann) == (["ann's phone"], [])
        await ann.next()
        await ann.send("1", "3", TOPIC, "untrack", {"name": "ann"})
        assert await changed(ann) == ([], ["ann"])
        await ann.next()
        assert await here(ann) == ["ann's phone"]


async def test_untracking_nothing_tells_nobody() -> None:
    async with lobby() as (_, ann):
        assert (await ann.ask("1", "2", TOPIC, "untrack", {"name": "nobody"}))[4] == OK


@pytest.mark.parametrize(
    ("payload", "error"),
    [({"name": "ann"}, "InvalidPresence"), ({"name": "x", "meta": []}, "InvalidPresence")],
)
async def test_a_presence_that_cannot_be_crashes_its_channel(payload: Any, error: str) -> None:
    async with lobby() as (application, ann):
        await ann.send("1", "2", TOPIC, "track", payload)
        assert (await ann.next())[3] == "phx_error"
        assert errors(application) == [("handle_in", TOPIC, "track", error)]


@pytest.mark.parametrize("how", ["phx_leave", "stop", "unknown", "phx_join"])
async def test_the_end_of_a_channel_is_the_end_of_its_presence(how: str) -> None:
    async with lobby() as (application, ann), connected(application.url) as bob:
        await bob.join(TOPIC, payload={"name": "bob"})
        assert await changed(ann) == (["bob"], [])
        ref = "2" if how == "phx_join" else "1"
        await bob.send(ref, "2", TOPIC, how, {"name": "bob's return"})
        assert await changed(ann) == ([], ["bob"])
        application.errors.entries.clear()  # an unknown event is one


@pytest.mark.parametrize("how", ["closed", "cut", "disconnected"])
async def test_the_end_of_a_connection_is_the_end_of_its_presence(how: str) -> None:
    async with lobby() as (application, ann), connected(application.url) as bob:
        await bob.join(TOPIC, payload={"name": "bob"})
        assert await changed(ann) == (["bob"], [])
        match how:
            case "closed":
                await bob.websocket.close()
            case "cut":
                bob.websocket.transport.abort()
            case _:
                application.sockets[1].disconnect()
        assert await changed(ann) == ([], ["bob"])


@pytest.mark.parametrize(("how", "reported"), [("track_and_refuse", []), ("track_and_crash", ["RuntimeError"])])
async def test_what_a_join_tracks_that_is_not_accepted_ends_with_it(how: str, reported: list[str]) -> None:
    async with lobby() as (application, ann), connected(application.url) as bob:
        await bob.ask("1", "1", TOPIC, "phx_join", {"name": "bob", how: True})
        assert await changed(ann) == (["bob"], [])
        assert await changed(ann) == ([], ["bob"])
        assert await here(ann) == ["ann"]
        assert [error for *_, error in errors(application)] == reported


async def test_a_channel_that_has_ended_tracks_nothing() -> None:
    async with lobby() as (application, ann), connected(application.url) as bob:
        await bob.join(TOPIC, payload={"name": "bob"})
        assert await changed(ann) == (["bob"], [])
        assigns = application.sockets[1].assigns
        assigns.update(begun=asyncio.Event(), gate=asyncio.Event(), done=asyncio.Event())
        await bob.send("1", "2", TOPIC, "track_late")
        await assigns["begun"].wait()
        await bob.websocket.close()
        assert await changed(ann) == ([], ["bob"])
        assigns["gate"].set()
        await assigns["done"].wait()
        assert await here(ann) == ["ann"]


async def test_topics_are_apart() -> None:
    async with lobby() as (application, ann), connected(application.url) as bob:
        await bob.join("presence:other", payload={"name": "bob"})
        await ann.alive()
        assert await here(ann) == ["ann"]


async def test_a_server_that_closes_does_not_tell_its_clients_of_each_other() -> None:
    application = Application()
    application.channel("presence:*")(Lobby)
    async with AsyncExitStack() as clients:
        async with serving(application) as (_, running):
            ann, bob = [await clients.enter_async_context(connected(running.url)) for _ in range(2)]
            await ann.join(TOPIC, payload={"name": "ann"})
            await bob.join(TOPIC, payload={"name": "bob"})
            events = [(await ann.next())[3] for _ in range(3)] + [(await bob.next())[3] for _ in range(2)]
            assert sorted(events) == ["presence_diff"] * 3 + ["presence_state"] * 2
        assert [await ann.closed(), await bob.closed()] == [1012, 1012]
