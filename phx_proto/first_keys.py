"""JSON as a Phoenix server reads it: of a key that comes twice in an object, the first counts.

msgspec counts the last one and has no hook for it. So the text is looked through for keys that repeat, quickly and with
false alarms, and only if any seem to, wherever they are, it is read once more with every key numbered, which keeps all.
"""

import re
from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def first_keys_decoder(kind: type[T]) -> Callable[[str], T]:
    """Make a decoder.

    Args:
        kind: What a text is decoded into.

    Returns:
        The decoder, which raises as those of msgspec do: `ValueError` and `RecursionError`.

    >>> first_keys_decoder(dict)('{"a": 1, "b": 2, "a": 3}')
    {'a': 1, 'b': 2}
    """
    decode = msgspec.json.Decoder(kind).decode

    def decode_first(text: str) -> T:
        value = decode(text)
        if not _may_repeat(text):
            return value
        serials = count()
        numbered = _STRINGS.sub(lambda found: _numbered(found, serials), text)
        return msgspec.convert(_unnumbered(_decode(numbered)), kind)

    return decode_first


#: A string, and the colon behind it if it is a key; for text that is known to be JSON.
_STRINGS = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"(\s*:)?')
_SPACES = (" :", "\t:", "\n:", "\r:")  # what may keep a key from its colon
_OBJECT: type[Any] = dict
_ARRAY: type[Any] = list

_decode = msgspec.json.Decoder().decode


def _may_repeat(text: str) -> bool:
    keys = [before[before.rfind('"') + 1 :] for before in text.split('":')[:-1]]
    if len(set(keys)) < len(keys) or "\\" in "".join(keys):  # a key may be spelt in two ways
        return True
    return any(space in text for space in _SPACES)


def _numbered(found: re.Match[str], serials: "count[int]") -> str:
    key, colon = found.groups()
    return f'"{next(serials)}:{key}"{colon}' if colon else found[0]


def _unnumbered(value: Any) -> Any:
    if isinstance(value, _ARRAY):
        return [_unnumbered(item) for item in value]
    if not isinstance(value, _OBJECT):
        return value
    first: dict[str, Any] = {}
    for key, item in value.items():
        first.setdefault(key.partition(":")[2], _unnumbered(item))
    return first
