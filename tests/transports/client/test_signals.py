"""The signals that a running client handles: by default those without another handler."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from room_server import server
from serving_in_thread import LONG, start, until

import phx_transports.asyncio
import phx_transports.threads
import phx_transports.wsproto
from phx_proto.states import SocketState
from phx_transports.client.signals import signals_to, uninterrupted
from phx_transports.testing import serve

TAKEN = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def taken() -> Iterator[list[int]]:
    """An application that has taken both; what it heard."""
    heard: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: heard.append(number)) for number in TAKEN}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in TAKEN]


# ---- who takes what -------------------------------------------------------------------------------------------------


def test_signals_that_somebody_has_taken_stay_his(taken: list[int]) -> None:
    heard: list[int] = []
    before = handlers()
    with signals_to(heard.append, "unclaimed"):
        assert handlers() == before
        signal.raise_signal(signal.SIGTERM)
    assert (heard, taken) == ([], [signal.SIGTERM])


def test_one_is_taken_and_the_other_is_not_where_one_is_ignored() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_to(heard.append, "unclaimed"):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGTERM]


def test_all_are_taken_where_it_is_told_so_and_given_back(taken: list[int]) -> None:
    heard: list[int] = []
    before = handlers()
    with signals_to(heard.append, "all"):
        signal.raise_signal(signal.SIGINT)
    assert (heard, taken, handlers()) == ([signal.SIGINT], [], before)


def test_none_is_taken_where_it_is_told_so() -> None:
    before = handlers()
    with signals_to(lambda number: None, "none"):
        assert handlers() == before


def test_another_policy_is_refused() -> None:
    policy: Any = True
    with pytest.raises(ValueError, match="signals is True; it must be one of 'unclaimed', 'all', 'none'"):
        signals_to(lambda number: None, policy).__enter__()


def test_two_clients_hear_the_same_signal() -> None:
    first: list[int] = []
    second: list[int] = []
    before = handlers()
    with signals_to(first.append, "unclaimed"):
        with signals_to(second.append, "unclaimed"):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert (len(first), len(second), handlers()) == (2, 1, before)


def test_who_takes_a_signal_meanwhile_keeps_it() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with signals_to(lambda number: None, "unclaimed"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_asyncios_own_handling_of_sigint_is_nobodys() -> None:
    async def main() -> list[int]:
        heard: list[int] = []
        with signals_to(heard.append, "unclaimed"):
            signal.raise_signal(signal.SIGINT)
        return heard

    assert asyncio.run(main()) == [signal.SIGINT]


# ---- clients that run within an application -------------------------------------------------------------------------


def on_asyncio(url: str, then: Callable[[Any], None], **options: Any) -> None:
    async def main() -> None:
        async with phx_transports.asyncio.connect(url, proxy=None) as client:
            running = asyncio.create_task(client.run(**options))
            await asyncio.to_thread(then, client)
            if not options:
                client.stop()
            await asyncio.wait_for(running, LONG)

    asyncio.run(main())


def on_threads(url: str, then: Callable[[Any], None], **options: Any) -> None:
    with phx_transports.threads.connect(url, proxy=None) as client:

        def meanwhile() -> None:
            then(client)
            if not options:
                client.stop()

        doing = start(meanwhile)
        client.run(**options)
        doing.result(LONG)


def on_wsproto(url: str, then: Callable[[Any], None], **options: Any) -> None:
    with phx_transports.wsproto.connect(url) as client:
        doing = start(then, client)
        while not doing.done() and client.state is not SocketState.CLOSED:
            client.run(timeout=0.01, **options)
        doing.result(LONG)


in_each = pytest.mark.parametrize("run", [on_asyncio, on_threads, on_wsproto])


@in_each
def test_within_an_application_its_handlers_stay(run: Any, taken: list[int]) -> None:
    def kill(client: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: taken == [signal.SIGTERM])
        assert client.state is SocketState.OPEN

    with serve(server) as served:
        run(served.url, kill)


@in_each
def test_run_can_be_told_to_take_them_and_says_in_the_log_why_it_closes(
    run: Any, taken: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    theirs = signal.getsignal(signal.SIGTERM)

    def kill(client: Any) -> None:
        until(lambda: signal.getsignal(signal.SIGTERM) is not theirs)
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: taken or client.state is not SocketState.OPEN)

    with serve(server) as served:
        run(served.url, kill, signals="all")
    assert "SIGTERM: the client of ws://" in caplog.text
    assert taken == []
    assert signal.getsignal(signal.SIGTERM) is theirs


# ---- steps that Ctrl+C must not leave half done ---------------------------------------------------------------------


def interrupted(times: int, done: list[str]) -> str:
    """A step in which so many Ctrl+C come."""
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)
        done.append("interrupted")
    return "result"


@pytest.mark.parametrize(("times", "done"), [(1, ["interrupted"]), (2, ["interrupted"])])
def test_ctrl_c_waits_for_the_end_of_a_step_and_a_second_one_does_not(times: int, done: list[str]) -> None:
    so_far: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        uninterrupted(interrupted, times, done=so_far)
    assert so_far == done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_step_without_one_gives_what_it_gives_or_raises() -> None:
    assert uninterrupted(interrupted, 0, []) == "result"
    with pytest.raises(ZeroDivisionError):
        uninterrupted(divmod, 1, 0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_applications_own_hears_of_it_at_once() -> None:
    heard: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        assert uninterrupted(interrupted, 1, done=[]) == "result"
    finally:
        signal.signal(signal.SIGINT, previous)
    assert heard == [signal.SIGINT]


def test_only_the_main_thread_puts_ctrl_c_off() -> None:
    before = signal.getsignal(signal.SIGINT)
    during = start(uninterrupted, lambda *, number: signal.getsignal(number), number=signal.SIGINT)
    assert during.result(LONG) is before
