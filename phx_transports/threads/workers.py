"""A pool of threads for a client's handlers: an idle thread takes the next piece of work.

A channel with messages is one piece of work, whatever its topic, so ten thousand topics need no more threads than one
busy topic. Threads are started when they are needed, up to a limit. They are daemons: a handler that never ends does
not keep the program from exiting.

Only one Python thread computes at a time, so several that compute mostly slow each other down. Therefore one thread
works, and while work is queued an idle thread watches it. If work has waited for `PATIENCE` and the process has used
little CPU in that time, the working threads must be waiting: the watching thread then starts to work, and the next
thread watches. So handlers that wait (for a database, for a reply) get as many threads as they can use, and handlers
that compute get one. After `_LONG_PATIENCE` a thread is added anyway: the computing code may release the GIL.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic, process_time
from typing import Final, Generic, TypeVar

W = TypeVar("W")

#: The default of `ThreadPoolExecutor`: most handlers wait for I/O.
THREADS: Final = min(32, (os.cpu_count() or 1) + 4)

PATIENCE: Final = 0.002  # seconds that work may wait before a thread is added, while the process uses little CPU
_LONG_PATIENCE: Final = 0.05  # the same, while it computes


class WorkerPool(Generic[W]):
    """A number of threads.

    Args:
        do: Does a piece of work.
        on_error: Called with what a piece of work raised; must not raise.
        on_last: Called by the thread that has taken the last queued piece, before it runs it; must not raise.
        on_start: Called by each thread before its first piece; must not raise.
    """

    def __init__(
        self,
        name: str,
        do: Callable[[W], object],
        *,
        on_error: Callable[[BaseException], None],
        on_last: Callable[[], None] = lambda: None,
        on_start: Callable[[], None] = lambda: None,
        limit: int = THREADS,
    ) -> None:
        self._name = name
        self._do = do
        self._on_error = on_error
        self._on_last = on_last
        self._on_start = on_start
        self._limit = limit
        self._work: deque[W] = deque()
        self._added = 0  # pieces of work, in total
        self._lock = threading.Lock()
        self._called = threading.Condition(self._lock)
        self._closing = threading.Condition(self._lock)
        self._size = 0  # threads
        self._working = 0
        self._idle: set[threading.Thread] = set()  # parked, or watching the queue
        self._parked = 0
        self._coming = False  # a thread was started or notified, and does not run yet
        self._looking_out = False
        self._marked = (0, 0.0)  # an earlier `_added`, while some of that work may wait; and its time
        self._closed = False

    @property
    def waiting(self) -> bool:
        """Whether work is queued."""
        return bool(self._work)

    def add(self, work: Sequence[W]) -> bool:
        """Queue this work; each piece is done by one thread. Returns whether it will be done: not after `shutdown`."""
        with self._lock:
            if self._closed:
                return False
            self._work += work
            self._added += len(work)
            self._call()
            return True

    def shutdown(self) -> list[W]:
        """End the threads; one that works ends after its piece. Returns the work that no thread has begun.

        This waits for the idle threads, and not for those that work.
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
        """Make sure that queued work is noticed: one thread works, and an idle one watches the queue."""
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
        self._on_start()
        with self._lock:
            self._coming = False
            work = self._next(thread)
        while work is not None:
            try:
                if not self._work:
                    self._on_last()
                self._do(work)
            except BaseException as error:
                self._on_error(error)
            work = self._another() or self._park(thread)

    def _another(self) -> W | None:
        """The next piece for a working thread, if there is any; takes the lock only if no thread watches the rest."""
        try:
            work = self._work.popleft()
        except IndexError:
            return None
        if self._work and not (self._coming or self._looking_out):
            with self._lock:
                self._call()
        return work

    def _park(self, thread: threading.Thread) -> W | None:
        with self._lock:
            self._working -= 1
            return self._next(thread)

    def _begin(self) -> W:
        self._working += 1
        work = self._work.popleft()
        self._call()
        return work

    def _next(self, thread: threading.Thread) -> W | None:
        """Wait for work that no other thread takes soon; `None` at the end."""
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
        """Watch the queue for a while; returns whether work has waited too long."""
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
