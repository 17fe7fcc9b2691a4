"""A peer's text is always shown bounded, escaped and without our secrets."""

import html
import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from phx_proto.shown import (
    MASK,
    Record,
    Secrets,
    escaped,
    secrets_in,
    secrets_in_headers,
    secrets_in_url,
    shown,
)

TOKEN = "s3cr3t/t+k€n&'more'"


def nested(depth: int, value: Any = None) -> Any:
    for _ in range(depth):
        value = [value]
    return value


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        1.5,
        "it's",
        b"a\x00'b",
        [],
        {},
        (),
        (1,),
        (1, 2),
        [1, {"a": [None]}],
        {"a": {1: "x"}},
        Decimal("1.20"),
    ],
)
def test_a_small_value_is_shown_as_its_repr(value: Any) -> None:
    assert shown(value) == repr(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (nested(100_000), "[[[[[[[…]]]]]]]"),
        (nested(6, []), "[[[[[[[]]]]]]]"),
        ({"a": nested(9)}, "{'a': [[[[[[…]]]]]]}"),
        ([10**5000], "[<int of 16610 bits>]"),
        (2**1000, "<int of 1001 bits>"),
        (2**1000 - 1, f"{2**1000 - 1}"[:299] + "…"),
        (Odd(), "<Odd>"),
        (10**250, f"1{'0' * 250}"),
        (msgspec.Raw(b'{"a":"\x1b\xff"}'), '{"a":"\\x1b\N{REPLACEMENT CHARACTER}"}'),
    ],
)
def test_an_odd_value_is_shown_too(value: Any, text: str) -> None:
    assert shown(value, 300) == text


@pytest.mark.parametrize(
    "value", ["x" * 10**6, b"x" * 10**6, ["x"] * 10**6, dict.fromkeys(range(10**5)), msgspec.Raw(b"1" * 10**6)]
)
def test_a_large_value_is_cut(value: Any) -> None:
    assert len(shown(value, 50)) == 50
    assert shown(value, 50).endswith("…")


def test_a_value_is_cut_at_the_limit_and_not_before_it() -> None:
    value = [1, {"a": (2, "three", b"four")}, [], True]
    whole = repr(value)
    for limit in range(1, len(whole) + 2):
        assert shown(value, limit) == (whole if len(whole) <= limit else f"{whole[: limit - 1]}…")


@pytest.mark.parametrize(
    "character",
    ["\x1b", "\n", "\r", "\t", "\0", "\x7f", "\x85", "\x9b", "\u202e", "\u2066", "\u2028", "\u200b", "\ud83d"],
)
def test_what_is_no_printable_text_is_escaped(character: str) -> None:
    for text in (escaped(f"a{character}b"), shown(f"a{character}b"), shown({character: [character]})):
        assert text.isprintable()
    assert escaped(f"a{character}b") == repr(f"a{character}b")[1:-1]


def test_printable_text_stays_as_it_is() -> None:
    assert escaped("Größe: 5 kΩ, «ok» 'yes' \\ 漢字") == "Größe: 5 kΩ, «ok» 'yes' \\ 漢字"


@given(value=st.recursive(st.text() | st.binary() | st.integers() | st.floats(), st.lists), limit=st.integers(1, 300))
def test_every_text_is_printable_and_bounded(value: Any, limit: int) -> None:
    text = shown(value, limit)
    assert text.isprintable()
    assert len(text) <= limit


FORMS: dict[str, str] = {
    "plain": TOKEN,
    "percent-encoded": quote(TOKEN, safe=""),
    "percent-encoded, slash kept": quote(TOKEN),
    "percent-encoded in lower case": quote(TOKEN, safe="").replace("%2F", "%2f").replace("%E2%82%AC", "%e2%82%ac"),
    "form-encoded": quote_plus(TOKEN),
    "base64": b64encode(TOKEN.encode()).decode(),
    "base64 without padding": b64encode(TOKEN.encode()).decode().rstrip("="),
    "base64url": urlsafe_b64encode(TOKEN.encode()).decode(),
    "base64 behind one byte": b64encode(f":{TOKEN}".encode()).decode(),
    "base64 behind a user": b64encode(f"me:{TOKEN}".encode()).decode(),
    "base64 in the midst": b64encode(f"you:{TOKEN}:me".encode()).decode(),
    "JSON": json.dumps(TOKEN),
    "JSON as it is": json.dumps(TOKEN, ensure_ascii=False),
    "JSON with escaped slashes": json.dumps(TOKEN).replace("/", "\\/"),
    "JSON of a lone surrogate": f"{TOKEN}\ud800",
    "HTML": html.escape(TOKEN).replace("&#x27;", "&#39;"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_masked_in_every_form(form: str) -> None:
    text = f"the token {FORMS[form]} is wrong"
    for masked in (Secrets([TOKEN]).escaped(text), Secrets([TOKEN]).masked(text)):
        assert MASK in masked
        for piece in ("s3cr3t", quote(TOKEN)[2:9], b64encode(TOKEN.encode()).decode()[4:12]):
            assert piece not in masked


ENCODINGS: dict[str, Callable[[str], str]] = {
    "percent-encoded": partial(quote, safe=""),
    "percent-encoded, slash kept": quote,
    "percent-encoded, in lower case": lambda text: re.sub("%..", lambda found: found[0].lower(), quote(text, safe="")),
    "form-encoded": quote_plus,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON as it is": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON with escaped slashes": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "HTML, as Plug has it": lambda text: html.escape(text).replace("&#x27;", "&#39;"),
    "HTML, as Python has it": html.escape,
    "HTML, as Go has it": lambda text: html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
    "HTML, as XML has it": lambda text: html.escape(text).replace("&#x27;", "&apos;"),
    "HTML, apostrophes as they are": lambda text: html.escape(text).replace("&#x27;", "'"),
    "HTML, quotation marks as they are": partial(html.escape, quote=False),
    "bytes": lambda text: repr(text.encode())[2:-1],
}


@pytest.mark.parametrize("form", ENCODINGS)
@given(st.text('ab /+\\"<>&%é€', min_size=8, max_size=20))
@example("it's /a b\\\"")
@example("in two/words")
def test_whatever_it_has_in_it_a_secret_is_masked_in_every_form(form: str, secret: str) -> None:
    assert Secrets([secret]).masked(f"it was '{ENCODINGS[form](secret)}'") == f"it was '{MASK}'"


@pytest.mark.parametrize("size", range(8, 20))
@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
@pytest.mark.parametrize("around", [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (3, 4)])
def test_a_secret_within_base64_is_masked_but_for_what_it_shares_with_its_neighbours(
    encode: Any, size: int, around: tuple[int, int]
) -> None:
    secret = "?>~0<a!9Zq]3[x}Y&k#"[:size]
    before, after = around
    text = encode(b":" * before + secret.encode() + b":" * after).decode()
    first, end = -(-before * 8 // 6), (before + size) * 8 // 6  # in characters of six bits
    assert Secrets([secret]).masked(text) == text[:first] + MASK + text[end:]


@pytest.mark.parametrize("secret", ["h?sh", "h?sh>", "h?sh>~", "h?sh>~7", "pa55-W", "two words", " €~ "])
@pytest.mark.parametrize(
    "encode", [lambda raw: b64encode(raw.encode()).decode().rstrip("="), quote_plus, lambda raw: json.dumps(raw)[1:-1]]
)
def test_a_short_secret_is_masked_in_other_forms(secret: str, encode: Any) -> None:
    assert Secrets([secret]).masked(f"it was {encode(secret)} then") == f"it was {MASK} then"


@pytest.mark.parametrize(
    "value",
    [TOKEN, [TOKEN], {"reason": {"got": f"x{TOKEN}"}}, {TOKEN: 1}, TOKEN.encode(), msgspec.Raw(f'"{TOKEN}"'.encode())],
)
def test_a_secret_is_masked_within_a_value(value: Any) -> None:
    text = Secrets([TOKEN]).shown(value)
    assert MASK in text
    assert "s3cr3t" not in text


def test_a_secret_is_not_shown_in_part_where_the_text_is_cut() -> None:
    secret = "abcdefghijklmnop" * 3
    secrets = Secrets([secret])
    for before in range(60):
        value = "-" * before + secret + "-" * 500
        raw = value.encode()
        for text in (secrets.escaped(value, 50), *(secrets.shown(one, 50) for one in (value, raw, msgspec.Raw(raw)))):
            assert "abc" not in text
            assert len(text) <= 50
    assert secrets.escaped(secret * 100, 50) == f"{MASK}…"


def test_the_beginning_of_a_long_secret_is_masked_for_a_peer_may_cut_it() -> None:
    secrets = Secrets(["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ5b3UifQ"])
    assert secrets.escaped("bad token eyJhbGciOiJIUzI1NiJ9.eyJz") == f"bad token {MASK}"


@pytest.mark.parametrize(
    ("secret", "text", "masked"),
    [
        ("hush", "hush! not hushed", f"{MASK}! not hushed"),
        ("1234", "pin 1234 of 12345", f"pin {MASK} of 12345"),
        ("abc", "abc", "abc"),
        ("one of eight", "none of eighty", f"n{MASK}y"),
        ("s3cr3t-token", "S3CR3T", "S3CR3T"),
    ],
)
def test_a_short_secret_is_a_word_and_a_very_short_one_none(secret: str, text: str, masked: str) -> None:
    assert Secrets([secret]).escaped(text) == masked


def test_a_number_that_was_a_secret_is_masked() -> None:
    assert Secrets(secrets_in({"pin": 123456})).shown({"pin": 123456}) == "{'pin': " + MASK + "}"


def test_overlapping_secrets_are_masked_once() -> None:
    assert Secrets(["user:passw0rd", "passw0rd", "passw0rd-2"]).escaped("user:passw0rd-2") == MASK


def test_secrets_are_not_shown_themselves() -> None:
    assert repr(Secrets([TOKEN])) == "Secrets(…)"


def test_the_secrets_of_params_are_their_values_at_any_depth() -> None:
    params = {"a": "one", "b": {"c": ["two", 3, 4.5, b"six\xff", None, True]}}
    assert sorted(secrets_in(params)) == ["3", "4.5", "one", "six\N{REPLACEMENT CHARACTER}", "two"]
    assert list(secrets_in(nested(32, "deep"))) == ["deep"]
    assert list(secrets_in(nested(33, "deep"))) == []
    assert list(secrets_in([nested(31, "deep"), nested(32, "too deep")])) == ["deep"]


def test_the_beginning_of_a_secret_that_is_not_long_is_no_secret() -> None:
    secrets = Secrets(["abcdefghijklmnop"])  # 16 characters
    assert secrets.masked("abcdefghijklmno") == "abcdefghijklmno"
    assert Secrets(["abcdefghijklmnopq"]).masked("abcdefghijklmno") == MASK


def test_a_secret_is_masked_with_its_escapes_in_lower_case() -> None:
    assert Secrets(["Ab/Cd"]).masked("it was Ab%2fCd") == f"it was {MASK}"


def test_a_secret_that_is_no_text_is_masked() -> None:
    assert Secrets(["s3cr3t\ud800"]).masked("it was s3cr3t\ud800") == f"it was {MASK}"


def test_a_record_shows_its_fields_but_for_those_that_are_data() -> None:
    class Answer(Record, frozen=True):
        status: int
        body: str
        _data: ClassVar[frozenset[str]] = frozenset({"body"})

    assert repr(Answer(200, "s3cr3t")) == "Answer(status=200, body=…)"


def test_a_secret_is_masked_as_html_has_it() -> None:
    assert Secrets(["1<2>3&4"]).masked("it was 1&lt;2&gt;3&amp;4") == f"it was {MASK}"
    assert Secrets(['it\'s "me"']).masked("no it&#39;s &quot;me&quot; here") == f"no {MASK} here"


def test_a_password_may_hold_colons() -> None:
    header = ("authorization", f"Basic {b64encode(b'me:pass:w0rd').decode()}")
    assert "pass:w0rd" in set(secrets_in_headers([header]))


def test_a_password_need_not_be_text() -> None:
    header = ("authorization", f"Basic {b64encode(bytes([*b'me:', 0xFF])).decode()}")
    assert "\N{REPLACEMENT CHARACTER}" in set(secrets_in_headers([header]))


def test_a_public_header_hides_no_other() -> None:
    assert list(secrets_in_headers([("user-agent", "me/1"), ("x-api-key", "k3y")])) == ["k3y"]


def test_the_secrets_of_headers() -> None:
    basic = b64encode(b"me:passw0rd").decode()
    headers = [
        ("Authorization", f"Basic {basic}"),
        ("authorization", "Bearer t0ken"),
        ("Proxy-Authorization", f"Basic {b64encode(b'me:pr0xy').decode()}"),
        ("Proxy-Authorization", "Basic bWU6b3RoZXI=!"),
        ("Proxy-Authorization", "Basic bWU6!b3RoZXI="),
        ("Cookie", 'id=s3ssion; b="two"'),
        ("X-Api-Key", "k3y"),
        ("User-Agent", "me/1"),
    ]
    found = set(secrets_in_headers(headers))
    assert {basic, "me:passw0rd", "passw0rd", "pr0xy", "t0ken", "s3ssion", "two", "k3y"} <= found
    assert not found & {"Basic", "Bearer", "me/1", "other"}


def test_the_secrets_of_a_url() -> None:
    assert set(secrets_in_url("http://me:p%40ss@proxy:3128/?a=b%20c&d")) == {
        *("me", "p%40ss", "p@ss", "me:p%40ss", "me:p@ss", "b%20c", "b c")
    }
    assert list(secrets_in_url("http://[::1")) == []
