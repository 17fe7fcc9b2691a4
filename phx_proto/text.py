"""The JSON of text frames, for what a server takes.

A real server answers NaN, an infinity or a lone surrogate by closing the whole socket, so these are refused before they
are sent, with the path of the field. msgspec writes a number that JSON does not have as `null` (as a key: `"nan"`):
a text with no more nulls than its refs account for has none of them, nor has one that reads back equal to what was
written. Only the others are looked through.
"""

from collections.abc import Iterator
from math import isfinite
from types import NoneType
from typing import Any

import msgspec

from .errors import InvalidPayload

LONE_SURROGATE = "has a lone surrogate, which is no text"


def to_text(envelope: Any, refs: tuple[Any, ...], topic: Any, event: str, payload: Any) -> str:
    """Encode a message.

    Args:
        envelope: The message in the form of its serializer, holding the rest.
        refs: Its refs, null or not.
        topic: Its topic.
        event: Its event.
        payload: Its payload.

    Raises:
        InvalidPayload: It holds what cannot be sent.

    >>> to_text(["1", None, "room:1", "tick", {"at": 1}], ("1", None), "room:1", "tick", {"at": 1})
    '["1",null,"room:1","tick",{"at":1}]'
    """
    try:
        text = _encode(envelope).decode()
    except RecursionError as error:
        raise InvalidPayload(topic, event, "payload", _reason(error)) from error
    except Exception as error:  # a payload's own code may run here (a tzinfo, say) and raise anything
        where, problem = next(_faults(refs, topic, event, payload, _SOUND), ("payload", _reason(error)))
        raise InvalidPayload(topic, event, where, problem) from error
    suspect = (
        text.count("null") > refs.count(None) or 'nan":' in text or 'inf":' in text or type(payload) is msgspec.Raw
    )
    if suspect and not _reads_back(text, envelope):
        for where, problem in _faults(refs, topic, event, payload, _SOUND_ONCE_ENCODED):
            raise InvalidPayload(topic, event, where, problem)
    return text


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

_OBJECTS: type[Any] = dict
_SEQUENCES: tuple[type[Any], ...] = (list, tuple, set, frozenset)
_SCALARS: tuple[type[Any], ...] = (str, int, float, NoneType)
_SOUND = frozenset({NoneType, bool})
_SOUND_ONCE_ENCODED = _SOUND | {str, int}


def _reads_back(text: str, envelope: Any) -> bool:
    try:
        return bool(_decode(text) == envelope)
    except (ValueError, RecursionError):
        return False


def _faults(
    refs: tuple[Any, ...], topic: Any, event: str, payload: Any, sound: frozenset[type]
) -> Iterator[tuple[str, str]]:
    """Find what cannot be sent, in the order in which it is encoded: the field's path, and what is wrong with it.

    That order matters: what was not encoded because of an earlier fault may contain itself. Values of the `sound`
    types need no look.
    """
    pending: list[tuple[str, Any]] = [("payload", payload), ("event", event), ("topic", topic), ("refs", refs)]
    while pending:
        where, value = pending.pop()
        if isinstance(value, _OBJECTS):
            for key in value:
                if type(key) not in sound and (problem := _problem(key, {key: None})):
                    yield where, f"has the key {key!r}, which {problem}"
            items = [(f"{where}{_step(key)}", item) for key, item in value.items() if type(item) not in sound]
            pending += reversed(items)
        elif isinstance(value, _SEQUENCES):
            items = [(f"{where}[{index}]", item) for index, item in enumerate(value) if type(item) not in sound]
            pending += reversed(items)
        elif isinstance(value, _SCALARS):
            if problem := _problem(value, value):
                yield where, problem
        else:
            try:
                pending.append((where, msgspec.to_builtins(value, enc_hook=_read_raw)))
            except Exception as error:
                yield where, _reason(error)


def _step(key: Any) -> str:
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"


def _problem(value: Any, probe: Any) -> str | None:
    if isinstance(value, float) and not isfinite(value):
        return f"is {value}, a number that JSON does not have"
    try:
        _encode(probe)
    except Exception as error:
        return _reason(error)
    return None


def _read_raw(value: Any) -> Any:
    if isinstance(value, msgspec.Raw):
        return _decode(value)
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return LONE_SURROGATE
    if isinstance(error, RecursionError):
        return "is nested too deeply, or contains itself"
    return f"cannot be encoded: {error}"
