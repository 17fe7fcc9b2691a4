"""Plots of what `python -m bench` printed: `python -m bench > docs/speed.txt && python -m bench.plots docs/speed.txt`.

For each table of rates a picture is written beside the file: a bar for each row, as a ratio to the first row of the
same table, with a line from the lowest to the highest of the rounds.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

_RATIO: Final = re.compile(r"([\d.]+) \[([\d.]+) to ([\d.]+)\]")
_ROW, _LEFT, _WIDTH = 40, 330, 400  # pixels: of a bar with its gap, of the names, of the longest bar


@dataclass(frozen=True)
class Bar:
    """One row of a table: its ratio to the first, and the range of that."""

    name: str
    note: str
    middle: float
    low: float
    high: float


def tables(printed: str) -> Iterator[tuple[str, list[Bar]]]:
    """The tables of rates, by their titles."""
    for block in printed.split("\n\n"):
        title, _, rest = block.partition("\n")
        head, *rows = rest.splitlines() or [""]
        if "ratio to the first" in head and "messages a second" in head:
            yield title.strip(), [bar for row in rows if (bar := _bar(row, head.index("ratio to the first")))]


def picture(title: str, bars: list[Bar]) -> str:
    """The table as SVG."""
    height = _ROW * len(bars) + 50
    scale = _WIDTH / max(bar.high for bar in bars)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 90} {height}">',
        "<style>text { font: 13px sans-serif; fill: #222 } .title { font-weight: bold } "
        ".note { font-size: 10px; fill: #555 } .bar { fill: #b39ddb } "
        ".ours { fill: #5e35b1 } line { stroke: #222; stroke-width: 1.5 } .ground { fill: #fff }</style>",
        f'<rect class="ground" width="100%" height="{height}"/>',
        f'<text class="title" x="10" y="22">{escape(title)}</text>',
    ]
    for number, bar in enumerate(bars):
        y = 40 + _ROW * number
        kind = "bar ours" if bar.name.startswith("phx-channels") else "bar"
        low, middle, high = (_LEFT + value * scale for value in (bar.low, bar.middle, bar.high))
        lines += [
            f'<text x="{_LEFT - 8}" y="{y + (10 if bar.note else 16)}" text-anchor="end">{escape(bar.name)}</text>',
            f'<text class="note" x="{_LEFT - 8}" y="{y + 23}" text-anchor="end">{escape(bar.note)}</text>',
            f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{middle - _LEFT:.1f}" height="22"/>',
            f'<line x1="{low:.1f}" y1="{y + 11}" x2="{high:.1f}" y2="{y + 11}"/>',
            f'<text x="{high + 8:.1f}" y="{y + 15}">{bar.middle:g}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def pictures(printed: Path) -> dict[Path, str]:
    """What is to be written, and where."""
    found = {}
    for title, bars in tables(printed.read_text("utf-8")):
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        found[printed.with_name(f"{printed.stem}-{name}.svg")] = picture(title, bars)
    return found


def _bar(row: str, ratios: int) -> Bar | None:
    name = row[2:].partition("   ")[0].strip()
    if found := _RATIO.match(row, ratios):
        note = row[found.end() :].strip().partition(";")[0]
        return Bar(name, note, *map(float, found.groups()))
    return Bar(name, "the measure", 1.0, 1.0, 1.0) if row[ratios:].startswith("1") else None


def main() -> None:
    """Write them."""
    for path, text in pictures(Path(sys.argv[1])).items():
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
