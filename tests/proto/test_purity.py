"""The one rule: `phx_proto` is pure. Its imports are few, and the core runs where there is no I/O."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from modules import Module, imports, modules_of

import phx_proto

PACKAGE = Path(phx_proto.__file__).parent
MODULES = modules_of(phx_proto)
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
        "string",
        "struct",
        "types",
        "typing",
        "urllib.parse",
    }
)
ALLOWED_FOR_TYPES = ALLOWED | {"contextlib", "random", "typing_extensions"}

#: Builtins through which a module reaches what its imports do not show.
LOOPHOLES = frozenset({"__import__", "breakpoint", "compile", "eval", "exec", "input", "open", "print"})


def is_own(name: str) -> bool:
    return name.split(".")[0] == "phx_proto"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_imports_only_what_is_allowed(module: Module) -> None:
    foreign = {name for name in imports(module, MODULES, for_types=False) if not is_own(name)}
    assert foreign <= ALLOWED


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_imports_hardly_more_for_its_types(module: Module) -> None:
    foreign = {name for name in imports(module, MODULES, for_types=True) if not is_own(name)}
    assert foreign <= ALLOWED_FOR_TYPES


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_has_no_way_around_its_imports(module: Module) -> None:
    called = {node.func.id for node in ast.walk(ast.parse(module.path.read_text())) if _is_plain_call(node)}  # type: ignore[attr-defined]
    assert not called & LOOPHOLES


def _is_plain_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def test_every_module_is_looked_at() -> None:
    assert {"phx_proto", "phx_proto.client", "phx_proto.server.protocol"} <= {module.name for module in MODULES}


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
