"""The command: `python -m examples.balance_keeper ws://127.0.0.1:4000/socket sim:1 sim:2 --db balances.db`."""

import argparse
import logging
import signal
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import suppress

from phx_proto import PhxError
from phx_transports.threads.interfaces import TransportFactory

from .keeper import Keeper
from .store import EventsMissed, Store


def main(arguments: Sequence[str], *, transport: TransportFactory | None = None) -> None:
    """Keep balances until Ctrl+C; `SystemExit` with a line of text where that cannot go on."""
    parser = argparse.ArgumentParser(prog="balance_keeper", description="Keep the balances of SIM cards.")
    parser.add_argument("url", help="the socket's mount, e.g. ws://127.0.0.1:4000/socket")
    parser.add_argument("topics", nargs="+", metavar="topic", help="a card's topic, e.g. sim:1")
    parser.add_argument("--db", default="balances.db", help="the SQLite file (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        with (
            suppress(KeyboardInterrupt),  # while it begins, or closes: it drops the connection
            Store(options.db) as store,
            Keeper(options.url, options.topics, store, transport=transport) as keeper,
            suppress(KeyboardInterrupt),  # else: it leaves, and closes
        ):
            keeper.run()
    except (PhxError, EventsMissed, sqlite3.Error) as error:
        raise SystemExit(f"balance_keeper: {error}") from error


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main(sys.argv[1:])
