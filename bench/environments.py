"""A virtual environment for each other client, under `bench/.environments`, made on demand with venv and pip."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent / ".environments"
#: Seconds for one environment, a slow download included.
PATIENCE: Final = 300.0


class NotInstalled(Exception):
    """The environment could not be made; says why in a line."""


@dataclass(frozen=True)
class Package:
    """A client on PyPI.

    Attributes:
        name: As pip knows it.
        release: The releases that the runner was written for.
        instead: A requirement to install over what the package asks for, where that does not run on this Python.
    """

    name: str
    release: str
    instead: str = ""

    @property
    def requirement(self) -> str:
        return f"{self.name}{self.release}"


def python(package: Package) -> str:
    """The interpreter of the package's environment, which is made if it is not there.

    Raises:
        NotInstalled: It could not be made.
    """
    home = ROOT / f"{package.name}-{sys.version_info.major}.{sys.version_info.minor}"
    interpreter = home / "bin" / "python"
    made = home / "made"
    if made.exists():
        return str(interpreter)
    _run(sys.executable, "-m", "venv", "--clear", str(home))
    for requirement in filter(None, (package.requirement, package.instead)):
        # One after the other: together pip would refuse what contradicts the package's own requirement.
        _run(str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement)
    made.touch()
    return str(interpreter)


def version(interpreter: str, package: Package) -> str:
    """The release that is installed."""
    code = f"import importlib.metadata as m; print(m.version({package.name!r}))"
    return _run(interpreter, "-c", code).strip()


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"could not be installed: {error}") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
        raise NotInstalled(f"could not be installed: {errors[-1]}")
    return done.stdout
