"""The other baseline on asyncio: a bare picows listener with `orjson.loads`, and just enough Phoenix to be fed.

picows calls its listener with each frame and awaits nothing, so the handler here is a plain function.
"""

import orjson
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.loops import run_on
from bench.meter import Meter, Result, Task, report, task


class _Listener(WSListener):
    def __init__(self, task: Task) -> None:
        self._task = task
        self.meter = Meter(task.n)

    def on_ws_connected(self, transport: WSTransport) -> None:
        for number, topic in enumerate(self._task.names):
            transport.send(WSMsgType.TEXT, orjson.dumps([f"j{number}", f"j{number}", topic, "phx_join", {}]))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        _join_ref, _ref, _topic, event, payload = orjson.loads(frame.get_payload_as_memoryview())
        if event == "balance":
            self.meter.balance(payload)
        elif event == "done":
            self.meter.done(payload)
            transport.disconnect()


async def run(task: Task) -> Result:
    url = f"{task.socket}/websocket?vsn=2.0.0&{task.query}"
    transport, listener = await ws_connect(lambda: _Listener(task), url)
    await transport.wait_disconnected()
    assert isinstance(listener, _Listener)
    return listener.meter.result


if __name__ == "__main__":
    report(run_on(task(), run))
