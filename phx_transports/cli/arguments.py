"""The command line of `phx`: what may stand there, and what it means."""

import argparse
import contextlib
import math
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from phx_proto import __version__

T = TypeVar("T")

_EXAMPLES: Final = """\
examples:
  phx demo
  phx serve
  phx listen ws://localhost:4000/socket room:lobby
  phx listen wss://example.com/socket 'sim:89445' --event balance --params '{"token": "…"}' | jq .payload
"""

_LISTEN: Final = """\
Join topics of a Phoenix server and print what arrives, one JSON object a line, until Ctrl+C:

  {"topic":"room:lobby","event":"shout","payload":{"body":"hi"}}

A binary payload is printed as base64, with "encoding":"base64" behind it. What happens to the connection is told on
stderr. It is kept up: after a loss it is opened and the topics are joined again.
"""

_SERVE: Final = """\
A server to try clients by hand, until Ctrl+C. What happens is told on stdout, one line each; of params, only the names.

Every topic room:* may be joined and answers with the join's params, but room:private refuses. Events:

  echo               replies the payload, as does any event that is not named here
  shout, broadcast   to everyone in the room
  slow               replies after as many milliseconds as "ms" says
  stop, crash        end the channel

Presence goes by "name" in the join's params or "user_id" in the socket's.
"""

_SECRETS: Final = """\
Others on this machine may see a command line. A token can be given in the environment variable PHX_TOKEN instead, and
params in a file: --params @params.json
"""


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says; its `command` is the module of this package that runs it."""
    parser = argparse.ArgumentParser(
        prog="phx",
        description="Phoenix Channels from the command line.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    about = f"phx-channels {__version__} (Python {platform.python_version()})"
    parser.add_argument("--version", action="version", version=about)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)

    demo = commands.add_parser(
        "demo",
        help="a server and a client in one process, and what goes wrong between them",
        description="Serve a fleet's balances on a free local port, follow them with a client, and let things go "
        "wrong: a refused join, a cut, a crashed channel, a raising handler. Then count what was lost.",
    )
    demo.add_argument("--seconds", type=_positive, default=10.0, metavar="S", help="how long it runs (default: 10)")
    demo.add_argument("--rate", type=_positive, default=2000.0, metavar="N", help="messages a second (default: 2000)")

    listen = commands.add_parser(
        "listen",
        help="print what arrives on topics of any Phoenix server",
        description=_LISTEN,
        epilog=_SECRETS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = listen.add_argument
    add("url", metavar="URL", help="where the server mounts the socket, e.g. wss://example.com/socket")
    add("topics", metavar="TOPIC", nargs="+", help="a topic to join, e.g. room:lobby")
    add("--event", dest="events", action="append", default=[], metavar="E", help="only this event; may be repeated")
    _add_target(listen)

    serve = commands.add_parser(
        "serve",
        help="a server with rooms, to try clients by hand",
        description=_SERVE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = serve.add_argument
    add("--host", default="127.0.0.1", metavar="H", help="the address to listen on (default: 127.0.0.1)")
    add("--port", type=_port, default=4000, metavar="N", help="0 for any free one, which is told (default: 4000)")
    add("--path", type=_path, default="/socket", metavar="P", help="where the socket is mounted (default: /socket)")
    _add_token(serve, "refuse clients without it, as authToken or in params; or set PHX_TOKEN")
    add("--tick", type=_positive, metavar="S", help="seconds between two `tick` events to every room")
    add("--quiet", action="store_true", help="say where it serves, and nothing more")
    return parser.parse_args(argv)


def built(kind: type[T], arguments: argparse.Namespace) -> T:
    """A dataclass of what was given for its fields."""
    return kind(**{field.name: getattr(arguments, field.name) for field in fields(kind)})  # type: ignore[arg-type]


# ---- private --------------------------------------------------------------------------------------------------------


def _add_target(parser: argparse.ArgumentParser) -> None:
    """The options of `Target`."""
    add = parser.add_argument
    add("--params", type=_object, metavar="JSON", help="params of the socket, an object, or @FILE")
    add("--join-params", type=_json, metavar="JSON", help="params of the joins, any JSON value, or @FILE")
    _add_token(parser, "for a socket with `auth_token: true`; or set PHX_TOKEN")
    add(
        "--header", dest="headers", type=_header, action="append", default=[], metavar="'N: V'", help="of the handshake"
    )
    add("--path", metavar="P", help="what follows the URL, if not /websocket; e.g. /:key, with `key` in --params")
    add("--vsn", choices=("1.0.0", "2.0.0"), default="2.0.0", help="the serializer's version (default: 2.0.0)")
    add("--timeout", type=_positive, default=5.0, metavar="S", help="seconds for the first connection (default: 5)")


def _add_token(parser: argparse.ArgumentParser, meaning: str) -> None:
    # An empty one is none: that is how an environment variable is taken back.
    parser.add_argument(
        "--token", type=lambda text: text or None, default=os.environ.get("PHX_TOKEN"), metavar="T", help=meaning
    )


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        number = float(text)
        if 0 < number < math.inf:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")


def _port(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 0 <= (number := int(text)) <= 65535:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a port, from 0 to 65535")


def _path(text: str) -> str:
    if re.fullmatch(r"/[^\s?#]*", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not a path, e.g. /socket")


def _json(text: str) -> Any:
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise argparse.ArgumentTypeError(f"cannot read {text[1:]}: {error}") from None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not JSON ({error}); is it quoted for the shell?") from None


def _object(text: str) -> dict[str, Any]:
    value = _json(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object, e.g. '{\"user\": 7}'")
    return value  # pyright: ignore[reportUnknownVariableType]


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (colon and name.strip()):
        raise argparse.ArgumentTypeError("must look like 'Name: value'")
    return name.strip(), value.strip()
