"""What each event does. Plain functions, because SQLite blocks; on threads, those of one topic run in order."""

import logging

from phx_proto import Message, Router
from phx_proto.errors import RemoteError
from phx_transports.threads import Channel

from .events import Charged, Corrected, Reserve, ToppedUp
from .store import Account, Store

logger = logging.getLogger("balance_keeper")


class Handlers:
    """The handlers of one keeper.

    Args:
        store: Where they write.
        top_up: Cents to ask for when a balance falls below the reserve.
        patience: Seconds to wait for the answer.
    """

    def __init__(self, store: Store, *, top_up: int = 2000, patience: float = 5.0) -> None:
        self._store = store
        self._top_up = top_up
        self._patience = patience
        self._granted = set[str]()  # topics of which a top-up is on its way

    def router(self) -> Router:
        """A router with all of them."""
        router = Router()
        router.add(self.charged, "charged", topic="sim:*", payload=Charged)
        router.add(self.topped_up, "topped_up", topic="sim:*", payload=ToppedUp)
        router.add(self.corrected, "corrected", topic="sim:*", payload=Corrected)
        router.add(self.set_reserve, "reserve", topic="policy", payload=Reserve)
        return router

    def charged(self, message: Message[Charged], channel: Channel) -> None:
        """A balance falls; where it falls below the reserve, more is asked for."""
        topic, event = message.topic, message.payload
        account = self._store.add(topic, event.id, -event.cents)
        if account is None:
            return
        self._tell(topic, account)
        if account.cents < self._store.reserve() and topic not in self._granted:
            self._ask_for_more(channel, account)

    def topped_up(self, message: Message[ToppedUp]) -> None:
        """A balance rises."""
        topic, event = message.topic, message.payload
        account = self._store.add(topic, event.id, event.cents)
        if account is None:
            return
        self._granted.discard(topic)
        self._tell(topic, account)

    def corrected(self, message: Message[Corrected]) -> None:
        """A balance is another."""
        topic, event = message.topic, message.payload
        account = self._store.correct(topic, event.id, event.cents)
        if account is not None:
            self._tell(topic, account)

    def set_reserve(self, message: Message[Reserve]) -> None:
        """All balances are to be higher, or may be lower, from now on."""
        self._store.set_reserve(message.payload.cents)

    def _tell(self, topic: str, account: Account) -> None:
        logger.info("%s has %.2f (event %d)", topic, account.cents / 100, account.last_id)

    def _ask_for_more(self, channel: Channel, account: Account) -> None:
        """Ask once. Without an answer nobody knows whether it was granted: the next charge asks again."""
        request = {"cents": self._top_up, "after": account.last_id}
        try:
            channel.push("top_up", request, timeout=self._patience)
        except RemoteError as error:
            logger.warning("no top-up: %s", error)
        else:
            self._granted.add(channel.topic)
