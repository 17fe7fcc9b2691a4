"""The payload type in a handler's annotation: `Message[Balance]` means `Balance`.

Only the annotation of the first parameter is read, once, when the handler is registered. `Annotated`, `X | None` and
type aliases are resolved. Names in quotes (or under `from __future__ import annotations`) are looked up in the
function's module; `Message` and `Any` are known even if they are imported for type checkers alone.
"""

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, TypeVar

from ..message import Message

read_signature: Any = inspect.signature
try:
    from annotationlib import Format  # type: ignore[import-not-found]
except ImportError:  # before Python 3.14
    pass
else:  # pragma: no cover - there one name that cannot be looked up would make the whole signature fail
    read_signature = partial(read_signature, annotation_format=Format.FORWARDREF)  # pyright: ignore[reportUnknownMemberType]

#: Known in an annotation if its module does not name them at run time.
_FALLBACK: Final = {"Message": Message, "Any": Any}

#: An unresolved name, as it is shown.
_FORWARD: Final = re.compile(r"ForwardRef\('([^']*)'[^)]*\)")

#: Types that a checker accepts for others (PEP 484), though they are not subclasses.
_PROMOTIONS: Final = {(int, float), (int, complex), (float, complex)}


class UnreadableAnnotation(Exception):
    """An annotation that cannot be resolved at run time."""


class NoMessage(Exception):
    """An annotation with a type that is not a message; its text."""


def declared_payload(function: Callable[..., Any], signature: inspect.Signature) -> Any:
    """The type between the brackets of `Message[…]`; `None` if there is none, or one that is not a concrete type.

    Args:
        function: The function whose annotation is resolved: the innermost, without partials around it.
        signature: The handler's signature.

    Raises:
        UnreadableAnnotation: It cannot be resolved.
        NoMessage: Its type is not a message.
    """
    first = next(iter(signature.parameters.values()))
    if first.annotation is first.empty or first.kind is first.VAR_POSITIONAL:
        return None
    written = first.annotation
    if not isinstance(written, str):
        written = _FORWARD.sub(r"\1", inspect.formatannotation(written)).replace(f"{Message.__module__}.", "")
    try:
        payloads = [*_payloads(_resolved(first.annotation, inspect.unwrap(function)))]
    except NoMessage:
        raise NoMessage(written) from None
    except Exception as error:  # evaluating it may raise anything, usually NameError
        raise UnreadableAnnotation(f"its annotation {written} cannot be looked up ({error})") from None
    if not payloads or any(map(_is_anything, payloads)):
        return None
    return typing.Union[tuple(payloads)]  # noqa: UP007 - of one, that one


def contradicts(given: Any, wanted: Any) -> bool:
    """Whether a payload of one type certainly does not fit a handler for the other; false if unknown."""
    given, wanted = _bare(given), _bare(wanted)
    if _is_anything(given) or _is_anything(wanted):
        return False
    if (parts := _members(given)) is not None:
        return any(contradicts(part, wanted) for part in parts)
    if (parts := _members(wanted)) is not None:
        return all(contradicts(given, part) for part in parts)
    one, other = (_class_of(kind) for kind in (given, wanted))
    if one is None or other is None or getattr(other, "_is_protocol", False):
        return False
    if not issubclass(one, other):
        return (one, other) not in _PROMOTIONS
    return one is other and any(map(contradicts, typing.get_args(given), typing.get_args(wanted)))


def _resolved(annotation: Any, function: Callable[..., Any]) -> Any:
    """The annotation with everything in quotes resolved."""
    home = function if hasattr(function, "__globals__") else type(function).__call__
    parameters = {parameter.__name__: parameter for parameter in getattr(home, "__type_params__", ())}

    def holder() -> None: ...

    holder.__annotations__ = {"message": annotation}
    known = {**_FALLBACK, **getattr(home, "__globals__", {})}
    return typing.get_type_hints(holder, known, parameters, include_extras=True)["message"]


def _payloads(annotation: Any) -> Iterator[Any]:
    """The payload types in it; `None` has none.

    Raises:
        NoMessage: It is a class that is not `Message`.
    """
    annotation = _bare(annotation)
    parts = _members(annotation)
    if parts is not None:
        for part in parts:
            if part is not type(None):
                yield from _payloads(part)
        return
    kind = _class_of(annotation)
    if kind is None or _is_anything(kind) or getattr(kind, "_is_protocol", False):
        return
    if issubclass(kind, Message):
        yield from typing.get_args(annotation) or (Any,)
    elif not issubclass(Message, kind):
        raise NoMessage


def _bare(kind: Any) -> Any:
    """The type without its wrappers: `Annotated`, the names of aliases and new types."""
    while True:
        origin = typing.get_origin(kind)
        if origin is typing.Annotated:
            kind = kind.__origin__
        elif hasattr(origin, "__value__"):  # an alias with parameters
            kind = origin.__value__[typing.get_args(kind)]
        elif hasattr(kind, "__value__"):
            kind = kind.__value__
        elif hasattr(kind, "__supertype__"):
            kind = kind.__supertype__
        else:
            return kind


def _members(kind: Any) -> tuple[Any, ...] | None:
    """The members of a union, the values' types of a `Literal`; `None` for anything else."""
    origin = typing.get_origin(kind)
    if origin is typing.Union or origin is types.UnionType:
        return typing.get_args(kind)
    if origin is typing.Literal:
        return tuple(map(type, typing.get_args(kind)))
    return None


def _class_of(kind: Any) -> type | None:
    """The class of the type's objects; for a `TypedDict`, dict."""
    if kind is None:
        return type(None)
    found = typing.get_origin(kind) or kind
    return dict if typing.is_typeddict(found) else found if isinstance(found, type) else None


def _is_anything(kind: Any) -> bool:
    return kind is Any or kind is object or isinstance(kind, TypeVar)
