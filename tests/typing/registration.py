"""What a type checker is to say of handlers' payloads: it refuses the marked lines, and nothing else.

mypy and pyright both check this file. A mark where nothing is refused is an error of its own.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false

from typing import Annotated, Any, Optional, TypedDict

import msgspec

from phx_proto import Message, Router


class Balance(msgspec.Struct):
    amount: int


class Room(TypedDict):
    name: str


router = Router()
seen: list[Message[Any]] = []


def any_payload(message: Message[Any]) -> None: ...
def text(message: Message[str]) -> None: ...
def room(message: Message[Room], channel: object) -> None: ...
async def maybe(message: Message[Balance | None]) -> None: ...
def no_message(message: Balance) -> None: ...
def three(message: Message[Any], channel: object, more: object) -> None: ...


router.add(any_payload, "e")
router.add(any_payload, "e", payload=Balance)
router.add(text, "e", payload=str)
router.add(text, "e", payload=int)  # type: ignore[arg-type]
router.add(room, "e", payload=Room)
router.add(room, "e", payload=Balance)  # type: ignore[arg-type]
router.add(maybe, "e", payload=Balance)
router.add(maybe, "e", payload=Balance | None)
router.add(maybe, "e", payload=Optional[Balance])  # noqa: UP045
router.add(no_message, "e")  # type: ignore[arg-type]
router.add(three, "e")  # type: ignore[arg-type]
router.add(lambda message: message.payload, "e", payload=int)
router.add(lambda message, channel: None, "e")
router.add(seen.append, "e")
router.add(print, "e")


@router.on("e", payload=Balance)
async def save(message: Message[Balance], channel: object) -> int:
    return message.payload.amount


@router.on("f")
@router.on("e", payload=Balance, topic="sim:*")
def audit(message: Message[Any]) -> None: ...


@router.on("e")
def read_from_the_annotation(message: Message[Balance]) -> int:
    return message.payload.amount


@router.on("e", payload=Annotated[int, msgspec.Meta(ge=0)])
def positive(message: Message[int]) -> None: ...


@router.on("e", payload=int)  # type: ignore[arg-type]
def contradicting(message: Message[str]) -> None: ...


@router.on("e", payload=int)  # type: ignore[arg-type]
async def contradicting_too(message: Message[str], channel: object) -> None: ...


@router.on("e", payload=Balance)  # type: ignore[arg-type]
def of_no_message(message: Balance) -> None: ...


async def call_them() -> None:
    message = Message[Balance](topic="t", event="e", payload=Balance(1))
    amount: int = await save(message, None)  # decorated, and what it was before
    read_from_the_annotation(message=message)
    text(amount)  # type: ignore[arg-type]
