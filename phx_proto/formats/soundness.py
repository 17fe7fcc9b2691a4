"""Limits for JSON from the wire: its nesting, escapes that are not text, and the errors of reading it.

JSON sets no bound on nesting, and Python's own limit differs between releases. So there is a bound of our own, the same
on every Python, in both serializers, on both sides and in both directions. Any value within it can also be copied,
compared and shown by recursive code.
"""

import re
from itertools import accumulate
from typing import Final

import msgspec

#: How deep arrays and objects may be nested in a frame, including the message's own.
MAX_DEPTH: Final = 256

#: A text of so many characters cannot be nested deeper: each level has two.
SHALLOW: Final = 2 * MAX_DEPTH

#: What decoding JSON raises, over all releases of msgspec: some raise `SystemError` for a number out of range, and in
#: some `MsgspecError` is not a `ValueError`.
UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError, SystemError)


def too_deep(text: str) -> bool:
    """Whether JSON is nested deeper than `MAX_DEPTH`. The answer is exact for valid JSON, and a guess otherwise.

    It costs two searches for a character in nearly every frame; a frame of up to `SHALLOW` characters needs none.

    >>> too_deep("[" * 256 + "]" * 256), too_deep("[" * 257 + "]" * 257)
    (False, True)
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    return _depth(text) > MAX_DEPTH


def describe(error: Exception) -> str:
    """The error in JSON, from one of `UNREADABLE`, without any value of it."""
    if isinstance(error, msgspec.MsgspecError):
        return str(error)  # msgspec reports paths and types, never values
    return _WORDS.get(type(error), "not UTF-8")


def without_lone_surrogates(text: str) -> str:
    r"""JSON with U+FFFD for each escape that is half a character: grammatical, but not text.

    >>> print(without_lone_surrogates(r'"\ud83d \ud83d\ude00"'))
    "\ufffd \ud83d\ude00"
    """
    return _LONE_SURROGATE.sub(r"\1\\ufffd", text + _END)[: -len(_END)]


_WORDS: Final[dict[type[Exception], str]] = {
    RecursionError: "nested too deeply",
    SystemError: "a number out of range",
}

_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # one level down, one level up
_OTHERS: Final = bytes(set(range(256)) - set(b'[]{}"'))
_STRINGS: Final = re.compile(rb'"[^"]*"?')

#: Text without such an escape, then one. It matches everywhere, so that no text is searched twice.
_LONE_SURROGATE: Final = re.compile(
    r"((?:[^\\]++|\\[^u]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|\\u(?![dD][89a-fA-F][0-9a-fA-F]{2}))*+)\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_END: Final = r'"\ud800'


def _depth(text: str) -> int:
    if "\\" in text:
        text = text.replace("\\\\", "").replace('\\"', "")
    steps = text.encode(errors="replace").translate(_STEPS, _OTHERS).replace(b'""', b"")
    if b'"' in steps:  # strings that contain brackets
        steps = _STRINGS.sub(b"", steps)
    inner = steps.replace(b"\x01\xff", b"")  # without the innermost: most of a long list of objects
    return 1 + max(accumulate(memoryview(inner).cast("b")), default=0)
