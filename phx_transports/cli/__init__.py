"""The `phx` command: `demo` shows the library at work, `listen` prints what a server sends, `serve` is one to try.

Exit codes: 0 for a good end, Ctrl+C included; 1 where a server or the network said no, or where the demo lost a
message; 2 for a command line that cannot be; 130 for Ctrl+C before there was anything to end well.
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
    """Run the command.

    Args:
        argv: What stands behind `phx`; by default what the shell gave.

    Returns:
        The exit code.
    """
    arguments = parsed(argv)
    try:
        with _silenced("phx_transports", "websockets"):  # what they would log is told in the command's own words
            return int(import_module(f".{arguments.command}", __name__).run(arguments))  # `--help` needs none of them
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _let_go_of_stdout()
        return 0


# ---- private --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _silenced(*names: str) -> Generator[None, None, None]:
    """Nothing is logged by these in the block; `main` may be called by a process that logs after it."""
    nothing = logging.NullHandler()
    loggers = [(logger, logger.propagate) for logger in map(logging.getLogger, names)]
    for logger, _ in loggers:
        logger.addHandler(nothing)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in loggers:
            logger.removeHandler(nothing)
            logger.propagate = propagate


def _let_go_of_stdout() -> None:
    """Nobody reads it any more; Python would complain of that once more when it flushes at exit."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
