"""`python -m fuzz.with_atheris TARGET [SECONDS]`: libFuzzer, which sees what the code does with an input.

It finds in hours what random inputs do not find in days. It needs `pip install atheris`. What it learned is kept in a
temporary folder; what breaks the target, in its corpus.
"""

import sys
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any


def main(name: str, seconds: int = 600) -> None:
    atheris: Any = import_module("atheris")
    with atheris.instrument_imports(include=["phx_proto", "phx_transports", "fuzz"]):
        from .targets import TARGETS
    target = TARGETS[name]

    def check(data: bytes) -> None:
        try:
            target.check(data)
        except Exception:
            print(f"kept as {target.keep(data)}")
            raise

    with TemporaryDirectory() as learned:
        atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", learned, str(target.folder)], check)
        atheris.Fuzz()  # ends the process


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
