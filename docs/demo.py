"""Draws `demo.svg`: the last picture of `phx demo`, from a real run of it. `python docs/demo.py` takes ten seconds."""

import io
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from phx_transports.cli import demo
from phx_transports.cli import main as main_of_command
from phx_transports.cli.screen import LiveScreen

PICTURE: Final = Path(__file__).with_name("demo.svg")


def main() -> None:
    console = Console(record=True, file=io.StringIO(), force_terminal=True, width=98, height=40, highlight=False)
    latest: list[Any] = [""]

    class Screen(LiveScreen):
        def tell(self, lines: list[str]) -> None:
            console.print("$ phx demo", style="bold")
            console.print(latest[0])
            super().tell(lines)

    @contextmanager
    def open_screen() -> Generator[Screen, None, None]:
        yield Screen(console, lambda renderable: latest.__setitem__(0, renderable))

    demo.open_screen = open_screen
    main_of_command(["demo"])
    svg = console.export_svg(title="phx demo", unique_id="phx-demo")
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # it would be fetched from another host
    PICTURE.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
