"""The versions and undocumented features of other packages in use match docs/dependencies.md."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
GUIDE = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
CI = (ROOT / ".ci" / "run").read_text("utf-8")


@pytest.mark.parametrize(
    ("corner", "file"),
    [
        (r"\.available_subprotocols\b", "websocket/handshake.py"),
        (r"\.parser_exc\b", "websocket/cutter.py"),
        (r"\bprotocol\.(parser|reader)\b", "websocket/cutter.py"),
        (r"\"_signal\"", "client/signals.py"),
    ],
)
def test_an_undocumented_corner_of_a_library_is_used_in_one_place(corner: str, file: str) -> None:
    package = ROOT / "phx_transports"
    users = {str(path.relative_to(package)) for path in package.rglob("*.py") if re.search(corner, path.read_text())}
    assert users == {file}
    assert f"| `{file}` |" in GUIDE


def test_ci_runs_the_tests_on_every_python_that_the_metadata_names() -> None:
    pattern = r"Programming Language :: Python :: (3\.\d+)"
    named = [match[1] for classifier in PROJECT["classifiers"] if (match := re.fullmatch(pattern, classifier))]
    assert re.findall(r"^readonly SUPPORTED=\((.*)\)$", CI, re.MULTILINE) == [" ".join(named)]
    assert f"CPython {named[0]} to {named[-1]}." in GUIDE
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_ci_holds_everything_that_users_install_to_its_oldest_version() -> None:
    extras = PROJECT["optional-dependencies"]
    ours = {"test", "bench", "docs", "frameworks", "mutation", "dev"}
    wanted = [*PROJECT["dependencies"], *(line for name in extras.keys() - ours for line in extras[name])]
    floors = subprocess.run(
        [sys.executable, ROOT / ".ci" / "floors.py"], capture_output=True, text=True, check=True, cwd=ROOT, timeout=30
    )
    assert sorted(floors.stdout.split()) == sorted(re.sub(r"(\[\w+\])?>=", "==", line) for line in wanted)


@pytest.mark.parametrize("requirement", PROJECT["dependencies"])
def test_the_guide_says_the_oldest_version_of_each(requirement: str) -> None:
    name, floor = requirement.split(">=")
    assert f"| {name} | {floor} |" in GUIDE


@pytest.mark.parametrize("adapter", ["asyncio", "threads"])
def test_what_takes_long_to_import_is_imported_where_it_is_used(adapter: str) -> None:
    heavy = ["websockets", "h11", "http.client", "email", "multiprocessing", "importlib.metadata", "phx_proto.server"]
    code = f"import sys, phx_transports.{adapter}; print([name for name in {heavy} if name in sys.modules])"
    command = [sys.executable, "-S", "-c", code]  # -S: without what the environment imports at its start
    paths = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    done = subprocess.run(
        command, env={"PYTHONPATH": ":".join(paths)}, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "[]\n"
