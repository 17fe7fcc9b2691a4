"""Mutation testing: each mutant of the code is run against the tests that reach it, until one of them fails.

    python -m tests.mutation core --sample 400 --seed 1     # a sample of phx_proto
    python -m tests.mutation core phx_proto/sockets.py      # every mutant of a file
    python -m tests.mutation adapters                       # what the adapters share

The mutants are mutmut's (extra `mutation`). mutmut collects the tests anew for each mutant; here they are collected
once, in a process that forks for each mutant. The fork puts the mutant's code in the place of the function's, and runs
the tests one by one: first those that killed another mutant of the same function, then the fastest. Results and the
survivors' differences go to standard output; docs/mutation.md holds what was measured.
"""

import argparse
import ast
import difflib
import hashlib
import importlib.machinery
import os
import pickle
import random
import re
import resource
import select
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, ClassVar

import pytest
from mutmut.mutation.file_mutation import mutate_file_contents

#: What can be measured: the sources, and what pytest is to collect for them.
SUBJECTS = {
    "core": (["phx_proto"], ["tests/proto", "tests/conformance", "--ignore=tests/proto/test_purity.py"]),
    "adapters": (
        [
            *("phx_transports/client", "phx_transports/blocking/streams.py"),
            *(f"phx_transports/websocket/{name}.py" for name in ("cutter", "connection", "handshake")),
        ],
        ["tests/transports/client", "tests/transports/websocket"],
    ),
}

#: A mutant may use this many times the seconds of its tests without it, and so many more; then it counts as noticed.
SLOWER, GRACE = 3.0, 10.0

#: So many times that may pass on the clock, for others use the processors, too.
WAITS = 3.0

#: What a fork may allocate, in bytes: a mutant that fills a list for ever ends with MemoryError.
MEMORY = 4 << 30


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mutant: `name` is the function's qualified name and the mutant's number there."""

    path: str
    name: str
    function: FunctionType
    replacement: FunctionType
    recorded: FunctionType
    difference: str

    @property
    def key(self) -> str:
        """The function's: what `recorded` notes when it is called."""
        return f"{self.path} {self.recorded.__name__}"

    def activate(self) -> None:
        """Make the function this mutant, in this process, wherever it is referenced already."""
        _become(self.function, self.replacement)

    def record(self) -> None:
        """Make the function note that it was called."""
        _become(self.function, self.recorded)


def _become(function: FunctionType, other: FunctionType) -> None:
    code = other.__code__
    if len(code.co_freevars) < len(function.__code__.co_freevars):  # `super()` was mutated away
        code = code.replace(co_freevars=function.__code__.co_freevars)
    function.__code__ = code
    function.__defaults__, function.__kwdefaults__ = other.__defaults__, other.__kwdefaults__


class _Mutated(importlib.machinery.SourceFileLoader):
    """Loads a module with its mutants beside its functions, which stay as they are."""

    #: The functions that were called, where calls are recorded.
    called: ClassVar[set[str]] = set()

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name, path)
        self._functions: dict[int, FunctionType] = {}
        self._code = ""

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path)
        kept = Path(tempfile.gettempdir(), "phx-mutants", hashlib.sha256(source).hexdigest())
        if not kept.exists():  # it takes a minute for all
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(mutate_file_contents(self.path, source.decode()).code)
        self._code = kept.read_text().replace(
            "from mutmut.mutation.trampoline import wrap_in_trampoline as _mutmut_mutated, MutantDict",
            "_mutmut_mutated, MutantDict = __loader__.mutated, dict",
        )
        tree = ast.parse(self._code)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.endswith("__mutmut_orig"):
                key = f"{os.path.relpath(self.path)} {node.name}"
                node.body[:0] = ast.parse(f"__loader__.called.add({key!r})").body
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)

    def mutated(
        self, mutants: dict[str, object], is_classmethod: bool = False
    ) -> Callable[[FunctionType], FunctionType]:
        def keep(function: FunctionType) -> FunctionType:
            self._functions[id(mutants)] = function
            return function

        return keep

    def mutants(self, module: ModuleType) -> Iterator[Mutant]:
        lines = self._code.splitlines()
        nodes = ast.walk(ast.parse(self._code))
        functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        sources = {name: lines[node.lineno : node.end_lineno] for name, node in functions.items()}
        for name, table in vars(module).items():
            if not (name.startswith("mutants_x") and isinstance(table, dict) and id(table) in self._functions):
                continue
            recorded = table.pop("_mutmut_orig")
            original = sources[recorded.__name__]
            function = self._functions[id(table)]
            _, _, method = recorded.__name__.partition("ǁ")
            for extra in (recorded.__name__, *table) if method else ():
                delattr(getattr(module, method.partition("ǁ")[0]), extra)  # else it shows in a `dir`
            meant = _Meant.of(functions[recorded.__name__])
            for mutant, replacement in table.items():
                if _Meant.of(functions[mutant]) == meant:
                    continue
                changed = difflib.unified_diff(original, sources[mutant], lineterm="", n=0)
                shown = [line for line in changed if line[:3] not in ("---", "+++") and not line.startswith("@@")]
                name, number = re.sub("^x[_ǁ]", "", mutant).replace("ǁ", ".").rsplit("__mutmut_", 1)
                yield Mutant(
                    path=os.path.relpath(self.path),
                    name=f"{name} {number}",
                    function=function,
                    replacement=_plain(replacement),
                    recorded=_plain(recorded),
                    difference="\n".join(f"    {line}" for line in shown),
                )


class _Meant(ast.NodeTransformer):
    """Leaves out what does nothing: the type in a `cast`, and what an assertion would say that is for readers."""

    @classmethod
    def of(cls, function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
        return "".join(ast.dump(cls().visit(part)) for part in (function.args, *function.body))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        is_cast = isinstance(node.func, ast.Name) and node.func.id == "cast" and len(node.args) == 2
        return node.args[1] if is_cast else node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return node


class _Finder:
    """Finds the modules that are to be mutated, as Python would."""

    def __init__(self, sources: Sequence[str]) -> None:
        paths = [Path(source).resolve() for source in sources]
        self._files = {str(file) for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))}

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> object:
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.origin in self._files:
            spec.loader = _Mutated(name, spec.origin)
        return spec


class Mutation:
    """A pytest plugin: instead of running the tests once it runs them for each mutant."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        self._failed = False
        survivors = Path(options.again).read_text() if options.again else ""
        self._again = set(re.findall(r"^survived \(\d+ tests\): (.*)$", survivors, re.MULTILINE))
        #: Functions' keys → the tests that reach it, the fastest first; and how long each test takes.
        self._reach: defaultdict[str, list[int]] = defaultdict(list)
        self._durations: list[float] = []
        self._killers: defaultdict[str, Counter[int | None]] = defaultdict(Counter)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed |= report.failed

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        modules = [(getattr(module, "__loader__", None), module) for module in list(sys.modules.values())]
        mutants = [
            each for loader, module in modules if isinstance(loader, _Mutated) for each in loader.mutants(module)
        ]
        mutants = sorted((mutant for mutant in mutants if self._wanted(mutant)), key=lambda mutant: mutant.path)
        total = len(mutants)
        if self._options.sample:
            random.Random(self._options.seed).shuffle(mutants)
            mutants = mutants[: self._options.sample]
        pid, pipe = _fork(lambda: self._survey(session, mutants))
        self._reach, self._durations, left_out = pickle.loads(_read_all(pipe))
        os.waitpid(pid, 0)
        self._say(f"{len(mutants)} of {total} mutants, {len(session.items)} tests in {sum(self._durations):.0f} s")
        for nodeid in left_out:
            self._say(f"left out, for it fails without a mutant: {nodeid}")
        self._table(self._run_all(session, mutants))
        return True

    def _wanted(self, mutant: Mutant) -> bool:
        only = self._options.only
        name = f"{mutant.path} {mutant.name}"
        if self._again and name not in self._again:
            return False
        return not only or any(name.startswith(start) for start in only)

    def _survey(self, session: pytest.Session, mutants: Sequence[Mutant]) -> bytes:
        """Run each test once: which functions it calls, how long it takes, and which fail already."""
        session.config.pluginmanager.unregister(name="terminalreporter")
        for mutant in {mutant.key: mutant for mutant in mutants}.values():
            mutant.record()
        reach: defaultdict[str, list[int]] = defaultdict(list)
        durations, left_out = [], []
        everything = range(len(session.items))
        for number, item in enumerate(session.items):
            _Mutated.called.clear()
            began = time.perf_counter()
            failed = self._run_one(session, everything, number)
            durations.append(time.perf_counter() - began)
            if failed:
                left_out.append(item.nodeid)
                continue
            for key in _Mutated.called:
                reach[key].append(number)
        for tests in reach.values():
            tests.sort(key=durations.__getitem__)
        return pickle.dumps((reach, durations, left_out))

    def _run_one(self, session: pytest.Session, tests: Sequence[int], at: int) -> bool:
        self._failed = False
        item = session.items[tests[at]]
        after = session.items[tests[at + 1]] if at + 1 < len(tests) else None
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        return self._failed

    def _run_all(self, session: pytest.Session, mutants: Sequence[Mutant]) -> list[tuple[Mutant, str]]:
        results: list[tuple[Mutant, str]] = []
        running: dict[int, tuple[Mutant, int, float]] = {}
        waiting = list(reversed(mutants))
        end = time.monotonic() + 60 * self._options.minutes
        while running or (waiting and time.monotonic() < end):
            while waiting and len(running) < self._options.jobs and time.monotonic() < end:
                mutant = waiting.pop()
                key = mutant.key
                known = [test for test, _ in self._killers[key].most_common(8) if test is not None]
                tests = known + [test for test in self._reach[key] if test not in known]
                limit = GRACE + SLOWER * sum(self._durations[test] for test in tests)
                pid, pipe = _fork(partial(self._try, session, mutant, tests), limit)
                running[pipe] = mutant, pid, time.monotonic() + WAITS * limit
            ready, _, _ = select.select(list(running), [], [], 0.5)
            for pipe, (mutant, pid, until) in list(running.items()):
                if pipe not in ready and time.monotonic() < until:
                    continue
                answer = _read_all(pipe) if pipe in ready else b""
                os.killpg(pid, signal.SIGKILL)  # what the tests left behind, too
                _, status = os.waitpid(pid, 0)
                del running[pipe]
                if answer:
                    killer = pickle.loads(answer)
                    self._killers[mutant.key][killer] += 1
                    verdict = "survived" if killer is None else "killed"
                else:
                    timed_out = pipe not in ready or os.WTERMSIG(status) == signal.SIGXCPU
                    verdict = "timed out" if timed_out else "killed"  # it ended the process
                results.append((mutant, verdict))
                if verdict != "killed":
                    reach = len(self._reach[mutant.key])
                    self._say(f"{verdict} ({reach} tests): {mutant.path} {mutant.name}\n{mutant.difference}")
                if len(results) % 100 == 0:
                    noticed = sum(verdict != "survived" for _, verdict in results)
                    self._say(f"-- {len(results)} of {len(mutants)}: {noticed / len(results):.1%} noticed")
        return results

    def _try(self, session: pytest.Session, mutant: Mutant, tests: Sequence[int]) -> bytes:
        """Run the tests until one fails, and tell which."""
        session.config.pluginmanager.unregister(name="terminalreporter")
        mutant.activate()
        for at, test in enumerate(tests):
            # Twice, for a test over real sockets may fail because the machine is busy.
            if self._run_one(session, tests, at) and self._run_one(session, tests, at):
                return pickle.dumps(test)
        return pickle.dumps(None)

    def _table(self, results: Sequence[tuple[Mutant, str]]) -> None:
        by_path: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for mutant, verdict in results:
            by_path[mutant.path][verdict] += 1
            by_path["**all**"][verdict] += 1
        self._say("| file | mutants | killed | timed out | survived | noticed |\n|---|---:|---:|---:|---:|---:|")
        for path in sorted(by_path):
            counts = by_path[path]
            columns = (counts.total(), counts["killed"], counts["timed out"], counts["survived"])
            noticed = 1 - counts["survived"] / counts.total()
            self._say(f"| {path} | {' | '.join(map(str, columns))} | {noticed:.1%} |")

    def _say(self, text: str) -> None:
        print(text, file=self._out)


def _plain(function: Any) -> FunctionType:
    """The function of a class method."""
    plain: FunctionType = getattr(function, "__func__", function)
    return plain


def _fork(work: Callable[[], bytes], seconds: float = 3600.0) -> tuple[int, int]:
    """Do this in a process and a process group of its own; its number, and where its answer is read."""
    answer, to_parent = os.pipe()
    pid = os.fork()
    if pid:
        os.setpgid(pid, pid)
        os.close(to_parent)
        return pid, answer
    try:
        os.setpgid(0, 0)
        os.close(answer)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (1, 2):
            os.dup2(nothing, descriptor)
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        with os.fdopen(to_parent, "wb") as pipe:
            pipe.write(work())
    finally:
        os._exit(0)


def _read_all(pipe: int) -> bytes:
    with os.fdopen(pipe, "rb") as stream:
        return stream.read()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("only", nargs="*", help="a path, or a path and the beginning of a function's name")
    parser.add_argument("--sample", type=int, help="so many, chosen at random", default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", help="the output of a run: its survivors alone")
    parser.add_argument("--jobs", type=int, default=1, help="so many mutants at a time")
    parser.add_argument("--minutes", type=float, default=1e6, help="start no mutant after so long")
    options = parser.parse_args()
    sources, tests = SUBJECTS[options.subject]
    files = [only for only in options.only if Path(only).exists()]
    sys.meta_path.insert(0, _Finder(files or sources))  # type: ignore[arg-type]
    sys.path.insert(0, os.getcwd())
    arguments = ["-q", "--assert=plain", "-p", "no:cacheprovider", "--hypothesis-profile=mutation", *tests]
    return int(pytest.main(arguments, plugins=[Mutation(options)]))


if __name__ == "__main__":
    sys.exit(main())
