"""A peer's values as text that is safe to show in an error, a log or a terminal: bounded, escaped, without secrets.

Such a value may be large, deeply nested, full of control characters, and may repeat secrets that were sent to the peer.
So all texts of this library show such values through this module. Nothing here raises, whatever the value, and the cost
depends on the text shown, not on the value.

- **Bounded.** No more than `limit` characters, then `…`; no more than `DEEPEST` levels.
- **Escaped.** What `str.isprintable` refuses is written as in a Python `repr`: control characters of both sets, line
  breaks, bidirectional and other invisible marks, lone surrogates.
- **Masked.** `Secrets` holds the secrets that a client has sent, and replaces them by `MASK`, also if they come back
  percent-encoded, in base64, escaped for JSON or HTML, or cut short.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar, Final
from urllib.parse import quote, unquote, unquote_plus, urlsplit

import msgspec

#: Replaces a secret.
MASK: Final = "[secret]"

#: Levels of a nested value that are shown.
DEEPEST: Final = 6

#: Characters of a value that are shown by default.
LIMIT: Final = 200


def escaped(text: str, limit: int = LIMIT) -> str:
    r"""Text in one line, with everything escaped that a terminal or a reader of logs might interpret.

    >>> escaped("gone\x1b[2J\nINFO all is well")
    'gone\\x1b[2J\\nINFO all is well'
    """
    return NO_SECRETS.escaped(text, limit)


def shown(value: Any, limit: int = LIMIT) -> str:
    """Any value as text, much like its `repr`.

    >>> shown({"reason": "no", "at": [[[[[[[[1]]]]]]]]})
    "{'reason': 'no', 'at': [[[[[[…]]]]]]}"
    """
    return NO_SECRETS.shown(value, limit)


class Record(msgspec.Struct, frozen=True):
    """A frozen value that may hold text of a peer: its `repr` is bounded and escaped, and never raises.

    Secrets are not masked, because a record does not know them; so fields with a peer's answer are left out (`_data`).
    """

    #: Fields that are data, and not shown.
    _data: ClassVar[frozenset[str]] = frozenset()

    def __repr__(self) -> str:
        told = (
            f"{name}={'…' if name in self._data else shown(getattr(self, name))}" for name in self.__struct_fields__
        )
        return f"{type(self).__name__}({', '.join(told)})"


class Secrets:
    """The secrets that were sent, and how they are masked in texts.

    A secret of fewer than `SHORTEST` characters is not masked: it would match everywhere. One of fewer than `SURE` is
    masked only as a whole word. Of one longer than `CUT`, the beginning alone is masked too.

    Args:
        values: The secrets, as text.
    """

    SHORTEST: Final = 4
    SURE: Final = 8
    CUT: Final = 16
    _HEAD: Final = 12  # characters that identify a long one

    __slots__ = ("_forms", "_longest")

    def __init__(self, values: Iterable[str] = ()) -> None:
        found = {form for value in values if len(value) >= self.SHORTEST for form in _forms(value)}
        self._forms = {form for form in found if len(form) >= self.SHORTEST}
        self._longest = max(map(len, self._forms), default=0)

    def __repr__(self) -> str:
        return "Secrets(…)"

    def also(self, values: Iterable[str]) -> "Secrets":
        """These secrets and further ones."""
        return self.merged(Secrets(values))

    def merged(self, *others: "Secrets") -> "Secrets":
        """These secrets and those of others."""
        merged = Secrets()
        merged._forms = self._forms.union(*(other._forms for other in others))
        merged._longest = max(self._longest, *(other._longest for other in others), 0)
        return merged

    def masked(self, text: str) -> str:
        """The text without the secrets."""
        return self._masked(text, len(text))

    def escaped(self, text: str, limit: int = LIMIT) -> str:
        """The text without the secrets, escaped, in at most `limit` characters."""
        text = self._masked(text, limit)
        if text.isprintable():
            return _bounded(text, limit)
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: limit + 1])
        return _bounded("".join(shown), limit)

    def shown(self, value: Any, limit: int = LIMIT) -> str:
        """Any value as text, much like its `repr`, without the secrets, escaped, in at most `limit` characters."""
        pieces: list[str] = []
        size = 0
        for piece in self._pieces(value, limit, DEEPEST):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                break
        return _bounded("".join(pieces), limit)

    # ---- private ----------------------------------------------------------------------------------------------------

    def _masked(self, text: str, enough: int) -> str:
        """The masked text of the first `enough` characters; `…` if that is not all, and no secret is cut in two."""
        window = text[: enough + self._longest]
        spans = sorted(self._found(window))
        pieces: list[str] = []
        at = 0
        for start, end in spans:
            if end <= at:
                continue
            if start > at or not pieces:
                pieces += (window[at:start], MASK)
            at = end
        if len(window) == len(text):
            return "".join((*pieces, window[at:]))
        return "".join((*pieces, window[at : max(at, enough)], "…"))  # beyond this, a secret might be cut in two

    def _found(self, text: str) -> Iterator[tuple[int, int]]:
        """Where secrets begin and end; these may overlap."""
        for form in self._forms:
            head = form[: self._HEAD] if len(form) > self.CUT else form
            start = text.find(head)
            while start >= 0:
                end = start + len(head)
                for own, other in zip(islice(form, len(head), None), islice(text, end, None), strict=False):
                    if own != other:
                        break
                    end += 1
                if len(form) >= self.SURE or not (_in_word(text, start - 1) or _in_word(text, end)):
                    yield start, end
                start = text.find(head, end)

    def _pieces(self, value: Any, limit: int, depth: int) -> Iterator[str]:
        kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
        if kind is str:
            yield repr(self._masked(value, limit))
        elif kind is bytes:
            text = repr(value[: limit + self._longest])
            yield f"b{text[1]}{self.escaped(text[2:-1], limit)}{text[1]}"
        elif kind is msgspec.Raw:
            yield self.escaped(bytes(memoryview(value)[: 4 * limit + self._longest]).decode(errors="replace"), limit)
        elif kind in _BRACKETS:
            before, after = _BRACKETS[kind]
            yield before
            if depth:
                yield from self._items(value, limit, depth - 1)
            elif value:
                yield "…"
            yield ",)" if kind is tuple and len(value) == 1 else after
        elif kind is int and value.bit_length() > 1000:  # Python does not write ints of very many digits
            yield f"<int of {value.bit_length()} bits>"
        else:
            yield self.escaped(_own_words(value), limit)

    def _items(self, values: Any, limit: int, depth: int) -> Iterator[str]:
        between = ""
        for value in values:
            yield between
            yield from self._pieces(value, limit, depth)
            if isinstance(values, dict):
                yield ": "
                yield from self._pieces(values[value], limit, depth)
            between = ", "


_BRACKETS: Final[dict[type[Any], tuple[str, str]]] = {dict: ("{", "}"), list: ("[", "]"), tuple: ("(", ")")}

#: For text without secrets.
NO_SECRETS: Final = Secrets()


def secrets_in(value: Any) -> Iterator[str]:
    """The texts and numbers within params, at any depth: all of them count as secret."""
    waiting = [(value, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, Mapping):
            items = [*value.values()]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        elif isinstance(value, list | tuple):
            items = [*value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        else:
            if isinstance(value, str):
                yield str(value)
            elif isinstance(value, bytes):
                yield value.decode(errors="replace")
            elif isinstance(value, int | float) and not isinstance(value, bool):
                yield _own_words(value)
            continue
        if depth < _DEEPEST_PARAMS:
            waiting += [(item, depth + 1) for item in items]  # pyright: ignore[reportUnknownVariableType]


def secrets_in_headers(headers: Iterable[tuple[str, str]]) -> Iterator[str]:
    """The secrets in sent headers: whole values, and credentials and cookies separately."""
    for name, value in headers:
        name = name.lower()
        if name in _PUBLIC_HEADERS:
            continue
        yield value
        scheme, _, credentials = value.strip().partition(" ")
        if name in ("authorization", "proxy-authorization"):
            yield credentials.strip()
            if scheme.lower() == "basic":
                yield from _basic(credentials.strip())
        elif name == "cookie":
            yield from (pair.partition("=")[2].strip().strip('"') for pair in value.split(";"))


def secrets_in_url(url: str) -> Iterator[str]:
    """The secrets in a URL, a proxy's or a server's: user, password and the values of the query."""
    try:
        parts = urlsplit(url)
        found = [parts.username or "", parts.password or "", parts.netloc.rpartition("@")[0]]
    except ValueError:
        return
    found += [pair.partition("=")[2] for pair in parts.query.split("&")]
    for text in found:
        yield from {text, unquote(text), unquote_plus(text)} - {""}


_DEEPEST_PARAMS: Final = 32

_PUBLIC_HEADERS: Final = frozenset(
    {"accept", "accept-encoding", "accept-language", "cache-control", "origin", "pragma", "user-agent"}
)


def _basic(credentials: str) -> Iterator[str]:
    try:
        plain = b64decode(credentials, validate=True).decode(errors="replace")
    except ValueError:
        return
    yield plain
    yield plain.partition(":")[2]


def _forms(value: str) -> Iterator[str]:
    """The forms in which a peer may repeat a secret."""
    raw = value.encode(errors="surrogatepass")
    yield value
    for encoded in (quote(raw, safe=""), quote(raw, safe="/"), quote(raw, safe="").replace("%20", "+")):
        yield encoded
        yield _lower_escapes(encoded)
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    for text in (quoted, "".join(c if " " <= c <= "~" else f"\\u{ord(c):04x}" for c in quoted)):
        yield text
        yield text.replace("/", "\\/")
    yield repr(raw)[2:-1]
    html = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark, apostrophe in _HTML_QUOTES:
        yield html.replace('"', mark).replace("'", apostrophe)
    if len(raw) < Secrets.SURE:  # the forms below of a short secret would match any text
        yield b64encode(raw).decode().rstrip("=")
        return
    for before in range(3):  # also within other text: without the characters shared with that
        whole = b64encode(b"\0" * before + raw).decode().rstrip("=")
        inner = whole[(0, 2, 3)[before] : len(whole) - (1 if (before + len(raw)) % 3 else 0)]
        yield inner
        yield inner.translate(_URLSAFE)


_URLSAFE: Final = str.maketrans("+/", "-_")

#: How HTML has the two quotation marks: as Plug, Python, Go, XML and PHP write them, and in texts of a page.
_HTML_QUOTES: Final = (
    ("&quot;", "&#39;"),
    ("&quot;", "&#x27;"),
    ("&#34;", "&#39;"),
    ("&quot;", "&apos;"),
    ("&quot;", "'"),
    ('"', "'"),
)


def _lower_escapes(encoded: str) -> str:
    first, *rest = encoded.split("%")
    return "%".join([first, *(piece[:2].lower() + piece[2:] for piece in rest)])


def _in_word(text: str, at: int) -> bool:
    return 0 <= at < len(text) and text[at].isalnum()


def _own_words(value: object) -> str:
    """The `repr` of a value that is not JSON, or a short name for it if that fails."""
    try:
        return str(repr(value))
    except Exception:  # its code may raise anything, also RecursionError
        return f"<{type(value).__name__}>"


def _bounded(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: max(limit - 1, 0)]}…"
