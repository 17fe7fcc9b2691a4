"""Frames for outgoing messages: unfragmented and masked, as a client sends them (RFC 6455 §5.2 and §5.3).

`websockets` makes some twenty Python calls for each such frame; without them a push costs a quarter less. It still
makes control frames and compressed messages.
"""

from collections.abc import Iterator
from os import urandom
from struct import pack
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # built without its C extension
    from websockets.utils import apply_mask

TEXT: Final = 0x81  # the last (and only) frame of a message, no extension used
BINARY: Final = 0x82

_MASKED: Final = 0x80
_KEYS: Final = 1024  # bytes


def mask_keys() -> Iterator[bytes]:
    """The masking keys of one connection: random, and so unpredictable (§5.3), asked of the system 256 at a time.

    For one connection only, since a forked process would repeat them: it cannot use the connections of its parent.
    """
    while True:
        keys = urandom(_KEYS)
        for at in range(0, _KEYS, 4):
            yield keys[at : at + 4]


def frame(head: int, data: bytes, key: bytes) -> bytes:
    """A message's frame.

    Args:
        head: Its first byte, `TEXT` or `BINARY`.
        data: The message.
        key: Its masking key, used once.
    """
    size = len(data)
    if size < 126:
        start = bytes((head, _MASKED | size))
    elif size < 2**16:
        start = pack("!BBH", head, _MASKED | 126, size)
    else:
        start = pack("!BBQ", head, _MASKED | 127, size)
    return start + key + apply_mask(data, key)
