"""Payloads of a declared type: how they are decoded, and the error for one that does not fit.

Handlers, streams and replies decode by the same `PayloadDecoder`. Invalid types are detected when the decoder is made,
so that a message costs one decoding.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import lru_cache
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar
from typing import _SpecialForm as SpecialForm  # pyright: ignore[reportPrivateUsage] - what mypy takes Optional[…] for

import msgspec
from msgspec import UNSET, Raw, inspect
from msgspec.structs import replace

from ..errors import InvalidPayloadType, PayloadMismatch
from ..formats.soundness import UNREADABLE
from ..message import Message

P = TypeVar("P")

#: A payload's type that is not a class: `A | B`, `Optional[A]`. A checker cannot infer the payload from it.
SpecialType: TypeAlias = UnionType | SpecialForm

#: A payload's type as passed to `on`, `add` and `messages`.
PayloadType: TypeAlias = type[P] | SpecialType | None

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    #: A payload's type if it is given, else `Any`.
    D = TypeVarWithDefault("D", default=Any)
else:
    D = TypeVar("D")


class PayloadDecoder:
    """Decodes payloads into one type.

    Attributes:
        payload_type: The type.
        name: Its name, for errors.
        struct: The type, if it is a `msgspec.Struct` that is decoded without running code of the application.

    Raises:
        InvalidPayloadType: Nothing can be decoded into it.
    """

    __slots__ = ("_decode", "name", "payload_type", "struct")

    def __init__(self, payload_type: Any) -> None:
        self.payload_type = payload_type
        self.name = type_name(payload_type)
        if isinstance(payload_type, str):
            raise InvalidPayloadType(repr(payload_type), "give the class itself, without quotes")
        try:
            # By the type for a number with a fraction, where the payload type leaves that open.
            self._decode: dict[type, Callable[[Raw], Any]] = {
                float: msgspec.json.Decoder(payload_type).decode,
                Decimal: msgspec.json.Decoder(payload_type, float_hook=Decimal).decode,
            }
            info = inspect.type_info(payload_type)
            unknown = _unknown_class(info)
        except (TypeError, ValueError, NameError, AttributeError) as error:  # the last two: unresolvable annotations
            raise InvalidPayloadType(self.name, str(error)) from error
        if unknown is not None:
            advice = "make it a msgspec.Struct, a dataclass or a TypedDict"
            raise InvalidPayloadType(self.name, f"nothing is known of {type_name(unknown)} ({advice})")
        is_struct = type(payload_type) is _STRUCT_META  # a subclass may have a hash of its own, for one
        self.struct: type[msgspec.Struct] | None = payload_type if is_struct and _runs_no_code(info) else None

    def accept(self, message: Message[Any]) -> Message[Any]:
        """The message with its payload in the type: itself if it has that already, else a copy, for others read it too.

        A payload from the wire is decoded from its JSON, even if it was read before: numbers are exactly as written.

        Raises:
            PayloadMismatch: The payload does not fit the type, or is invalid.
        """
        json = message.undecoded
        if type(json) is not Raw:
            if type(json) is self.struct:  # the reader has decoded it
                return message
            json = message.source
        try:
            if json is UNSET:
                return message.with_payload(msgspec.convert(message.undecoded, self.payload_type, str_keys=True))
            # `with_payload`, inlined: this runs for each message.
            return replace(message, payload=self._decode[message.floats](json), source=UNSET)
        except UNFIT as error:
            # from None: the cause's text may contain the payload, and must not reach a log.
            raise PayloadMismatch(message.topic, message.event, self.name, _problem(error)) from None


def payload_decoder(payload_type: Any) -> PayloadDecoder:
    """The decoder of a type; cached for recently used types.

    Raises:
        InvalidPayloadType: Nothing can be decoded into it.
    """
    try:
        return _cached_decoder(payload_type)
    except TypeError:  # a type that cannot be hashed, e.g. Annotated with an unhashable value
        return PayloadDecoder(payload_type)


# Making one takes a hundred times as long as decoding a small payload, and a call like `push(response=Model)` cannot
# keep it. Global, because it depends on the type alone; bounded, because types can be made at run time.
_cached_decoder: Final = lru_cache(maxsize=256)(PayloadDecoder)


def type_name(payload_type: Any) -> str:
    """A type's name, for errors."""
    return payload_type.__qualname__ if isinstance(payload_type, type) else str(payload_type)


def _unknown_class(info: inspect.Type) -> type | None:
    """A class that every payload of the type needs, and whose fields msgspec does not know.

    msgspec makes a decoder for it, which refuses every message. Members of a union and optional fields are ignored: a
    payload need not have them.
    """
    for node in _walk(info, _needed):
        if isinstance(node, inspect.CustomType) and node.cls is not object:
            return node.cls
    return None


def _runs_no_code(info: inspect.Type) -> bool:
    """Whether decoding such a payload calls nothing of the application."""
    return not any(map(_may_run_code, _walk(info, _members)))


def _may_run_code(node: inspect.Type | inspect.Field) -> bool:
    if isinstance(node, inspect.Field):
        return not any(node.default_factory is factory for factory in _PLAIN_FACTORIES)
    if isinstance(node, inspect.StructType):
        return hasattr(node.cls, "__post_init__") or hasattr(node.cls, "__del__")
    # A pattern is the application's too: some take for ever.
    return not isinstance(node, _PLAIN) or getattr(node, "pattern", None) is not None


_STRUCT_META: Final[type] = type(msgspec.Struct)

#: Types that msgspec makes by itself.
_PLAIN: Final = (
    inspect.AnyType,
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.BytesType,
    inspect.DateTimeType,
    inspect.DateType,
    inspect.TimeType,
    inspect.TimeDeltaType,
    inspect.UUIDType,
    inspect.DecimalType,
    inspect.LiteralType,
    inspect.UnionType,
    inspect.ListType,
    inspect.VarTupleType,
    inspect.TupleType,
    inspect.DictType,
    inspect.TypedDictType,
)
_PLAIN_FACTORIES: Final = (msgspec.NODEFAULT, list, dict, set)


def _walk(info: inspect.Type, following: Callable[[Any], Iterable[Any]]) -> Iterator[Any]:
    """A type and all that follows from it, each once: a type may contain itself."""
    waiting: list[Any] = [info]
    seen = set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting += following(node)


def _members(node: Any) -> list[Any]:
    found = list[Any]()
    for name in node.__struct_fields__:
        part: Any = getattr(node, name)
        members: list[Any] = [*part] if isinstance(part, tuple) else [part]
        found += (member for member in members if isinstance(member, inspect.Type | inspect.Field))
    return found


def _needed(node: Any) -> list[Any]:
    if isinstance(node, inspect.UnionType):
        return []
    return [member for member in _members(node) if isinstance(member, inspect.Type) or member.required]


#: What decoding a payload can raise. `TypeError`: an unhashable member of a set; `ArithmeticError`: a Decimal.
UNFIT: Final = (*UNREADABLE, TypeError, ArithmeticError)

_PROBLEMS: Final[dict[type[Exception], str]] = {
    UnicodeDecodeError: "it is not valid UTF-8",
    RecursionError: "it is nested too deeply",
    SystemError: "it has a number out of range",
}

#: A value of the payload in msgspec's words: a text in its quotation marks, or a number.
_QUOTED: Final = re.compile(r"(['\"]).*\1", re.DOTALL)
_NUMBER: Final = re.compile(r"(?<=value )-?\d+")


def _problem(error: Exception) -> str:
    if isinstance(error, msgspec.MsgspecError):
        return _NUMBER.sub("…", _QUOTED.sub("'…'", str(error)))[:200]
    return _PROBLEMS.get(type(error), f"it cannot be built ({type(error).__name__})")
