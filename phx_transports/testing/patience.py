"""What ends a client that waits for what will not come: better a test that fails than one that waits for ever.

A client on asyncio or threads blocks the test that calls it, and the peer's clock moves only when the test moves it. So
where nobody answers, or the next attempt is due at a time that never comes, the client is ended after a while, with an
error that says so. The seconds are real ones.
"""

from collections.abc import Callable
from typing import Final

from .connection import PeerClient, State
from .errors import UnexpectedConversation
from .network import Network
from .transcript import Side

_MOVE: Final = "The client tries again when the clock has moved, and nobody moves it."


class Patience:
    """Watches the clients of one peer.

    Args:
        seconds: How long they may wait.
        network: What is said there.
    """

    def __init__(self, seconds: float, network: Network) -> None:
        self._seconds = seconds
        self._network = network

    def with_connecting(self, client: PeerClient) -> None:
        """A client tries to connect."""
        if any(connection.state is State.OPEN for connection in self._network.connections):
            return
        stands_still = self._stillness()
        self._watch(client, stands_still, "there is no connection", lambda: [f"There is no connection. {_MOVE}"])

    def with_params(self, client: PeerClient) -> None:
        """A client reads its params or its token."""
        stands_still = self._stillness()
        words = f"A callable that gives params or a token raised, or did not return. {_MOVE}"
        self._watch(client, stands_still, "there are no params, or no token", lambda: [words])

    def with_answer(
        self, client: PeerClient, asked: str, *, expected: Callable[[], bool], surplus: Callable[[], list[str]]
    ) -> None:
        """A client sent what it waits for an answer to.

        Args:
            client: The client.
            asked: What it sent, in words.
            expected: Whether the test expects it by now.
            surplus: What else is not expected.
        """
        self._watch(
            client,
            lambda: not expected(),
            f"nobody answers the {asked}",
            lambda: ["Nobody answered what the client waits for.", *surplus()],
        )

    def _stillness(self) -> Callable[[], bool]:
        """Gives whether nothing has been said since now, and no time has passed."""
        network = self._network
        before = (len(network.transcript), network.now())
        return lambda: (len(network.transcript), network.now()) == before

    def _watch(self, client: PeerClient, stuck: Callable[[], bool], note: str, words: Callable[[], list[str]]) -> None:
        def look() -> None:
            with self._network.lock:
                if not stuck():
                    return
                self._network.say(Side.NOTE, f"{note}: the client is ended")
                text = "\n".join([*words(), self._network.account()])
            client.fail(UnexpectedConversation(text))

        client.after(self._seconds, look)
