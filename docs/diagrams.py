"""Draws the state machines of `phx_proto/states.py`: `states.md` and its pictures, from the tables the core runs on.

`python docs/diagrams.py` writes the files; a test keeps them up to date. In a picture the states are one below the
other, in the order of their enum. An arc on the right leads down, one on the left leads up: so no two labels meet.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Final, TypeAlias
from xml.sax.saxutils import escape

from phx_proto import states

#: State and input, and the state that follows.
Table: TypeAlias = Mapping[tuple[Enum, Enum], Enum]

HERE: Final = Path(__file__).parent
TABLES: Final[dict[str, Table]] = {"The socket": states.SOCKET, "A channel": states.CHANNEL}

_ROW, _WIDTH, _HEIGHT = 62, 96, 28  # from state to state; of a state's box
_REACH, _STEP = 14, 52  # of an arc sideways, and more of it for each state that it passes


def files() -> dict[Path, str]:
    """What is to be written, and where: the theory from the module's docstring, with a picture of each table."""
    title, _, theory = (states.__doc__ or "").partition("\n\n")
    page = [
        f"# {title.rstrip('.')}",
        "",
        "Made by `python docs/diagrams.py` from the tables in `phx_proto/states.py`; edit those.",
        "",
        theory.strip(),
    ]
    found = {}
    for heading, table in TABLES.items():
        name = f"states-{heading.split()[-1]}.svg"
        found[HERE / name] = picture(table)
        page += [
            "",
            f"## {heading}",
            "",
            f"![{heading}: every state, and what leads to the next]({name})",
            "",
            *_rows(table),
        ]
    return {HERE / "states.md": "\n".join([*page, ""]), **found}


def arrows(table: Table) -> dict[tuple[Enum, Enum], list[str]]:
    """One arrow for each pair of states, with every input that leads along it."""
    found: dict[tuple[Enum, Enum], list[str]] = {}
    for (state, by), after in table.items():
        found.setdefault((state, after), []).append(by.value)
    return found


def picture(table: Table) -> str:
    """The table as SVG."""
    order = list(type(next(iter(table))[0]))
    drawn = [_arrow(order.index(one), order.index(other), by) for (one, other), by in arrows(table).items()]
    side = _WIDTH // 2 + _REACH + _STEP * len(order) + 10
    size = f'width="{2 * side}" height="{_ROW * len(order)}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="{-side} 0 {2 * side} {_ROW * len(order)}">',
            "<style>text { font: 13px sans-serif; fill: #222; paint-order: stroke; stroke: #fff; stroke-width: 4 } "
            "path { fill: none; stroke: #5e35b1; stroke-width: 1.3 } .up { stroke: #00838f } "
            "rect { fill: #ede7f6; stroke: #5e35b1; rx: 6 } "
            ".state { text-anchor: middle; font-weight: bold; stroke: none } "
            "#ground { fill: #fff; stroke: none }</style>",
            '<defs><marker id="tip" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto">'
            '<polygon points="0 0, 9 4, 0 8" fill="#5e35b1"/></marker></defs>',
            f'<rect id="ground" x="{-side}" width="{2 * side}" height="{_ROW * len(order)}"/>',
            *(line for line, _ in drawn),
            *(label for _, label in drawn),
            *_boxes(order),
            "</svg>",
            "",
        ]
    )


def _arrow(start: int, end: int, inputs: list[str]) -> tuple[str, str]:
    """Its line and its label, which is drawn after all lines."""
    sign = -1 if end < start else 1
    edge, reach = sign * _WIDTH // 2, sign * (_WIDTH // 2 + _REACH + _STEP * (abs(end - start) or 0.4))
    lean = 6 * (end > start) - 6 * (end < start) or 8  # arrows leave below where they arrive
    leave, arrive = _middle(start) + lean, _middle(end) - lean
    kind, anchor = ("up", "end") if sign < 0 else ("down", "start")
    control = (4 * reach - edge) / 3  # so that the curve's middle is at `reach`
    return (
        f'<path class="{kind}" d="M {edge} {leave} C {control:.0f} {leave} {control:.0f} {arrive} {edge} {arrive}" '
        f'marker-end="url(#tip)"/>',
        f'<text x="{reach + sign * 3:.0f}" y="{(leave + arrive) / 2 + 4:.0f}" '
        f'text-anchor="{anchor}">{escape(", ".join(inputs))}</text>',
    )


def _boxes(order: list[Enum]) -> Iterator[str]:
    for number, state in enumerate(order):
        box = f'x="{-_WIDTH // 2}" y="{_middle(number) - _HEIGHT // 2}" width="{_WIDTH}" height="{_HEIGHT}"'
        yield f'<rect {box}/><text class="state" x="0" y="{_middle(number) + 5}">{state.value}</text>'


def _middle(number: int) -> int:
    return _ROW * number + _ROW // 2


def _rows(table: Table) -> Iterator[str]:
    yield from ("| from | by | to |", "|---|---|---|")
    for (state, after), inputs in arrows(table).items():
        yield f"| {state.value} | {', '.join(inputs)} | {after.value} |"


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
