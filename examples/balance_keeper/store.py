"""Where balances are kept: a SQLite file.

One row holds a balance and the id of the last event in it, so the two cannot disagree, whenever the power fails.
"""

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TABLES = """
    CREATE TABLE IF NOT EXISTS accounts (topic TEXT PRIMARY KEY, cents INTEGER NOT NULL, last_id INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS reserve (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), cents INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Account:
    """What is known of a SIM card.

    Attributes:
        cents: Its balance.
        last_id: The last event in it; 0 before the first.
    """

    cents: int = 0
    last_id: int = 0


@dataclass(eq=False)
class EventsMissed(Exception):
    """An event came before one that precedes it; to join again, from the last known one, brings both."""

    topic: str
    expected: int
    got: int

    def __str__(self) -> str:
        return f"topic {self.topic!r}: event {self.got} came where {self.expected} was expected; join again from there"


class Store:
    """Balances by topic. Any thread may use it. A context manager that closes it.

    Args:
        path: Of the file; it is made where there is none.
    """

    def __init__(self, path: str | Path = ":memory:") -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.executescript(_TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._db.close()

    def account(self, topic: str) -> Account:
        """What is known of a card; nothing yet is a balance of zero."""
        with self._lock:
            return self._account(topic)

    def add(self, topic: str, event_id: int, cents: int) -> Account | None:
        """Add to a balance.

        Args:
            topic: Whose.
            event_id: The event's number.
            cents: May be negative.

        Returns:
            The account after it; `None` for an event that is in the balance already.

        Raises:
            EventsMissed: It is not the next event of the topic. Nothing is changed.
        """
        return self._write(topic, event_id, lambda before: before + cents)

    def correct(self, topic: str, event_id: int, cents: int) -> Account | None:
        """Replace a balance. Returns and raises what `add` does."""
        return self._write(topic, event_id, lambda before: cents)

    def reserve(self) -> int:
        """The least that a balance should be; zero unless set."""
        with self._lock:
            row = self._db.execute("SELECT cents FROM reserve").fetchone()
        return row[0] if row else 0

    def set_reserve(self, cents: int) -> None:
        """Keep another reserve."""
        with self._lock, self._db:
            self._db.execute("INSERT OR REPLACE INTO reserve VALUES (1, ?)", (cents,))

    def _account(self, topic: str) -> Account:
        row = self._db.execute("SELECT cents, last_id FROM accounts WHERE topic = ?", (topic,)).fetchone()
        return Account(*row) if row else Account()

    def _write(self, topic: str, event_id: int, change: Callable[[int], int]) -> Account | None:
        with self._lock, self._db:  # the latter commits, or rolls back where something is raised
            before = self._account(topic)
            if event_id <= before.last_id:
                return None
            if event_id != before.last_id + 1:
                raise EventsMissed(topic, before.last_id + 1, event_id)
            after = Account(change(before.cents), event_id)
            self._db.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?)", (topic, after.cents, after.last_id))
        return after
