"""What the command writes to a terminal: a peer's text contains no terminal control characters."""

import io
import json

import msgspec
import pytest

from phx_proto.message import Message
from phx_transports.cli.printer import Printer
from phx_transports.cli.screen import PlainScreen
from phx_transports.cli.target import say


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        (
            b'{"a":"\xc2\x9b2J\xe2\x80\xae\x7f\xf0\x9f\x98\x80\xc3\xa9"}',
            '{"a":"\\u009b2J\\u202e\\u007f\N{GRINNING FACE}é"}',
        ),
        (b'{\n\t"a":\r1}', '{  "a": 1}'),
        (b'"\xff\xf3\xa0\x80\x81"', '"\N{REPLACEMENT CHARACTER}\\udb40\\udc01"'),
    ],
)
def test_a_line_is_json_without_anything_that_a_terminal_obeys(payload: bytes, line: str) -> None:
    out = io.BytesIO()
    Printer(out).message(Message(topic="t\x1b[2J", event="e\u2028", payload=msgspec.Raw(payload)))
    text = out.getvalue().decode()
    assert text == f'{{"topic":"t\\u001b[2J","event":"e\\u2028","payload":{line}}}\n'
    assert json.loads(text)["topic"] == "t\x1b[2J"


def test_what_is_said_and_drawn_holds_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[2J\n\x9b\u202e"
    say(f"closed: {hostile}")
    PlainScreen().note(1.0, hostile)
    shown = capsys.readouterr()
    assert shown.err == "phx: closed: \\x1b[2J\\n\\x9b\\u202e\n"
    assert shown.out == "  1.0   \\x1b[2J\\n\\x9b\\u202e\n"
