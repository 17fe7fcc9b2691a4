"""JSON as a Phoenix server reads it: if an object has a key twice, the first counts.

msgspec uses the last one and has no hook for it. `json` has a hook, but accepts invalid JSON (NaN, lone surrogates). So
a text is read by both: msgspec refuses invalid ones, `json` returns the value.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def first_keys_decoder(kind: type[T]) -> Callable[[str], T]:
    """Make a decoder.

    Args:
        kind: The type to decode into.

    Returns:
        The decoder, which raises the same errors as msgspec's: see `UNREADABLE` in `soundness.py`.

    >>> first_keys_decoder(dict)('{"a": 1, "b": 2, "a": 3}')
    {'a': 1, 'b': 2}
    """
    check = msgspec.json.Decoder(kind).decode

    def decode_first(text: str) -> T:
        check(text)
        return msgspec.convert(_decode(text), kind)

    return decode_first


def _first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    return value if len(value) == len(pairs) else dict(reversed(pairs))


_decode = json.JSONDecoder(object_pairs_hook=_first).decode
