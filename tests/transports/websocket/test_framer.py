"""The frames of outgoing messages, read by `websockets`' own parser of a server."""

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER, Protocol

from phx_transports.websocket.framer import BINARY, TEXT, frame, mask_keys


@pytest.mark.parametrize(("head", "opcode"), [(TEXT, Opcode.TEXT), (BINARY, Opcode.BINARY)])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, 2**16 - 1, 2**16, 2**16 + 1])
def test_a_server_reads_what_was_framed(head: int, opcode: Opcode, size: int) -> None:
    message = bytes(number % 128 for number in range(size))
    server = Protocol(SERVER)
    server.receive_data(frame(head, message, next(mask_keys())))
    (received,) = server.events_received()
    assert isinstance(received, Frame)
    assert (received.opcode, received.data, received.fin) == (opcode, message, True)
    assert server.parser_exc is None


def test_each_frame_has_a_mask_of_its_own() -> None:
    keys = mask_keys()
    frames = {frame(TEXT, b"\x00" * 8, next(keys)) for _ in range(1000)}
    assert len(frames) > 990
