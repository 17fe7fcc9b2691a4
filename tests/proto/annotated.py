"""Handlers whose annotations are text, and of which some names are for type checkers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

from phx_proto import message as wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal
    from typing import Any

    from phx_proto.message import Message

    from .elsewhere import Nowhere  # type: ignore[import-not-found]

T = TypeVar("T")


class Note:
    """Not what a payload can be."""


def typed(message: Message[dict[str, int]], channel: Callable[[Decimal], None]) -> None: ...


def of_the_module(message: wire.Message[int | None] | None = None) -> None: ...


def annotated(message: Annotated[Message[list[int]], "hidden"]) -> None: ...


def untyped(message: Message) -> None: ...


def of_anything(message: Message[Any]) -> None: ...


def of_a_variable(message: Message[T]) -> list[T]:
    return [message.payload]


def missing(message: Message[Nowhere]) -> None: ...


def undecodable(message: Message[Note]) -> None: ...


class Methods:
    def method(self, message: Message[int]) -> None: ...

    def __call__(self, message: wire.Message[str]) -> None: ...
