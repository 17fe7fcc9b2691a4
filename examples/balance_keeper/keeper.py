"""The connection: joins every topic with the last id of its account, and ends when balances can no longer be exact."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final, Self

from phx_proto import ClientOptions, JoinPolicy, Refusal, Resume
from phx_proto.events import ChannelEnded
from phx_transports.threads import connect
from phx_transports.threads.interfaces import TransportFactory

from .handlers import Handlers
from .store import Store

POLICY: Final = "policy"

#: A topic that may not be joined again is no longer kept: that is for somebody to look at, and not to be retried.
_OPTIONS: Final = ClientOptions(join=JoinPolicy(refusal=Refusal.FINAL))


class Keeper:
    """Keeps the balances of some SIM cards, within a `with` block.

        with Keeper(url, ["sim:1", "sim:2"], store) as keeper:
            keeper.run()

    Args:
        url: The socket's mount.
        topics: A topic for each card.
        store: Where balances are kept; it also tells what has been seen.
        transport: Instead of the network, for tests.

    Raises:
        HandshakeRefused, ConnectTimeout: From the `with` block's beginning: there is no connection.
        JoinRefused, JoinTimeout: Likewise: a topic cannot be joined.
    """

    def __init__(
        self, url: str, topics: Sequence[str], store: Store, *, transport: TransportFactory | None = None
    ) -> None:
        self._url = url
        self._topics = topics
        self._store = store
        self._transport = transport

    def __enter__(self) -> Self:
        with ExitStack() as stack:  # a join that fails closes the connection
            router = Handlers(self._store).router()
            self._client = stack.enter_context(
                connect(self._url, router=router, options=_OPTIONS, fail_fast=True, transport=self._transport)
            )
            self._events = stack.enter_context(self._client.events())
            self._client.join(POLICY)
            for topic in self._topics:
                start = self._store.account(topic).last_id
                self._client.join(topic, resume=Resume(by="id", param="since", start=start))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def run(self) -> None:
        """Keep balances until closed.

        Raises:
            ChannelClosed, JoinRefused: The server lets a topic go, or does not take it back; its name is in the text.
            EventsMissed, PayloadMismatch: An event cannot be counted; the next start asks for it again.
            PhxError: The server has refused the connection for good.
        """
        for event in self._events:
            if isinstance(event, ChannelEnded) and event.error is not None:
                raise event.error
        self._client.wait_closed()
