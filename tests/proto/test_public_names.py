"""What users may import is named by `__all__`, and what a public package or README names is there."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import phx_proto

PUBLIC = ["", "backoff", "commands", "errors", "events", "flow", "formats", "handlers", "options", "presence", "server"]
PUBLIC += ["states"]
MODULES = ["phx_proto", *(f"phx_proto.{name}" for name in PUBLIC if name)]
README = Path(__file__).parents[2] / "README.md"


def exported(module: str) -> set[str]:
    return set(importlib.import_module(module).__all__)


@pytest.mark.parametrize("module", MODULES)
def test_what_is_named_as_public_is_there(module: str) -> None:
    names = exported(module)
    assert names
    assert all(hasattr(importlib.import_module(module), name) for name in names)


@pytest.mark.parametrize("module", ["phx_proto.commands", "phx_proto.errors", "phx_proto.events"])
def test_a_vocabulary_exports_every_class_in_it(module: str) -> None:
    tree = ast.parse(Path(str(importlib.import_module(module).__file__)).read_text())
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")}
    assert classes <= exported(module)


def test_what_the_readme_imports_is_exported() -> None:
    imports = re.findall(r"^from (phx_proto[\w.]*) import ([\w, ]+)$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert imports
    for module, names in imports:
        assert set(re.findall(r"\w+", names)) <= exported(module)


def test_both_sides_of_both_versions_are_exported_at_the_top() -> None:
    assert {"V1", "V2", "V1Server", "V2Server"} <= set(phx_proto.__all__)
