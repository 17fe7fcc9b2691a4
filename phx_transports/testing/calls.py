"""A call that blocks, on a thread of its own: so that the test can play the server meanwhile."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def background(function: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> Future[T]:
    """Call a function that blocks, e.g. `client.run`, on a thread of its own; ends with what that returns or raises.

    Unlike a thread of a pool, this one does not keep the process from ending: a call that never ends fails its test,
    where the test waits for it (`result(5)` raises `TimeoutError`), and not the whole run.

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
