"""A client's channels by topic, for the application to look up."""

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import TypeVar

from phx_proto.client import ClientProtocol

C = TypeVar("C")


class Channels(Mapping[str, C]):
    """The live channels of a client by topic, from their creation to their leave or end; never a copy.

    Any thread may read it while channels are added and removed.
    """

    def __init__(self, proto: ClientProtocol) -> None:
        self._live = proto.channels

    def __getitem__(self, topic: str) -> C:
        channel: C | None = self._live[topic].context
        if channel is None:  # another thread is creating it
            raise KeyError(topic)
        return channel

    def __iter__(self) -> Iterator[str]:
        return iter(self._copy())

    def __len__(self) -> int:
        return len(self._live)

    def __repr__(self) -> str:
        return f"Channels({self._copy()!r})"

    def items(self) -> ItemsView[str, C]:
        """Topics and channels, as they are at the time of the call."""
        return self._copy().items()

    def values(self) -> ValuesView[C]:
        """The channels, as they are at the time of the call."""
        return self._copy().values()

    def _copy(self) -> dict[str, C]:
        live = dict(self._live)  # one atomic step, because of other threads
        return {topic: channel.context for topic, channel in live.items() if channel.context is not None}
