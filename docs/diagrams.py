"""Draws the state machines of `phx_proto/states.py` into `states.md`, from the tables that the core runs on.

`python docs/diagrams.py` writes the file; a test keeps it up to date. The diagrams are Mermaid, which code hosts show.
"""

from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Final, TypeAlias

from phx_proto import states

#: State and input, and the state that follows.
Transition: TypeAlias = tuple[tuple[Enum, Enum], Enum]

PAGE: Final = Path(__file__).with_name("states.md")


def page() -> str:
    """The whole page: the theory from the module's docstring, then a diagram for each table."""
    title, _, theory = (states.__doc__ or "").partition("\n\n")
    return "\n".join(
        [
            f"# {title.rstrip('.')}",
            "",
            "Made by `python docs/diagrams.py` from the tables in `phx_proto/states.py`; edit those.",
            "",
            theory.strip(),
            "",
            *_section("The socket", states.SOCKET.items()),
            "",
            *_section("A channel", states.CHANNEL.items()),
            "",
        ]
    )


def _section(title: str, transitions: Iterable[Transition]) -> list[str]:
    return [f"## {title}", "", "```mermaid", *_diagram(transitions), "```"]


def _diagram(transitions: Iterable[Transition]) -> list[str]:
    """One arrow for each pair of states, with every input that leads along it."""
    arrows: dict[tuple[Enum, Enum], list[str]] = {}
    for (state, by), after in transitions:
        arrows.setdefault((state, after), []).append(by.value)
    sources = {state for state, _ in arrows}
    first = next(iter(arrows))[0]
    last = [after for after in type(first) if after not in sources]
    return [
        "stateDiagram-v2",
        f"    [*] --> {first.value}",
        *(f"    {state.value} --> {after.value}: {', '.join(inputs)}" for (state, after), inputs in arrows.items()),
        *(f"    {state.value} --> [*]" for state in last),
    ]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
