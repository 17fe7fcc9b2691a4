"""The embedded server on a port of its own, to be taken down and put up again."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from serving_in_thread import Loop, looping, reserved_port

from phx_transports.server import RunningServer, Server, ServerChannel, ServerSocket, on


class House:
    """One application, whose server comes and goes. Nobody else gets its port meanwhile.

    Attributes:
        url: What clients connect to.
        joins: The topics joined since the server is up, in order.
    """

    def __init__(self, loop: Loop, port: int) -> None:
        self.url = f"ws://127.0.0.1:{port}/socket"
        self.joins: list[str] = []
        self._loop = loop
        self._port = port
        self._server = _application(self.joins)
        self._running: RunningServer | None = None
        self._stack = ExitStack()

    def up(self) -> None:
        self.joins.clear()
        self._running = self._stack.enter_context(self._loop.entered(self._server.serve(port=self._port)))

    def kill(self) -> None:
        """No close frame, and nobody listens any more."""
        assert self._running is not None
        self._loop(self._running.abort())
        self.stop()

    def stop(self) -> None:
        """As on SIGTERM: close frames with 1012."""
        self._stack.close()

    def broadcast(self, topics: Iterable[str], event: str, payload: Any) -> None:
        def all_of_them() -> None:
            for topic in topics:
                self._server.broadcast(topic, event, payload)

        self._loop.do(all_of_them)

    @property
    def sockets(self) -> int:
        """How many connections are open."""
        return self._loop.do(lambda: len(list(self._server.sockets)))

    def disconnect(self, user: str) -> None:
        self._loop.do(lambda: self._server.disconnect(user))


def _application(joins: list[str]) -> Server:
    def connect(socket: ServerSocket) -> None:
        socket.id = socket.params.get("user")

    server = Server(connect=connect)

    @server.channel("room:*")
    class Room(ServerChannel):
        async def join(self, topic: str, params: Any) -> Any:
            joins.append(topic)

        @on("echo")
        async def echo(self, payload: Any) -> Any:
            return payload

        @on("crash")
        async def crash(self, payload: Any) -> Any:
            raise RuntimeError("as asked")

    return server


@contextmanager
def house() -> Iterator[House]:
    with looping() as loop, reserved_port() as port:
        house = House(loop, port)
        house.up()
        try:
            yield house
        finally:
            house.stop()
