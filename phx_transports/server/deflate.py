"""permessage-deflate (RFC 7692) for the server, with Bandit's bound on the inflated size of a message."""

from collections.abc import Sequence

from websockets.exceptions import PayloadTooBig
from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import CTRL_OPCODES, Frame, Opcode
from websockets.typing import ExtensionParameter

_WINDOW_BITS = 12  # as in the library's own server: a fifth of the memory of 15, with similar compression


class Deflate(ServerPerMessageDeflateFactory):
    """Negotiates compression; a message may inflate to so many times its size, `None` for any."""

    def __init__(self, max_ratio: int | None) -> None:
        bits = _WINDOW_BITS
        super().__init__(server_max_window_bits=bits, client_max_window_bits=bits, compress_settings={"memLevel": 5})
        self._max_ratio = max_ratio

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        answer, agreed = super().process_request_params(params, accepted_extensions)
        return answer, agreed if self._max_ratio is None else _Bounded(agreed, self._max_ratio)


class _Bounded(PerMessageDeflate):
    def __init__(self, agreed: PerMessageDeflate, max_ratio: int) -> None:
        super().__init__(
            agreed.remote_no_context_takeover,
            agreed.local_no_context_takeover,
            agreed.remote_max_window_bits,
            agreed.local_max_window_bits,
            agreed.compress_settings,
        )
        self._max_ratio = max_ratio
        self._left = 0  # bytes to which the rest of the message may inflate

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        if frame.opcode in CTRL_OPCODES:
            return frame
        if frame.opcode is not Opcode.CONT:
            self._left = 0
        self._left += self._max_ratio * len(frame.data)
        most = self._left + 1  # one more shows that the limit is exceeded
        decoded = super().decode(frame, max_size=most if max_size is None else min(most, max_size))
        self._left -= len(decoded.data)
        if self._left < 0:
            raise PayloadTooBig(None, most - 1)
        return decoded
