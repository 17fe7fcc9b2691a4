"""`python -m bench`: every measurement in one run, as ratios to baselines of the same run, with the spread.

Parts: `core` (no I/O: `receive_all` to dispatch beside `orjson.loads` of the same frames), `client` (the asyncio client
beside a bare `websockets` loop and a bare picows listener, at 1, 100 and 10,000 topics), `picows` (a typed handler and
one topic, on asyncio's loop and on uvloop, as ratios to bare picows), `topics` (each message of another topic, as a
ratio to one topic), `threads` (the client on threads beside a bare `websockets.sync` loop, messages and pushes),
`wsproto` (the blocking client on wsproto beside a bare wsproto loop), `pushes` (push to reply), `joins` (joins and
rejoins of 10,000 topics), `plain` (plain handlers in asyncio's thread pool, at 1, 500 and 10,000 topics), `executors`
(handlers that compute: on the loop, in threads, in processes, on Dask), `memory` (bytes a topic), `longpoll` (pushes
and messages over long polling beside phoenix.js on Node) and `others` (the same work on other clients from PyPI, each
in an environment of its own).
"""

import argparse
import os
import platform
import sys
import timeit
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bench import environments
from bench.environments import NotInstalled, Package
from bench.meter import Task
from bench.rounds import Contender, Row, Spread, compare, feeding, weigh
from bench.runners.executors import compute

BARE = "bench.runners.bare"
PICOWS = "bench.runners.bare_picows"
OURS = "bench.runners.ours"
CORE = "bench.runners.core"
SERVING = "bench.runners.serving"
WSPROTO_BARE = "bench.runners.wsproto_bare"
WSPROTO_OURS = "bench.runners.wsproto_ours"
BARE_SYNC = "bench.runners.bare_sync"
THREADS = "bench.runners.threads"
EXECUTORS = "bench.runners.executors"
JOINS = "bench.runners.joins"
POLLING = "bench.runners.polling"
PHOENIX_JS = "bench.runners.phoenix_js"
TOPICS = (1, 100, 10_000)
#: Seconds for one run of one contender.
LIMIT = 120.0


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    port: int
    messages: int
    rounds: int
    topics: tuple[int, ...]
    others: bool


@dataclass(frozen=True)
class Other:
    """Another client, as it is measured.

    Attributes:
        task: What differs from the plain task: kind, shape, options.
    """

    package: Package
    runner: str
    task: dict[str, Any]
    note: str


_PHX_EVENTS = Package("phx-events", "==0.4.*", instead="websockets==10.4")
_REALTIME = Package("realtime", "==2.*")
_PCPC = Package("phoenix-channels-python-client", "==0.4.*")
_PHXSOCKET = Package("phxsocket", "==0.1.*")
_PCPC_RUNNER = "bench.others.phoenix_channels_python_client"
_UNBOUNDED = 10_000_000

OTHERS = (
    Other(
        _PHX_EVENTS,
        "bench.others.phx_events",
        {},
        "V1, async handler; on websockets 10.4, for the ~=9.1 it asks for fails since Python 3.10",
    ),
    Other(_REALTIME, "bench.others.realtime", {"shape": "supabase"}, "V1, plain callback, Supabase's envelope"),
    Other(_PCPC, _PCPC_RUNNER, {"options": {"version": "2.0"}}, "V2, async handler, broadcasts (null join_ref)"),
    Other(
        _PCPC,
        _PCPC_RUNNER,
        {"kind": "push", "options": {"version": "2.0"}},
        "V2, async handler, pushes, its default queue of 1,000 a topic, which drops",
    ),
    Other(
        _PCPC,
        _PCPC_RUNNER,
        {"kind": "push", "options": {"version": "2.0", "queue": _UNBOUNDED}},
        "V2, async handler, pushes, queue unbounded",
    ),
    Other(
        _PCPC,
        _PCPC_RUNNER,
        {"options": {"version": "1.0", "queue": _UNBOUNDED}},
        "V1, async handler, broadcasts, queue unbounded",
    ),
    Other(_PHXSOCKET, "bench.others.phxsocket", {}, "V1, plain callback on the reading thread"),
)


def main() -> int:
    """Parses, measures, prints. Nothing that cannot be measured stops the rest; its row says why."""
    arguments = _arguments()
    rounds = arguments.repeat or (2 if arguments.quick else 5)
    messages = arguments.messages or (20_000 if arguments.quick else 200_000)
    print(_machine())
    print(f"{messages:,} messages a run, {rounds} rounds; median [lowest to highest], of values and of ratios\n")
    topics = TOPICS[:2] if arguments.quick else TOPICS
    with feeding() as port:
        plan = Plan(port, messages, rounds, topics, others=not arguments.no_others)
        for name in arguments.only or PARTS:
            PARTS[name](plan)
    return 0


# ---- the parts ------------------------------------------------------------------------------------------------------


def _core(plan: Plan) -> None:
    works = {
        "orjson": "orjson.loads of the frame",
        "unhandled": "core, event nobody handles",
        "undecoded": "core, payload undecoded",
        "decoded": "core, payload decoded",
        "typed": "core, payload decoded into a Struct",
    }
    for topics in (plan.topics[0], plan.topics[-1]):
        task = Task("core", plan.port, plan.messages, topics)
        contenders = [
            Contender(name, CORE, replace(task, options={"contender": contender})) for contender, name in works.items()
        ]
        title = f"core: receive_all to dispatch, no I/O, {_count(topics)}"
        _costs(title, compare(contenders, plan.rounds, LIMIT))


def _client(plan: Plan) -> None:
    for topics in plan.topics:
        task = Task("messages", plan.port, plan.messages, topics)
        contenders = [
            Contender("bare websockets + orjson", BARE, task),
            Contender("bare picows + orjson", PICOWS, task),
            Contender("phx-channels, asyncio", OURS, task),
        ]
        _rates(f"client: messages, async handler, {_count(topics)}", compare(contenders, plan.rounds, LIMIT))


def _picows(plan: Plan) -> None:
    for loop in ("asyncio", "uvloop"):
        task = Task("messages", plan.port, plan.messages, options={"loop": loop})
        contenders = [
            Contender("bare picows + orjson", PICOWS, task),
            Contender("bare websockets + orjson", BARE, task),
            Contender("phx-channels, asyncio", OURS, replace(task, options={"loop": loop, "typed": True})),
        ]
        _rates(f"picows: messages, typed async handler, on {loop}", compare(contenders, plan.rounds, LIMIT))


def _topics(plan: Plan) -> None:
    for name, runner, options in (
        ("asyncio, typed async handler", OURS, {"typed": True}),
        ("threads, plain handler", THREADS, {}),
    ):
        task = Task("messages", plan.port, plan.messages, options=options)
        contenders = [Contender(_count(topics), runner, replace(task, topics=topics)) for topics in plan.topics]
        _costs(f"topics: {name}, each message of another topic", compare(contenders, plan.rounds, LIMIT))


def _threads(plan: Plan) -> None:
    works: list[tuple[str, dict[str, Any]]]
    works = [(f"messages, plain handler, {_count(topics)}", {"topics": topics}) for topics in plan.topics]
    works += [
        (f"push to reply, {threads} threads", {"work": "pushes", "n": plan.messages // 10, "in_flight": threads})
        for threads in (1, 20)
    ]
    for name, changes in works:
        task = replace(Task("messages", plan.port, plan.messages), **changes)
        contenders = [
            Contender("bare websockets.sync + msgspec", BARE_SYNC, task),
            Contender("phx-channels, threads", THREADS, task),
        ]
        _rates(f"threads: {name}", compare(contenders, plan.rounds, LIMIT))


def _pushes(plan: Plan) -> None:
    for in_flight in (1, 100):
        task = Task("pushes", plan.port, plan.messages // 10, in_flight=in_flight)
        contenders = [
            Contender("bare websockets + orjson", BARE, task),
            Contender("phx-channels, asyncio", OURS, task),
        ]
        _rates(f"pushes: push to reply, {in_flight} in flight", compare(contenders, plan.rounds, LIMIT))


def _joins(plan: Plan) -> None:
    topics = plan.topics[-1]
    task = Task("joins", plan.port, 0, topics)
    adapters = {adapter: f"phx-channels, {adapter}" for adapter in ("asyncio", "threads")}
    for work, what in (("joins", "join to joined"), ("rejoins", "reconnect to joined again")):
        contenders = [
            Contender(name, JOINS, replace(task, work=work, options={"adapter": adapter}))
            for adapter, name in adapters.items()
        ]
        _costs(f"{work}: {what}, {_count(topics)}", compare(contenders, plan.rounds, LIMIT))
    weighed = replace(task, work="memory")
    rows = [
        weigh(Contender(name, JOINS, replace(weighed, options={"adapter": adapter})), LIMIT)
        for adapter, name in adapters.items()
    ]
    _weights("joins: memory a topic, joined", rows)


def _memory(plan: Plan) -> None:
    rows = []
    for topics in plan.topics:
        task = Task("memory", plan.port, 5 * topics, topics)
        rows.append(weigh(Contender(f"phx-channels, asyncio, {_count(topics)}", OURS, task), LIMIT))
    _weights("memory a topic, joined, after five messages on each", rows)


def _wsproto(plan: Plan) -> None:
    for topics in plan.topics:
        task = Task("messages", plan.port, plan.messages, topics)
        contenders = [
            Contender("bare wsproto + orjson", WSPROTO_BARE, task),
            Contender("phx-channels, wsproto", WSPROTO_OURS, task),
        ]
        _rates(f"wsproto: messages, plain handler, {_count(topics)}", compare(contenders, plan.rounds, LIMIT))


def _executors(plan: Plan) -> None:
    steps = _steps_a_microsecond()
    wheres = {
        "loop": "on the loop",
        "threads": "in threads",
        "processes": "in 2 processes",
        "dask": "on Dask, 2 workers",
    }
    for micros, share in ((5, 5), (50, 20), (500, 100)):
        messages = plan.messages // share
        work = {"steps": round(micros * steps)}
        task = Task("messages", plan.port, messages, topics=10)
        for measure, show in (("time", _rates), ("client", _costs)):
            contenders = [
                Contender(name, EXECUTORS, replace(task, options=work | {"where": where, "measure": measure}))
                for where, name in wheres.items()
            ]
            title = f"executors: handlers that compute for {micros} µs, 10 topics, {messages:,} messages"
            what = "; what they cost the client's own process" if measure == "client" else ""
            show(title + what, compare(contenders, plan.rounds, LIMIT))
    for size in (1, 256):
        for measure, what in (("time", "there and back"), ("client", "what it costs the client's own process")):
            task = Task("batches", plan.port, plan.messages // 1000)
            options = {"steps": 0, "size": size, "measure": measure}
            contenders = [
                Contender(wheres[where], EXECUTORS, replace(task, options=options | {"where": where}))
                for where in ("processes", "dask")
            ]
            _costs(f"executors: a batch of {size}, {what}", compare(contenders, plan.rounds, LIMIT))


def _plain(plan: Plan) -> None:
    task = Task("messages", plan.port, plan.messages // 2, options={"steps": 0, "where": "threads", "measure": "time"})
    contenders = [
        Contender(f"plain handlers, {_count(n)}", EXECUTORS, replace(task, topics=n)) for n in (1, 500, 10_000)
    ]
    _rates("plain: messages, plain handler in asyncio's thread pool", compare(contenders, plan.rounds, LIMIT))


def _steps_a_microsecond() -> float:
    """How fast this machine computes, at its best."""
    steps = 100_000
    return steps / min(timeit.repeat(lambda: compute(steps), number=1, repeat=20)) / 1e6


def _broadcast(plan: Plan) -> None:
    task = Task("broadcast", plan.port, plan.messages, sockets=1_000)
    contenders = [
        Contender("bare websockets.broadcast", SERVING, replace(task, options={"contender": "bare"})),
        Contender("phx-channels, asyncio server", SERVING, replace(task, options={"contender": "ours"})),
    ]
    _rates("broadcast: deliveries to 1,000 sockets, encoded once", compare(contenders, plan.rounds, LIMIT))


def _load(plan: Plan) -> None:
    contenders = {"bare": "bare websockets server", "ours": "phx-channels, asyncio server"}
    rows = []
    for resident, what in ((False, "allocated in Python"), (True, "resident in the process")):
        for contender, name in contenders.items():
            options = {"contender": contender, "resident": resident}
            task = Task("load", plan.port, 2_000, sockets=2_000, options=options)
            rows.append(weigh(Contender(f"{name}, {what}", SERVING, task), LIMIT))
    _weights("load: memory a socket, 2,000 of them, joined, after five heartbeats on each", rows, "socket")


def _longpoll(plan: Plan) -> None:
    works: list[tuple[str, dict[str, Any]]] = [("messages", {"work": "messages", "n": plan.messages // 5})]
    works += [
        (
            f"push to reply, {in_flight} in flight",
            {"work": "pushes", "n": plan.messages // share, "in_flight": in_flight},
        )
        for in_flight, share in ((1, 200), (100, 20))
    ]
    with feeding("bench.polled") as port:
        for name, changes in works:
            task = replace(Task("pushes", port, plan.messages), **changes)
            contenders = [
                Contender("phoenix.js on Node", PHOENIX_JS, task),
                Contender("phx-channels, asyncio", POLLING, task),
                Contender("phx-channels, threads", POLLING, replace(task, options={"threads": True})),
            ]
            _rates(f"longpoll: {name}, on our server", compare(contenders, plan.rounds, LIMIT))


def _others(plan: Plan) -> None:
    if not plan.others:
        return
    installed, failures = _installed()
    messages = max(plan.messages // 5, 10_000)
    for topics in plan.topics:
        task = Task("messages", plan.port, messages, topics)
        contenders = [Contender("bare websockets + orjson", BARE, task), *_contenders(installed, task)]
        rows = [*compare(contenders, plan.rounds, LIMIT), *failures]
        _rates(f"others: {messages:,} messages, {_count(topics)}", rows)
    rows = []
    for topics in plan.topics:
        task = Task("memory", plan.port, 5 * topics, topics)
        rows += [
            weigh(replace(contender, name=f"{contender.name}, {_count(topics)}"), LIMIT)
            for contender in _contenders(installed, task)
        ]
    _weights("others: memory a topic, joined, after five messages on each (phx-events: and the connection's)", rows)


PARTS: dict[str, Callable[[Plan], None]] = {
    "core": _core,
    "client": _client,
    "picows": _picows,
    "topics": _topics,
    "threads": _threads,
    "pushes": _pushes,
    "joins": _joins,
    "wsproto": _wsproto,
    "executors": _executors,
    "plain": _plain,
    "memory": _memory,
    "broadcast": _broadcast,
    "load": _load,
    "longpoll": _longpoll,
    "others": _others,
}


def _installed() -> tuple[dict[Package, tuple[str, str]], list[Row]]:
    """Interpreter and release of each package, and rows for those that could not be installed."""
    installed: dict[Package, tuple[str, str]] = {}
    failures = []
    for package in dict.fromkeys(other.package for other in OTHERS):
        try:
            interpreter = environments.python(package)
            installed[package] = interpreter, environments.version(interpreter, package)
        except NotInstalled as error:
            failures.append(Row(package.name, None, None, str(error)))
    return installed, failures


def _contenders(installed: dict[Package, tuple[str, str]], task: Task) -> list[Contender]:
    return [
        Contender(f"{other.package.name} {release}", other.runner, replace(task, **other.task), interpreter, other.note)
        for other in OTHERS
        if other.package in installed
        for interpreter, release in (installed[other.package],)
    ]


# ---- printing -------------------------------------------------------------------------------------------------------


def _rates(title: str, rows: Iterable[Row]) -> None:
    _print(title, ("", "messages a second", "µs each", "ratio to the first", ""), map(_rate, rows))


def _rate(row: Row) -> tuple[str, ...]:
    if row.value is None:
        return row.name, "-", "-", "-", row.note
    ratio = _spread(row.ratio, "{:.2f}") if row.ratio is not None else "1"
    return row.name, _spread(row.value, "{:,.0f}"), f"{1e6 / row.value.middle:.2f}", ratio, row.note


def _costs(title: str, rows: Iterable[Row]) -> None:
    _print(title, ("", "µs each", "cost as a ratio to the first", ""), map(_cost, rows))


def _cost(row: Row) -> tuple[str, ...]:
    if row.value is None:
        return row.name, "-", "-", row.note
    ratio = _spread(row.ratio.inverse(), "{:.2f}") if row.ratio is not None else "1"
    return row.name, _spread(row.value.inverse(1e6), "{:.3f}"), ratio, row.note


def _weights(title: str, rows: Iterable[Row], of: str = "topic") -> None:
    cells = ((row.name, "-" if row.value is None else f"{row.value.middle:,.0f}", row.note) for row in rows)
    _print(title, ("", f"bytes a {of}", ""), cells)


def _print(title: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(title)
    for line in lines:
        cells = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        print("  " + "   ".join(cells).rstrip())
    print(flush=True)


def _spread(spread: Spread, form: str) -> str:
    middle, low, high = map(form.format, (spread.middle, spread.low, spread.high))
    return f"{middle} [{low} to {high}]"


def _count(topics: int) -> str:
    return "1 topic" if topics == 1 else f"{topics:,} topics"


def _machine() -> str:
    releases = ", ".join(f"{name} {_release(name)}" for name in ("websockets", "picows", "uvloop", "msgspec", "orjson"))
    processors = os.cpu_count()
    return f"{platform.python_implementation()} {platform.python_version()}, {processors} processors, {releases}"


def _release(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, for a look")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--messages", type=int, help="messages a run")
    parser.add_argument("--repeat", type=int, help="rounds")
    parser.add_argument("--no-others", action="store_true", help="leave out the other clients")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
