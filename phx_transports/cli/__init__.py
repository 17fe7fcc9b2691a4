"""The `phx` command: `demo` shows the library, `serve` is a server to try, the others talk to any server.

Exit codes: 0 for a normal end, also by Ctrl+C; 1 if a server or the network refused, or the demo lost a message; 2 for
an invalid command line; 130 for Ctrl+C before there was a connection to close. `push` has two more.
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
    """Run the command with these arguments (by default `sys.argv`); returns the exit code."""
    _open_closed_streams()
    arguments = parsed(argv)
    try:
        with _logging(getattr(arguments, "log_level", None)):
            return int(import_module(f".{arguments.command}", __name__).run(arguments))  # imported only when it is run
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _let_go_of_stdout()
        return 0
    except OSError as error:  # the disk is full, for instance
        _let_go_of_stdout()
        print(f"phx: cannot write to {error.filename or 'stdout'}: {error.strerror or error}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def _logging(level: str | None) -> Generator[None]:
    """Have the library log to stderr in the block, from this level on; by default nothing, because commands report it.

    `websockets` is excluded: the frames that it logs may hold secrets. A process that calls `main` may log afterwards.
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


def _open_closed_streams() -> None:
    """Use the null device for standard streams that are closed, or a socket would get their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives


def _let_go_of_stdout() -> None:
    """Its reader is gone; without this, Python reports that again when it flushes at exit."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
