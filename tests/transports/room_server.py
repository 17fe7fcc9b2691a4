"""The embedded server as the clients' tests use it: rooms that echo, shout, refuse, and stop when asked to."""

from typing import Any

from phx_transports.server import Refuse, Server, ServerChannel, on

server = Server()


@server.channel("room:*")
class Room(ServerChannel):
    async def join(self, topic: str, params: Any) -> Any:
        if params.get("name") == "nobody":
            raise Refuse({"reason": "who?"})
        return {"topic": topic}

    @on("echo")
    async def echo(self, payload: Any) -> Any:
        return payload

    @on("shout")
    async def shout(self, payload: Any) -> Any:
        self.broadcast("shout", payload)
        return {}

    @on("refuse")
    async def refuse(self, payload: Any) -> Any:
        raise Refuse({"reason": "no"})

    @on("stop")
    async def end(self, payload: Any) -> Any:
        self.stop()
