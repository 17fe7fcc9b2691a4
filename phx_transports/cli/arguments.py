"""The command line of `phx`: its arguments and their meaning."""

import argparse
import contextlib
import math
import os
import platform
import re
import ssl
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from phx_proto import __version__

_EXAMPLES: Final = """\
examples:
  phx demo
  phx serve
  phx listen ws://localhost:4000/socket room:lobby
  phx listen wss://example.com/socket 'sim:89445' --event balance --params '{"token": "…"}' | jq .payload
  phx push ws://localhost:4000/socket room:lobby shout '{"body": "hi"}'
  phx doctor wss://example.com/socket room:lobby
"""

_DEMO: Final = """\
Serve a fleet's balances on a free local port, follow them with a client, and let things go wrong: a refused join, a
cut, a crashed channel, a raising handler. Then count what was lost.
"""

_LISTEN: Final = """\
Join topics of a Phoenix server and print what arrives, one JSON object a line, until Ctrl+C:

  {"topic":"room:lobby","event":"shout","payload":{"body":"hi"}}

A binary payload is printed as base64, with "encoding":"base64" behind it. What happens to the connection is told on
stderr. It is kept up: after a loss it is opened and the topics are joined again.

Exit codes: 0 when it was ended, 1 where the server or the network said no, 2 for a command line that cannot be.
"""

_PUSH: Final = """\
Join a topic, push one event, and print the reply as JSON: {"status":"ok","response":{}}

Exit codes: 0 for a reply with status ok (or none wanted), 1 where the server cannot be reached or refuses the join or
the connection is lost, 2 for a command line that cannot be, 3 for a reply with another status, 4 for no reply in time.
"""

_DOCTOR: Final = """\
Go each step of the way to a joined channel, tell how long it took, and where it fails, what to do: the proxy, DNS, TCP,
TLS and the certificate, the handshake, a heartbeat, the join of a topic. Nothing is pushed; at the end all is closed.

Exit codes: 0 where all is well, 1 where a step failed, 2 for a command line that cannot be.
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
Others on this machine may see a command line. URL, token and params can be given in the environment variables PHX_URL,
PHX_TOKEN and PHX_PARAMS instead, and JSON in a file: --params @params.json (@- for the standard input).
"""


class Options:
    """The parsed command line: a subclass declares the arguments it needs."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        vars(self).update(vars(arguments))


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed command line; its `command` is the module of this package that runs it."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="phx", description="Phoenix Channels from the command line.", epilog=_EXAMPLES, formatter_class=raw
    )
    about = f"phx-channels {__version__} (Python {platform.python_version()})"
    parser.add_argument("--version", action="version", version=about)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)

    about = "a server and a client in one process, and what goes wrong between them"
    add = commands.add_parser("demo", help=about, description=_DEMO, formatter_class=raw).add_argument
    add("--seconds", type=_positive, default=10.0, metavar="S", help="how long it runs (default: 10)")
    add("--rate", type=_positive, default=2000.0, metavar="N", help="messages a second (default: 2000)")

    about = "print what arrives on topics of any Phoenix server"
    listen = _talker(commands, "listen", "[URL] TOPIC [TOPIC ...]", about, _LISTEN)
    listen.set_defaults(place=partial(_place, listen, ("topic",), None))
    add = listen.add_argument
    add("--event", dest="events", action="append", default=[], metavar="E", help="only this event; may be repeated")
    add("--exclude", action="append", default=[], metavar="E", help="not this event, or E* for all that begin so")
    add("--presence", action="store_true", help="tell who comes and goes instead of presence_state and presence_diff")
    add("--count", type=_count, metavar="N", help="end after so many messages")
    add("--record", metavar="FILE", help="write every frame to a new file, for the test kit to replay")

    push = _talker(commands, "push", "[URL] TOPIC EVENT [PAYLOAD]", "push one event and print its reply", _PUSH)
    push.set_defaults(place=partial(_place, push, ("topic", "event"), "payload"))
    add = push.add_argument
    add("--no-reply", action="store_true", help="want none: end when it is sent")
    add("--reply-timeout", type=_positive, default=10.0, metavar="S", help="seconds for the reply (default: 10)")

    doctor = _talker(commands, "doctor", "[URL] [TOPIC]", "find out why a server cannot be reached", _DOCTOR)
    doctor.set_defaults(place=partial(_place, doctor, (), "topic"))
    add = doctor.add_argument
    add("--channels", type=_count, metavar="N", help="join so many topics like TOPIC, to find the server's limit")

    about = "a server with rooms, to try clients by hand"
    serve = commands.add_parser("serve", help=about, description=_SERVE, formatter_class=raw)
    add = serve.add_argument
    add("--host", default="127.0.0.1", metavar="H", help="the address to listen on (default: 127.0.0.1)")
    add("--port", type=_port, default=4000, metavar="N", help="0 for any free one, which is told (default: 4000)")
    add("--path", type=_path, default="/socket", metavar="P", help="where the socket is mounted (default: /socket)")
    _add_token(serve, "refuse clients without it, as authToken or in params; or set PHX_TOKEN")
    add("--tick", type=_positive, metavar="S", help="seconds between two `tick` events to every room")
    add("--quiet", action="store_true", help="say where it serves, and nothing more")

    arguments = parser.parse_args(argv)
    if "place" in arguments:
        arguments.place(arguments)
    return arguments


def json_value(text: str) -> Any:
    """A JSON value, or the contents of a file: `@FILE`, or `@-` for standard input."""
    if text.startswith("@"):
        try:
            text = sys.stdin.read() if text == "@-" else Path(text[1:]).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise argparse.ArgumentTypeError(f"cannot read {text[1:]}: {error}") from None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise argparse.ArgumentTypeError(f"not JSON ({error}); is it quoted for the shell?") from None


def _talker(commands: Any, name: str, words: str, about: str, description: str) -> argparse.ArgumentParser:
    """The parser of a command that talks to a server, with the options of `Target`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        usage=f"phx {name} [options] {words}",
        help=about,
        description=description,
        epilog=_SECRETS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    url = "URL: where the server mounts the socket, e.g. wss://example.com/socket"
    add("words", metavar=words, nargs="*", help=url)
    params = "params of the socket, an object, or @FILE; or set PHX_PARAMS"
    add("--params", type=_object, default=os.environ.get("PHX_PARAMS") or None, metavar="JSON", help=params)
    add("--join-params", type=json_value, metavar="JSON", help="params of the joins, any JSON value, or @FILE")
    _add_token(parser, "for a socket with `auth_token: true`; or set PHX_TOKEN")
    header = "of the handshake"
    add("--header", dest="headers", type=_header, action="append", default=[], metavar="'N: V'", help=header)
    add("--path", metavar="P", help="what follows the URL, if not /websocket; e.g. /:key, with `key` in --params")
    add("--vsn", choices=("1.0.0", "2.0.0"), default="2.0.0", help="the serializer's version (default: 2.0.0)")
    add("--timeout", type=_positive, default=5.0, metavar="S", help="seconds for the first connection (default: 5)")
    add("--ca", type=_ca, metavar="FILE", help="trust these certificates (PEM) instead of the system's")
    add("--longpoll", action="store_true", help="poll, where no WebSocket gets through")
    add("--proxy", default=True, metavar="URL", help="a proxy, or `none`; by default what the environment says")
    add("--log-level", choices=("debug", "info", "warning", "error"), help="log to stderr, from this level on")
    return parser


def _place(
    parser: argparse.ArgumentParser, required: tuple[str, ...], optional: str | None, arguments: argparse.Namespace
) -> None:
    """Assign the words of the command line. The first is the URL, unless the environment has one and it is not a URL.

    Without an `optional` one, any number may follow the required ones: all are `topics` then.
    """
    words = list(arguments.words)
    url = os.environ.get("PHX_URL")
    if not url or (words and "://" in words[0]):
        url = words.pop(0) if words else ""
    missing = [*([] if url else ["URL (or set PHX_URL)"]), *(name.upper() for name in required[len(words) :])]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    arguments.url, arguments.topics = url, words
    if optional is not None:
        names = (*required, optional)
        vars(arguments).update(zip(names, [*words, None], strict=False))
        if words[len(names) :]:
            parser.error(f"unrecognized arguments: {' '.join(words[len(names) :])}")


def _add_token(parser: argparse.ArgumentParser, meaning: str) -> None:
    # An empty value means none: it overrides an environment variable.
    parser.add_argument(
        "--token", type=lambda text: text or None, default=os.environ.get("PHX_TOKEN"), metavar="T", help=meaning
    )


def _number(kind: Callable[[str], float], fits: Callable[[float], bool], what: str) -> Callable[[str], Any]:
    def number_of(text: str) -> float:
        with contextlib.suppress(ValueError):
            if fits(number := kind(text)):
                return number
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")

    return number_of


_positive: Final = _number(float, lambda number: 0 < number < math.inf, "a positive number")
_count: Final = _number(int, lambda number: number > 0, "a positive whole number")
_port: Final = _number(int, lambda number: 0 <= number <= 65535, "a port, from 0 to 65535")


def _ca(text: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=text)
    except OSError as error:  # includes SSLError
        raise argparse.ArgumentTypeError(f"cannot read certificates from {text}: {error.strerror or error}") from None


def _path(text: str) -> str:
    if re.fullmatch(r"/[^\s?#]*", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not a path, e.g. /socket")


def _object(text: str) -> dict[str, Any]:
    value = json_value(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object, e.g. '{\"user\": 7}'")
    return value  # pyright: ignore[reportUnknownVariableType]


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (colon and name.strip()):
        raise argparse.ArgumentTypeError("must look like 'Name: value'")
    return name.strip(), value.strip()
