"""Threads that do what there is to do: who is free takes the next piece of work.

For a client's handlers: a channel with messages is a piece of work, whichever topic, so ten thousand topics need no
more threads than one that is busy. Threads are made when they are needed, up to a limit, and are daemons: a handler
that never ends keeps no program from ending.

Python runs one thread at a time, and many that compute mostly hinder one another. So one works, and while work waits
another looks out: if some has waited for `PATIENCE` and the process hardly computed meanwhile, those who work do wait
themselves, so the one who looks out lends a hand, and a third looks out. Handlers that wait (for a database, for a
reply) so get all the threads that they can use, and handlers that compute get one; unless work has waited for very
long, for what computes may be others, or code that needs no turn of Python's.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic, process_time
from typing import Final

#: Waiting is what most handlers do; the number is that of `ThreadPoolExecutor`.
THREADS: Final = min(32, (os.cpu_count() or 1) + 4)

PATIENCE: Final = 0.002  # seconds that work may wait until another thread comes, while nobody computes
_LONG_PATIENCE: Final = 0.05  # and while somebody does


class WorkerPool:
    """A number of threads.

    Args:
        on_error: Told what a piece of work raised; must not raise.
        on_last: Called by whoever took the last piece of work that waited, before it is begun; must not raise.
    """

    def __init__(
        self,
        name: str,
        *,
        on_error: Callable[[BaseException], None],
        on_last: Callable[[], None] = lambda: None,
        limit: int = THREADS,
    ) -> None:
        self._name = name
        self._on_error = on_error
        self._on_last = on_last
        self._limit = limit
        self._work: deque[Callable[[], None]] = deque()
        self._added = 0  # pieces of work, ever
        self._lock = threading.Lock()
        self._called = threading.Condition(self._lock)
        self._closing = threading.Condition(self._lock)
        self._size = 0  # threads
        self._working = 0
        self._idle: set[threading.Thread] = set()  # parked, or looking out
        self._parked = 0
        self._coming = False  # somebody was called and is not here yet
        self._looking_out = False
        self._marked = (0, 0.0)  # how much was added at some time, of which some may still wait; and that time
        self._closed = False

    @property
    def waiting(self) -> bool:
        """Whether there is work that nobody has taken."""
        return bool(self._work)

    def add(self, work: Sequence[Callable[[], None]]) -> bool:
        """Have these done, each by one thread. Gives whether they will be: not after `shutdown`."""
        with self._lock:
            if self._closed:
                return False
            self._work += work
            self._added += len(work)
            self._call()
            return True

    def shutdown(self) -> list[Callable[[], None]]:
        """End the threads, those at work when they are done. Gives the work that no thread has begun.

        Those that are idle are waited for, and nobody waits for the others.
        """
        with self._lock:
            self._closed = True
            left = [*self._work]
            self._work.clear()
            self._called.notify_all()
            self._closing.notify_all()
            idle = tuple(self._idle)
        for thread in idle:
            thread.join()
        return left

    def _call(self) -> None:
        """See to it that work which waits is not forgotten: somebody works, and somebody looks out."""
        if not self._work or self._coming or self._looking_out:
            return
        if self._parked:
            self._coming = True
            self._called.notify()
        elif self._size < self._limit:
            self._coming = True
            thread = threading.Thread(target=self._run, name=f"{self._name}-{self._size}", daemon=True)
            self._size += 1
            thread.start()

    def _run(self) -> None:
        thread = threading.current_thread()
        with self._lock:
            self._coming = False
            work = self._next(thread)
        while work is not None:
            try:
                if not self._work:
                    self._on_last()
                work()
            except BaseException as error:
                self._on_error(error)
            work = self._another() or self._park(thread)

    def _another(self) -> Callable[[], None] | None:
        """More work for one who works, if there is any: without the lock, if somebody looks out for what waits then."""
        try:
            work = self._work.popleft()
        except IndexError:
            return None
        if self._work and not (self._coming or self._looking_out):
            with self._lock:
                self._call()
        return work

    def _park(self, thread: threading.Thread) -> Callable[[], None] | None:
        with self._lock:
            self._working -= 1
            return self._next(thread)

    def _begin(self) -> Callable[[], None]:
        self._working += 1
        work = self._work.popleft()
        self._call()
        return work

    def _next(self, thread: threading.Thread) -> Callable[[], None] | None:
        """Wait for work that nobody else does soon; `None` at the end."""
        self._idle.add(thread)
        while not self._closed:
            if not self._work:
                self._parked += 1
                self._called.wait()
                self._parked -= 1
                self._coming = False
            elif self._working == 0 or self._is_late():
                self._idle.discard(thread)
                return self._begin()
        return None

    def _is_late(self) -> bool:
        """Look out for a while; gives whether work waits too long."""
        added, began, computed = self._added, monotonic(), process_time()
        if self._marked[0] <= added - len(self._work):
            self._marked = (added, began)
        self._looking_out = True
        self._closing.wait(PATIENCE)
        self._looking_out = False
        taken, now = self._added - len(self._work), monotonic()
        if taken >= added or self._closed:
            return False
        return process_time() - computed < (now - began) / 2 or now - self._marked[1] > _LONG_PATIENCE
