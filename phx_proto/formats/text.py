"""The JSON of text frames, limited to what a server accepts.

A real server closes the whole socket for NaN, an infinity or a lone surrogate, so these are refused before they are
sent, with the path of the field. msgspec writes a number that JSON does not have as `null` (as a key: `"nan"`). A text
has none of them if its refs account for all nulls, or if it reads back equal to what was written. Only other texts are
searched.
"""

from collections.abc import Callable, Iterator
from math import isfinite
from types import NoneType
from typing import Any

import msgspec

from ..errors import InvalidPayload
from .soundness import MAX_DEPTH, SHALLOW, too_deep

LONE_SURROGATE = "has a lone surrogate, which is no text"


def to_text(envelope: Any, refs: tuple[Any, ...], topic: Any, event: str, payload: Any) -> str:
    """Encode a message.

    Args:
        envelope: The whole message in the form of its serializer.
        refs: Its refs, null or not.
        topic: Its topic.
        event: Its event.
        payload: Its payload.

    Raises:
        InvalidPayload: It contains what cannot be sent.

    >>> to_text(["1", None, "room:1", "tick", {"at": 1}], ("1", None), "room:1", "tick", {"at": 1})
    '["1",null,"room:1","tick",{"at":1}]'
    """
    try:
        text = encode_json(envelope).decode()
    except RecursionError as error:
        raise InvalidPayload(topic, event, "payload", _reason(error)) from error
    except Exception as error:  # a payload's own code may run here (a tzinfo, say) and raise anything
        where, problem = next(_faults(refs, topic, event, payload, _SOUND), ("payload", _reason(error)))
        raise InvalidPayload(topic, event, where, problem) from error
    deep = len(text) > SHALLOW and too_deep(text)
    suspect = (
        ("null" in text and text.count("null") > refs.count(None))
        or 'nan":' in text
        or 'inf":' in text
        or type(payload) is msgspec.Raw
    )
    if deep or (suspect and not _reads_back(text, envelope)):
        for where, problem in _faults(refs, topic, event, payload, _SOUND_ONCE_ENCODED):
            raise InvalidPayload(topic, event, where, problem)
    if deep:
        raise InvalidPayload(topic, event, "payload", _TOO_DEEP)
    return text


def _as_builtin(value: Any) -> Any:
    """Converts what msgspec does not support: subclasses of text and numbers, and `json`'s kinds of keys.

    Also numpy's scalars, which are recognized by their methods, because numpy need not be installed.
    """
    for kind, plain in _BUILTINS:
        if isinstance(value, kind):
            return plain(value)
    if hasattr(value, "dtype") and getattr(value, "shape", None) == ():
        return value.item()
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


#: As `json` does, ignoring overrides of a subclass. The first two occur only as keys.
_BUILTINS: tuple[tuple[type[Any], Callable[[Any], Any]], ...] = (
    (bool, lambda value: "true" if value else "false"),
    (NoneType, lambda value: "null"),
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
)

encode_json = msgspec.json.Encoder(enc_hook=_as_builtin).encode
_decode = msgspec.json.Decoder().decode

_TOO_DEEP = "is nested too deeply, or contains itself"
_OBJECTS: type[Any] = dict
_SEQUENCES: tuple[type[Any], ...] = (list, tuple, set, frozenset)
_SCALARS: tuple[type[Any], ...] = (str, int, float, NoneType)
_SOUND = frozenset({NoneType, bool})
_SOUND_ONCE_ENCODED = _SOUND | {str, int}


def _reads_back(text: str, envelope: Any) -> bool:
    try:
        return bool(_decode(text) == envelope)
    except Exception:  # the comparison may run application code
        return False


def _faults(
    refs: tuple[Any, ...], topic: Any, event: str, payload: Any, sound: frozenset[type]
) -> Iterator[tuple[str, str]]:
    """Find what cannot be sent, in the order of encoding: the field's path, and the problem.

    The order matters: a part that was not encoded because of an earlier fault may contain itself. Values of the `sound`
    types need no check.
    """
    pending: list[tuple[str, Any, int]] = [
        ("payload", payload, 2),
        ("event", event, 1),
        ("topic", topic, 1),
        ("refs", refs, 1),
    ]
    while pending:
        where, value, level = pending.pop()
        if level > MAX_DEPTH + 1:
            yield "payload", _TOO_DEEP
        elif isinstance(value, _OBJECTS):
            for key in value:
                if type(key) not in sound and (problem := _problem(key, {key: None})):
                    yield where, f"has the key {key!r}, which {problem}"
            items = [
                (f"{where}{_step(key)}", item, level + 1) for key, item in value.items() if type(item) not in sound
            ]
            pending += reversed(items)
        elif isinstance(value, _SEQUENCES):
            steps = enumerate(value)
            items = [(f"{where}[{index}]", item, level + 1) for index, item in steps if type(item) not in sound]
            pending += reversed(items)
        elif isinstance(value, _SCALARS):
            if problem := _problem(value, value):
                yield where, problem
        else:
            try:
                pending.append((where, msgspec.to_builtins(value, enc_hook=_read_raw), level))
            except Exception as error:
                yield where, _reason(error)


def _step(key: Any) -> str:
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"


def _problem(value: Any, probe: Any) -> str | None:
    if isinstance(value, float) and not isfinite(value):
        return f"is {value}, a number that JSON does not have"
    try:
        encode_json(probe)
    except Exception as error:
        return _reason(error)
    return None


def _read_raw(value: Any) -> Any:
    if isinstance(value, msgspec.Raw):
        if too_deep(bytes(value).decode()):
            raise RecursionError
        return _decode(value)
    return _as_builtin(value)


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return LONE_SURROGATE
    if isinstance(error, RecursionError):
        return _TOO_DEEP
    return f"cannot be encoded: {error}"
