"""The one rule: `phx_proto` is pure. Its imports are few and run one way, and the core runs where there is no I/O."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import phx_proto

PACKAGE = Path(phx_proto.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
WITHOUT_IO = Path(__file__).parent / "without_io.py"

ALLOWED = frozenset(
    {
        "annotationlib",  # from Python 3.14 on
        "base64",
        "binascii",
        "collections",
        "collections.abc",
        "dataclasses",
        "decimal",
        "enum",
        "functools",
        "heapq",
        "idna",
        "inspect",
        "itertools",
        "json",
        "math",
        "msgspec",
        "msgspec.structs",
        "operator",
        "re",
        "struct",
        "types",
        "typing",
        "urllib.parse",
    }
)
ALLOWED_FOR_TYPES = ALLOWED | {"contextlib", "random"}

#: Builtins through which a module reaches what its imports do not show.
LOOPHOLES = frozenset({"__import__", "breakpoint", "compile", "eval", "exec", "input", "open", "print"})


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(path: Path, *, for_types: bool) -> Iterator[str]:
    """What a module imports, at any depth, by full names; under `TYPE_CHECKING` or everywhere else."""
    package = name_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    waiting: list[tuple[ast.AST, bool]] = [(ast.parse(path.read_text()), False)]
    while waiting:
        node, inside = waiting.pop()
        if is_for_types(node):
            assert isinstance(node, ast.If)
            waiting += [(child, True) for child in node.body]
            waiting += [(child, inside) for child in node.orelse]
            continue
        waiting += [(child, inside) for child in ast.iter_child_nodes(node)]
        if inside is not for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [] if node.level == 0 else package[: len(package) - node.level + 1]
            source = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            submodules = {f"{source}.{alias.name}" for alias in node.names} & {name_of(other) for other in MODULES}
            yield from submodules or {source}


def is_own(name: str) -> bool:
    return name.split(".")[0] == "phx_proto"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_what_is_allowed(path: Path) -> None:
    foreign = {name for name in imports(path, for_types=False) if not is_own(name)}
    assert foreign <= ALLOWED


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_hardly_more_for_its_types(path: Path) -> None:
    foreign = {name for name in imports(path, for_types=True) if not is_own(name)}
    assert foreign <= ALLOWED_FOR_TYPES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_has_no_way_around_its_imports(path: Path) -> None:
    called = {node.func.id for node in ast.walk(ast.parse(path.read_text())) if _is_plain_call(node)}  # type: ignore[attr-defined]
    assert not called & LOOPHOLES


def _is_plain_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def test_imports_run_one_way_without_a_circle_also_for_types() -> None:
    graph = {
        name_of(path): {name for kind in (False, True) for name in imports(path, for_types=kind) if is_own(name)}
        for path in MODULES
    }
    assert not [name for name, imported in graph.items() if "phx_proto" in imported]  # the public names are on top
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_every_module_is_looked_at() -> None:
    assert {"phx_proto", "phx_proto.client", "phx_proto.server.protocol"} <= {name_of(path) for path in MODULES}


def test_the_whole_core_runs_without_sockets_clocks_and_threads() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTEST"))}
    run = subprocess.run(
        [sys.executable, "-W", "error", str(WITHOUT_IO)],
        env=environment | {"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "the core ran\n", "")
