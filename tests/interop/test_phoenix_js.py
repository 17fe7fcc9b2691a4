"""The official JavaScript client on our server, in Node and in headless Chromium.

`scenarios.mjs` holds the client's side of each scenario and judges what the client sees; here is what the server must
have seen. `rooms.py` is the application.
"""

import asyncio
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final
from unittest.mock import ANY

import pytest
from rooms import TOKEN, Entry
from runtimes import SCREENSHOT, missing, perform
from stage import Stage

RUNTIMES: Final = ("node", "chromium")

V1, V2 = "1.0.0", "2.0.0"
ROOM, OTHER, LOBBY = "room:lobby", "room:other", "presence:lobby"
BYTES: Final = b"\x00\x01\x7f\x80\xff"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the server sees of a scenario.

    Attributes:
        journal: In order, but for `AT_ONCE`.
        closes: Codes of the connections that ended before the scenario did.
    """

    journal: tuple[Entry, ...]
    closes: tuple[int | None, ...] = ()


def connect(vsn: str = V2, **params: Any) -> Entry:
    return ("connect", vsn, params, None)


def join(topic: str = ROOM, **params: Any) -> Entry:
    return ("join", topic, params)


def present(name: str, device: str, **params: Any) -> tuple[Entry, ...]:
    return connect(**params), join(LOBBY, name=name, meta={"device": device})


def crash(topic: str = ROOM) -> tuple[Entry, ...]:
    return ("crash", {}), ("error", "handle_in", "NotImplementedError"), ("end", topic, "CRASHED")


CONNECT, JOIN = connect(), join()
JOINED: Final = (CONNECT, JOIN)
ECHO: Final = ("echo", {"n": 1})

SCENARIOS: Final[Mapping[str, Seen]] = MappingProxyType(
    {
        "connect_with_params": Seen((connect(user="ann", filter={"text": "1 + 1 = é&", "deep": {"er": "yes"}}),)),
        "connect_with_auth_token": Seen((("connect", V2, {}, TOKEN),)),
        "connect_refused_until_the_token_is_right": Seen(
            (("refuse", "wrong"), ("refuse", "wrong too"), ("connect", V2, {}, TOKEN))
        ),
        "disconnect_and_connect_again": Seen((*JOINED, *JOINED, ECHO), closes=(3001,)),
        "join_ok": Seen((CONNECT, join(since=7))),
        "join_refused_then_accepted": Seen((CONNECT, join("room:flaky"), join("room:flaky"))),
        "join_of_a_topic_without_a_channel": Seen((CONNECT,)),
        "join_that_crashes": Seen((CONNECT, join("room:crash_join"), ("error", "join", "ZeroDivisionError"))),
        "join_timed_out_then_accepted": Seen(
            (CONNECT, join("room:slow_once"), ("end", "room:slow_once", "LEFT"), join("room:slow_once"), ECHO)
        ),
        "rejoin_after_a_crash": Seen(
            (CONNECT, join(OTHER), join(n=1), *crash(), join(n=1), ECHO, ("echo", {"n": 2})),
        ),
        "rejoin_after_a_server_restart": Seen((*JOINED, join(OTHER), *JOINED, join(OTHER), ECHO), closes=(1012,)),
        "rejoin_after_a_cut": Seen((*JOINED, *JOINED), closes=(None,)),
        "duplicate_join_the_client_leaves_the_old_one": Seen(
            (*JOINED, ("end", ROOM, ANY), JOIN, ECHO)  # left, or replaced if leave and join came in one read
        ),
        "duplicate_join_the_server_replaces_the_old_one": Seen(
            (CONNECT, join(n=1), ("end", ROOM, "REPLACED"), join(n=2), ("echo", {"n": 3}))
        ),
        "leave": Seen((*JOINED, ("end", ROOM, "LEFT"), JOIN)),
        "stopped_by_the_server": Seen((*JOINED, ("end", ROOM, "STOPPED"))),
        "push_ok_error_and_custom_status": Seen(
            (
                *JOINED,
                ("echo", {"text": 'é漢🎉 \u2028 "\\', "list": [1, 1.5, 0, None, True, {}], "big": 2**53}),
                ("echo_error", {"n": 2}),
                ("echo_maybe", {"n": 3}),
            )
        ),
        "push_timeout": Seen((*JOINED, ("no_reply", {}), ECHO)),
        "push_before_the_join_is_answered": Seen((*JOINED, ECHO)),
        "replies_come_in_order_and_to_their_own_pushes": Seen(JOINED),
        "large_messages": Seen(JOINED),
        "broadcast_to_all_to_the_others_and_from_outside": Seen(
            (*JOINED, *JOINED, ("shout", {"n": 1}), ("shout_to_others", {"n": 2}))
        ),
        "pushed_by_the_server": Seen((*JOINED, ("whisper", {"n": 1}))),
        "binary_push_and_reply": Seen((*JOINED, ("echo", BYTES), ("echo_error", BYTES), ("echo_maybe", b""))),
        "binary_broadcast_and_server_push": Seen(
            (*JOINED, *JOINED, ("shout", b"\x01\x02\xff"), ("whisper", b"\x01\x02\xff"))
        ),
        "presence_of_two_users": Seen(
            (*present("ann", "desk"), *present("bob", "phone"), *present("ann", "pad"), ("end", LOBBY, "LEFT"))
        ),
        "presence_ends_with_its_connection": Seen((*present("ann", "desk"), *present("bob", "phone")), closes=(1005,)),
        "presence_in_sync_after_a_reconnect": Seen(
            (
                *present("ann", "desk", user="ann"),
                *present("bob", "phone"),
                ("end", LOBBY, "LEFT"),
                *present("cid", "watch"),
                *present("ann", "desk", user="ann"),
            ),
            closes=(1001,),
        ),
        "presence_in_sync_after_a_server_restart": Seen(
            (*present("ann", "desk"), *present("bob", "phone")) * 2, closes=(1012, 1012)
        ),
        "heartbeats_keep_a_connection": Seen((CONNECT, CONNECT), closes=(1002,)),
        "heartbeat_timeout": Seen((CONNECT, join("room:stuck_once")) * 2, closes=(1000,)),
        "disconnected_by_id": Seen(
            (connect(user="ann"), JOIN, connect(user="bob"), JOIN, connect(user="ann"), JOIN, ECHO), closes=(1001,)
        ),
        "v1_join_push_broadcast_and_leave": Seen(
            (
                connect(V1),
                join(since=7),
                ("echo", {"text": "é漢🎉"}),
                ("echo_error", {"n": 2}),
                ("echo_maybe", {"n": 3}),
                ("shout", {"n": 4}),
                ("whisper", {"n": 5}),
                ("end", ROOM, "LEFT"),
            )
        ),
        "v1_and_v2_on_one_topic": Seen((connect(V1), JOIN, *JOINED, ("shout", {"n": 1}), ("shout", {"n": 2}))),
        "v1_join_refused_crash_and_heartbeats": Seen(
            (connect(V1), join("room:flaky"), join("room:flaky"), *crash("room:flaky"), join("room:flaky"))
        ),
        "v1_gets_no_binary": Seen(
            (connect(V1), JOIN, ("error", "handle_in", "BinaryNotSupported"), ("end", ROOM, "CRASHED"), JOIN)
        ),
    }
)


_LEFT_OUT: Final = frozenset(
    {
        "connect_with_auth_token",
        "connect_refused_until_the_token_is_right",
        "disconnect_and_connect_again",
        "rejoin_after_a_server_restart",
        "rejoin_after_a_cut",
        "large_messages",
        "binary_push_and_reply",
        "binary_broadcast_and_server_push",
        "presence_ends_with_its_connection",
        "presence_in_sync_after_a_reconnect",
        "presence_in_sync_after_a_server_restart",
        "heartbeats_keep_a_connection",
        "heartbeat_timeout",
        "disconnected_by_id",
        "v1_join_push_broadcast_and_leave",
        "v1_and_v2_on_one_topic",
        "v1_join_refused_crash_and_heartbeats",
        "v1_gets_no_binary",
    }
)

POLLED: Final[Mapping[str, Seen]] = MappingProxyType(
    {name: seen for name, seen in SCENARIOS.items() if name not in _LEFT_OUT}
    | {
        "polled_with_auth_token": Seen((("connect", V2, {}, TOKEN),)),
        "polled_refused_until_the_token_is_right": Seen((("refuse", "wrong"),)),
        "polled_large_message_and_bytes_to_the_server": Seen(JOINED),
        "polled_many_messages_at_once": Seen(JOINED),
        "polled_rejoin_after_a_server_restart": Seen(
            (*JOINED, join(OTHER), *JOINED, join(OTHER), ECHO), closes=(1012,)
        ),
        "polled_rejoin_after_a_cut": Seen((*JOINED, *JOINED), closes=(None,)),
        "polled_because_the_websocket_does_not_open": Seen(JOINED),
    }
)

#: Several clients act at once here: the order of the journal is not told.
AT_ONCE: Final = frozenset({"disconnected_by_id", "presence_in_sync_after_a_server_restart"})


def by_text(journal: Iterable[Entry]) -> list[Entry]:
    return sorted(journal, key=repr)


@cache
def played(runtime: str) -> Stage | Exception:
    """All scenarios in one run; what went wrong is told to every test."""
    try:
        return asyncio.run(perform(runtime))
    except Exception as error:
        return error


def stage_of(runtime: str) -> Stage:
    reason = missing(runtime)
    if reason is not None and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)
    stage = played(runtime)
    if isinstance(stage, Exception):
        raise stage
    return stage


@pytest.fixture(params=RUNTIMES)
def stage(request: pytest.FixtureRequest) -> Stage:
    return stage_of(request.param)


@pytest.fixture(params=RUNTIMES)
def polled(request: pytest.FixtureRequest) -> Stage:
    return stage_of(f"{request.param}-longpoll")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_phoenix_js(stage: Stage, scenario: str) -> None:
    check(stage, scenario, SCENARIOS[scenario])


@pytest.mark.parametrize("scenario", POLLED)
def test_phoenix_js_over_long_polling(polled: Stage, scenario: str) -> None:
    check(polled, scenario, POLLED[scenario])


def check(stage: Stage, scenario: str, seen: Seen) -> None:
    result = stage.results[scenario]
    assert result.error == "", "the client"
    order = by_text if scenario in AT_ONCE else list
    assert order(result.journal) == order(seen.journal)
    assert tuple(code for code, _ in result.closes) == seen.closes


def test_every_scenario_has_its_test(stage: Stage, polled: Stage) -> None:
    assert (list(stage.results), list(polled.results)) == (list(SCENARIOS), list(POLLED))


def test_the_browser_leaves_a_screenshot() -> None:
    stage_of("chromium")
    assert SCREENSHOT.read_bytes().startswith(b"\x89PNG")
