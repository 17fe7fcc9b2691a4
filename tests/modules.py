"""What the modules of our packages import, read from their source."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class Module:
    """A module's file, and its full name."""

    path: Path
    name: str

    def __str__(self) -> str:
        return self.name


def modules_of(package: ModuleType) -> list[Module]:
    """All modules of a package, its own `__init__` included."""
    assert package.__file__ is not None
    folder = Path(package.__file__).parent
    return [Module(path, _name_of(path.relative_to(folder.parent))) for path in sorted(folder.rglob("*.py"))]


def imports(module: Module, modules: list[Module], *, for_types: bool) -> Iterator[str]:
    """What a module imports, at any depth, by full names; under `TYPE_CHECKING` or everywhere else."""
    package = module.name.split(".")
    if module.path.name != "__init__.py":
        package = package[:-1]
    names = {other.name for other in modules}
    waiting: list[tuple[ast.AST, bool]] = [(ast.parse(module.path.read_text()), False)]
    while waiting:
        node, inside = waiting.pop()
        if _is_for_types(node):
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
            submodules = {f"{source}.{alias.name}" for alias in node.names} & names
            yield from submodules or {source}


def _name_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
