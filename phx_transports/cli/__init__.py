"""The `phx` command: `demo` shows the library at work, `serve` is a server to try, the others talk to any server.

Exit codes: 0 for a good end, Ctrl+C included; 1 where a server or the network said no, or where the demo lost a
message; 2 for a command line that cannot be; 130 for Ctrl+C before there was anything to end well. `push` has two more.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Generator, Sequence
from importlib import import_module

from .arguments import parsed

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, with what stands behind `phx` (by default what the shell gave); returns the exit code."""
    arguments = parsed(argv)
    try:
        with _logging(getattr(arguments, "log_level", None)):
            return int(import_module(f".{arguments.command}", __name__).run(arguments))  # `--help` needs none of them
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _let_go_of_stdout()
        return 0


@contextlib.contextmanager
def _logging(level: str | None) -> Generator[None]:
    """Have the library log to stderr in the block, from this level on; by default nothing, for the commands tell it.

    Frames, which `websockets` would log, hold what is secret. `main` may be called by a process that logs after it.
    """
    handler = logging.NullHandler() if level is None else logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    with contextlib.ExitStack() as stack:
        for name, one in (("phx_transports", handler), ("websockets", logging.NullHandler())):
            logger = logging.getLogger(name)
            stack.callback(setattr, logger, "propagate", logger.propagate)
            stack.callback(logger.setLevel, logger.level)
            stack.callback(logger.removeHandler, one)
            logger.addHandler(one)
            logger.propagate = False
            if level is not None:
                logger.setLevel(level.upper())
        yield


def _let_go_of_stdout() -> None:
    """Nobody reads it any more; Python would complain of that once more when it flushes at exit."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
