"""The demo's output: drawn in place on a terminal, if `rich` is installed; otherwise line by line."""

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from phx_proto import ChannelState, SocketState
from phx_proto.shown import escaped

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_LONGEST_NOTE: Final = 500
_MOST_NOTES: Final = 14


@dataclass(frozen=True, slots=True)
class Row:
    """A topic at some moment."""

    topic: str
    state: ChannelState
    sent: int
    handled: int
    cents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The client at some moment; `rate` is messages handled a second, recently."""

    state: SocketState
    elapsed: float
    handled: int
    rate: float
    rows: tuple[Row, ...]


#: The demo's output: the state several times a second, notes, and the summary.
Screen: TypeAlias = "PlainScreen | LiveScreen"


@contextlib.contextmanager
def open_screen() -> Generator[Screen]:
    """The best output that stdout supports."""
    if not sys.stdout.isatty():
        yield PlainScreen()
        return
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        print("(for a live view: pip install 'phx-channels[cli]')")
        yield PlainScreen()
        return
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        yield LiveScreen(console, lambda renderable: live.update(renderable, refresh=True))


class PlainScreen:
    """Line by line: each note, and the state once a second."""

    def __init__(self) -> None:
        self._next = 1.0
        self._last: Frame | None = None

    def show(self, frame: Frame) -> None:
        self._last = frame
        if frame.elapsed < self._next:
            return
        self._next += 1.0
        joined = sum(row.state is ChannelState.JOINED for row in frame.rows)
        topics = f"{frame.state.value}, {joined}/{len(frame.rows)} topics joined"
        self.note(frame.elapsed, f"{frame.handled:,} messages, {frame.rate:,.0f}/s; {topics}")

    def note(self, elapsed: float, text: str, *, trouble: bool = False) -> None:
        print(f"{elapsed:5.1f} {'!' if trouble else ' '} {escaped(text, _LONGEST_NOTE)}", flush=True)

    def tell(self, lines: list[str]) -> None:
        rows = self._last.rows if self._last else ()
        table = [f"  {row.topic:<16}{row.sent:>9,} sent{row.handled:>9,} handled" for row in rows]
        print("", *table, "", *lines, sep="\n", flush=True)


class LiveScreen:
    """Drawn in place: a line about the connection, a table of the topics, and the latest notes."""

    def __init__(self, console: "Console", draw: "Callable[[RenderableType], None]") -> None:
        self._console = console
        self._draw = draw
        self._notes: deque[tuple[float, str, bool]] = deque(maxlen=_MOST_NOTES)

    def show(self, frame: Frame) -> None:
        from rich.console import Group

        self._draw(Group(self._head(frame), self._table(frame), self._latest_notes(len(frame.rows))))

    def note(self, elapsed: float, text: str, *, trouble: bool = False) -> None:
        self._notes.append((elapsed, escaped(text, _LONGEST_NOTE), trouble))

    def tell(self, lines: list[str]) -> None:
        self._console.print("", *lines, sep="\n", markup=False)

    def _head(self, frame: Frame) -> "RenderableType":
        from rich.text import Text

        text = Text.assemble(
            ("phx demo  ", "bold"),
            (f"{frame.state.value:<10}", "bold green" if frame.state is SocketState.OPEN else "bold red"),
            f"{frame.elapsed:5.1f} s  {frame.handled:>9,} messages {frame.rate:>9,.0f}/s",
        )
        text.no_wrap = True
        return text

    def _table(self, frame: Frame) -> "RenderableType":
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
        table.add_column("topic", min_width=14, no_wrap=True)
        table.add_column("channel", min_width=8, no_wrap=True)
        for name in ("sent", "handled", "balance"):
            table.add_column(name, min_width=8, justify="right", no_wrap=True)
        for row in frame.rows:
            behind = row.sent - row.handled > frame.rate / 10 + 10
            table.add_row(
                Text(row.topic),
                Text(row.state.value, "green" if row.state is ChannelState.JOINED else "red"),
                f"{row.sent:,}",
                Text(f"{row.handled:,}", "yellow" if behind else ""),
                f"{row.cents / 100:.2f}",
            )
        return table

    def _latest_notes(self, rows: int) -> "RenderableType":
        from rich.text import Text

        room = max(3, self._console.height - rows - 6)
        lines = [
            Text.assemble((f"{elapsed:5.1f}  ", "dim"), (note, "yellow" if trouble else ""))
            for elapsed, note, trouble in list(self._notes)[-room:]
        ]
        return Text("\n", overflow="ellipsis", no_wrap=True).join(lines)
