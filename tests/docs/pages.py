"""The pages of the site, and their code with a client that a test drives."""

from functools import partial
from pathlib import Path
from typing import Any

from snippets import blocks, run

import phx_transports.asyncio
from phx_transports.testing import Peer

DOCS = Path(__file__).parents[2] / "docs"


def code_of(page: str, peer: Peer | None = None) -> dict[str, Any]:
    """What the blocks of a page define that are meant for no file; `connect` leads to the peer."""
    names = run(blocks(DOCS / page, marker=""), name=page.partition(".")[0])
    if peer is not None:
        names["connect"] = partial(phx_transports.asyncio.connect, transport=peer)
    return names


def written(page: str, folder: Path) -> None:
    """The blocks of a page that name a file, as files."""
    for block in blocks(DOCS / page):
        if block.marker:
            (folder / block.marker).write_text(block.code)
