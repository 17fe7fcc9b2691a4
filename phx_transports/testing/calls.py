"""A blocking call on a thread of its own, so that the test can play the server at the same time."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def background(function: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> Future[T]:
    """Make a blocking call, e.g. `client.run`, on a thread of its own; the future ends with its result or error.

    Unlike a pool's thread, it does not keep the process from exiting: a call that never ends fails its own test, where
    that waits for it (`result(5)` raises `TimeoutError`), and does not block the whole run.

    >>> background(sum, [1, 2]).result(5)
    3
    """
    future: Future[T] = Future()

    def call() -> None:
        try:
            result = function(*args, **options)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=call, name="phx-test-background", daemon=True).start()
    return future
