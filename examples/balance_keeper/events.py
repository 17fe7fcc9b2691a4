"""The payloads that the server sends. A payload that does not fit its type reaches no handler.

The server numbers the events of each SIM card from 1 on, and sends those after `since` again when a topic is joined.
Money is in cents.
"""

from typing import Annotated

import msgspec

Id = Annotated[int, msgspec.Meta(ge=1)]
Amount = Annotated[int, msgspec.Meta(ge=1)]


class Charged(msgspec.Struct, frozen=True):
    """The card has been used: its balance falls."""

    id: Id
    cents: Amount


class ToppedUp(msgspec.Struct, frozen=True):
    """Somebody has paid: its balance rises."""

    id: Id
    cents: Amount


class Corrected(msgspec.Struct, frozen=True):
    """The balance has been found to be another; it may be below zero."""

    id: Id
    cents: int


class Reserve(msgspec.Struct, frozen=True):
    """The balance that every card is to have at least."""

    cents: Annotated[int, msgspec.Meta(ge=0)]
