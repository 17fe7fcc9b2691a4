"""`manage.py follow TOPIC …`: keeps the table of balances current, until SIGTERM or Ctrl+C.

`--ready FILE` keeps a file as long as all topics are joined, for a readiness probe such as `test -f FILE`.
"""

import os
from pathlib import Path
from typing import Any

from accounts.handlers import router
from django.core.management.base import BaseCommand

from phx_proto import ChannelState, SocketState
from phx_transports.threads import Client, connect


class Command(BaseCommand):
    help = "Follow the balances of topics."

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("topics", nargs="+", metavar="TOPIC")
        parser.add_argument("--ready", type=Path, metavar="FILE")

    def handle(self, *args: Any, topics: list[str], ready: Path | None, **options: Any) -> None:
        with connect(os.environ["PHX_URL"], router=router, drain_timeout=3.0) as client:
            for topic in topics:
                client.join(topic)
            while client.state is not SocketState.CLOSED:
                if ready is not None:
                    show(client, ready)
                client.run(timeout=0.5)
        if ready is not None:
            ready.unlink(missing_ok=True)


def show(client: Client, ready: Path) -> None:
    if all(channel.state is ChannelState.JOINED for channel in client.channels.values()):
        ready.touch()
    else:
        ready.unlink(missing_ok=True)
