"""Optional dependencies: if one is missing, the error names the extra to install."""

from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module

__all__ = ["needs"]


@contextmanager
def needs(module: str, *, extra: str, user: str) -> Generator[None, None, None]:
    """Wraps an import of a module that is an optional dependency.

    Args:
        module: The module that may be absent, e.g. `"wsproto"`.
        extra: The extra of `phx-channels` that installs it.
        user: What needs it, for the error.

    Raises:
        ModuleNotFoundError: It is absent, with the command that installs it.
    """
    try:
        yield
    except ImportError as error:
        if _is_there(module):
            raise
        problem = f"{user} needs {module}, which is not installed: pip install 'phx-channels[{extra}]'"
        raise ModuleNotFoundError(problem, name=module) from error


def _is_there(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True
