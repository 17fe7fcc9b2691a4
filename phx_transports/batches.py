"""What an executor's worker runs: one plain handler on a batch of messages, in order.

It stands alone, for it may be run by another thread, another process or another machine.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from phx_proto.handler import Handler
from phx_proto.message import Message


def run_batch(handler: Handler, messages: Sequence[Message[Any]], channel: object) -> list[tuple[int, BaseException]]:
    """Call the handler on each message; what it raises on one does not keep it from the next.

    Returns:
        What went wrong: the message's index, and what was raised.
    """
    failures: list[tuple[int, BaseException]] = []
    for index, message in enumerate(messages):
        try:
            returned = handler.call(message, channel)
            if inspect.iscoroutine(returned):
                returned.close()
                raise TypeError(f"{handler.name} returned a coroutine: declare it with `async def` to have it awaited")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # `CancelledError` too: it is no cancellation where nothing can be cancelled
            failures.append((index, error))
    return failures
