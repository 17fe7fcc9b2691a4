"""A Phoenix LiveView from Python: open its page, join it as the browser does, click, and read what changes.

    python examples/liveview_counter.py http://localhost:4000/counter inc

The page carries what the join needs: the id of the view, its signed session, the CSRF token; and the cookie must come
along. What LiveView answers are its own diffs: good for smoke tests and load tests, no public API.
"""

import asyncio
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from phx_transports.asyncio import Channel, connect


@dataclass(frozen=True)
class Page:
    """What a page says of its view."""

    url: str
    view: str
    session: str
    static: str
    csrf: str
    cookie: str

    @property
    def params(self) -> dict[str, Any]:
        """Of the socket, and of the join."""
        return {"_csrf_token": self.csrf, "_mounts": 0}

    @property
    def join(self) -> dict[str, Any]:
        return {"url": self.url, "params": self.params, "session": self.session, "static": self.static}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.view: dict[str, str | None] = {}
        self.csrf = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "meta" and found.get("name") == "csrf-token":
            self.csrf = found.get("content") or ""
        if "data-phx-main" in found:
            self.view = found


def open_page(url: str) -> Page:
    with urlopen(url, timeout=10) as response:
        cookie = "; ".join(one.partition(";")[0] for one in response.headers.get_all("set-cookie") or ())
        reader = _Reader()
        reader.feed(response.read().decode())
    view = {name: value or "" for name, value in reader.view.items()}
    return Page(url, view["id"], view["data-phx-session"], view["data-phx-static"], reader.csrf, cookie)


async def click(channel: Channel, event: str, **value: Any) -> Any:
    """What `phx-click` does; gives the diff."""
    reply = await channel.push("event", {"type": "click", "event": event, "value": value})
    return reply.response["diff"]


async def main(url: str, event: str, socket: str | None = None) -> Any:
    page = await asyncio.to_thread(open_page, url)
    where = socket or f"{'wss' if url.startswith('https') else 'ws'}://{urlsplit(url).netloc}/live"
    async with connect(where, params=page.params, headers={"cookie": page.cookie}) as client:
        view = await client.join(f"lv:{page.view}", page.join)
        print("rendered", view.response["rendered"], flush=True)
        diff = await click(view, event)
        print("diff", diff, flush=True)
        return diff


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
