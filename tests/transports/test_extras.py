"""What is not installed by itself: the part that needs it says how to install it, tried in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from phx_transports.extras import needs

ROOT = Path(__file__).parents[2]

#: Runs a statement where a package cannot be imported, and prints the error that it raises.
WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == {package!r}:
            raise {error}
        return None

sys.meta_path.insert(0, Absent())
try:
    {statement}
except ImportError as error:
    print(type(error).__name__, error.name, error, sep="|")
"""

#: What an import may raise for a module that is not there: Python's own words, or those of a hook that says less.
ERRORS = ("ModuleNotFoundError(f'No module named {name!r}', name=name)", "ImportError('not here')")


def without(package: str, statement: str, error: str = ERRORS[0]) -> str:
    code = WITHOUT.format(package=package, statement=statement, error=error)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=ROOT, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(
    ("package", "statement", "user", "extra"),
    [
        ("wsproto", "import phx_transports.wsproto", "phx_transports.wsproto", "wsproto"),
        ("wsproto", "from phx_transports.wsproto.machine import Machine", "phx_transports.wsproto", "wsproto"),
        ("wsproto", "import examples.trio_client", "phx_transports.wsproto", "wsproto"),
        ("hypothesis", "import phx_transports.testing.strategies", "phx_transports.testing.strategies", "testing"),
        ("msgpack", "import examples.messagepack_serializer", "this example", "msgpack"),
    ],
)
def test_the_error_says_which_extra_to_install(package: str, statement: str, user: str, extra: str, error: str) -> None:
    problem = f"{user} needs {package}, which is not installed: pip install 'phx-channels[{extra}]'"
    assert without(package, statement, error) == f"ModuleNotFoundError|{package}|{problem}"


@pytest.mark.parametrize("package", ["wsproto", "rich", "msgpack", "pytest", "hypothesis", "python_socks", "trio"])
def test_all_else_works_without_it(package: str) -> None:
    statement = "import phx_transports.asyncio, phx_transports.threads, phx_transports.testing, phx_transports.cli"
    assert without(package, statement) == ""


def test_an_error_in_a_module_that_is_there_stays_what_it_is() -> None:
    with (
        pytest.raises(ImportError, match="cannot import name 'nothing_of_the_kind'"),
        needs("json", extra="x", user="y"),
    ):
        from json import nothing_of_the_kind  # type: ignore[attr-defined]  # noqa: F401
