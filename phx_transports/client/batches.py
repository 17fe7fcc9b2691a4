"""Batches for an executor: a plain handler with messages goes in, and the errors it raised come back.

The worker may be another thread, another process or another machine, so a batch needs nothing from outside. The way
back has a risk: an exception that cannot be pickled fails its whole batch, and one that cannot be unpickled breaks a
`ProcessPoolExecutor` for good. So the worker tries both first, and sends a `WorkerError` instead if it has to.
"""

import contextlib
import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from types import CoroutineType
from typing import Any, NoReturn
from uuid import uuid4

from phx_proto.errors import InvalidHandler, PhxError
from phx_proto.handlers.handler import Handler, HandlerKind
from phx_proto.handlers.router import Router
from phx_proto.message import Message

from .reports import is_exit


@dataclass(eq=False)
class WorkerError(PhxError):
    """Replaces an error that a handler raised in another process, if that error cannot be sent from there.

    Attributes:
        kind: The exception's type, with its module.
        text: The exception as text.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class WorkerTraceback(Exception):
    """The cause of an error from another process: its traceback there, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


@dataclass(frozen=True, slots=True)
class Failure:
    """A message of a batch on which the handler raised, or which did not fit its payload type.

    Attributes:
        index: The message's position.
        error: What was raised.
        message: The message as the handler got it; `None` if it did not fit, and from another process.
    """

    index: int
    error: BaseException
    message: Message[Any] | None = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> "tuple[Callable[..., Failure], tuple[Any, ...]]":
        kind = type(self.error)
        name = f"{kind.__module__}.{kind.__qualname__}"
        trace = "".join(traceback.format_exception(self.error))
        return _arrived, (self.index, _pickled(self.error), name, _text(self.error), trace)


class Halt:
    """Whether handlers must stop; an adapter's runner is one, for all of a client's.

    Attributes:
        halted: Whether no further handler is begun.
    """

    def __init__(self) -> None:
        self.halted = False

    def halt(self) -> None:
        """Begin no further handler; running ones go on."""
        self.halted = True


@dataclass(slots=True, eq=False)
class Progress:
    """The progress of a batch that runs in this process.

    Attributes:
        host: Says whether to go on.
        begun: Whether the batch runs here. The progress of one in another process is not known here.
        done: The number of messages handled.
        sound: Those before the first on which the handler raised: they may be reported before the failures are.
    """

    host: Halt = field(default_factory=Halt)
    begun: bool = False
    done: int = 0
    sound: int = 0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Batch:
    """Messages for one handler, in order for each topic.

    Attributes:
        handler: A plain function.
        messages: As they came; a payload type is applied where the batch is run.
        channels: The channel of each message, for a handler that takes it; they cannot leave the process.
        fail_fast: Whether the first error ends it.
        progress: Its progress; it stays in the process.
    """

    handler: Handler
    messages: Sequence[Message[Any]]
    channels: Sequence[object] | None = None
    fail_fast: bool = False
    progress: Progress = field(default_factory=Progress)

    def __reduce__(self) -> "tuple[Callable[..., Batch], tuple[Any, ...]]":
        return Batch, (self.handler, self.messages, self.channels, self.fail_fast)

    def __repr__(self) -> str:
        return f"Batch({self.handler.name}, {len(self.messages)} messages)"  # payloads must not show in logs

    def run(self) -> list[Failure]:
        """Call the handler on each message. After an error it goes on with the next one, unless `fail_fast`."""
        handler, channels, failures = self.handler, self.channels, list[Failure]()
        progress = self.progress
        progress.begun = True
        for index, message in enumerate(self.messages):
            if progress.host.halted:
                break
            accepted = None
            try:
                accepted = message if handler.payload_type is None else handler.accept(message)
                returned = handler.run(accepted) if channels is None else handler.run(accepted, channels[index])
                if isinstance(returned, CoroutineType):
                    returned.close()
                    raise TypeError(f"{handler.name} returned a coroutine: declare it with `async def`, to be awaited")
            except BaseException as error:  # also `CancelledError`: nothing here can be cancelled
                failures.append(Failure(index, error, accepted))
                if self.fail_fast and _stops(failures[-1]):
                    progress.host.halt()
                    progress.done += 1
                    break
            progress.done += 1
            if not failures:
                progress.sound = progress.done
        return failures

    def done(self, failures: Sequence[Failure]) -> int:
        """The number of messages handled, given these failures."""
        if self.progress.begun:
            return self.progress.done
        stopped = self.fail_fast and any(map(_stops, failures))
        return failures[-1].index + 1 if stopped else len(self.messages)

    def lost(self, error: BaseException) -> list[Failure]:
        """The failures of a batch that was lost: one for each message that may not have been handled."""
        return [Failure(index, error) for index in range(len(self.messages))]

    def __dask_tokenize__(self) -> str:
        # Dask makes equal calls only once, so no two batches may be equal.
        return uuid4().hex


def checked_failures(result: Any) -> list[Failure]:
    """The result of `Batch.run`, as an executor gave it.

    Raises:
        TypeError: It gave something else.
    """
    if isinstance(result, list) and all(isinstance(each, Failure) for each in result):  # pyright: ignore[reportUnknownVariableType]
        return result  # pyright: ignore[reportUnknownVariableType]
    raise TypeError(f"the executor did not give what the submitted function returned, but {type(result).__name__}")  # pyright: ignore[reportUnknownArgumentType]


def _stops(failure: Failure) -> bool:
    """Whether `fail_fast` applies; other exceptions close the client gracefully (`reports.is_exit`)."""
    return not is_exit(failure.error)


# ---- what can go to another process ---------------------------------------------------------------------------------


class PortabilityCheck:
    """Refuses plain handlers that an executor can never run.

    Args:
        executor: A `ProcessPoolExecutor` takes what can be pickled. Dask, whose pickler also takes lambdas and
            closures, takes anything but the channel. Any other executor is assumed to run everything.

    Raises:
        TypeError: It is not an executor.
    """

    def __init__(self, executor: Executor | None) -> None:
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise TypeError(f"executor={executor!r} is not a concurrent.futures.Executor")
        self._default = executor
        self._version = -1  # the router's, at the last check

    def router(self, router: Router) -> None:
        """Check all handlers of the router, if it has changed.

        Raises:
            InvalidHandler: One of them cannot be sent to another process.
        """
        if router.version != self._version:
            for handler in router.handlers:
                self.handler(handler)
            self._version = router.version

    def handler(self, handler: Handler) -> None:
        """Check one handler.

        Raises:
            InvalidHandler: It cannot be sent to another process.
        """
        executor = handler.executor or self._default
        pickles = is_process_pool(executor)
        leaves = pickles or type(executor).__module__.partition(".")[0] == "distributed"  # not imported here
        if handler.kind is HandlerKind.ASYNC:
            if handler.executor is not None:
                raise InvalidHandler(handler.name, "it is a coroutine function, and an executor runs plain ones")
            return
        if leaves and handler.takes_channel:
            raise InvalidHandler(handler.name, f"it takes the channel, and {_STAYS}")
        if not pickles:
            return
        try:
            pickle.dumps(handler)
        except Exception as error:
            problem = f"it cannot be sent to another process ({error}): make it, and its payload type, one of a module"
            raise InvalidHandler(handler.name, problem) from error


def refuse_coroutine(handler: Handler, returned: "CoroutineType[Any, Any, Any]") -> NoReturn:
    """Close a coroutine that a plain handler returned, and raise `TypeError`."""
    returned.close()
    raise TypeError(f"{handler.name} returned a coroutine, and nobody awaits it here: make it a plain function")


def is_process_pool(executor: Executor | None) -> bool:
    """Whether it is a `ProcessPoolExecutor`; does not import its module, which takes long."""
    module = sys.modules.get("concurrent.futures.process")
    return module is not None and isinstance(executor, module.ProcessPoolExecutor)


def refuse_to_leave(topic: str) -> NoReturn:
    """Refuse to pickle a channel.

    Raises:
        pickle.PicklingError: Always.
    """
    raise pickle.PicklingError(f"the channel of topic {topic!r} cannot be pickled: {_STAYS}")


_STAYS = "a channel cannot leave its process: let the handler take the message alone"


# ---- the way back ---------------------------------------------------------------------------------------------------


def _pickled(error: BaseException) -> bytes | None:
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return None
    return data


def _arrived(index: int, data: bytes | None, kind: str, text: str, trace: str) -> Failure:
    error: BaseException = WorkerError(kind, text)
    if data is not None:
        with contextlib.suppress(Exception):  # the class may exist there and not here
            error = pickle.loads(data)
    error.__cause__ = WorkerTraceback(trace)
    return Failure(index, error)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as problem:
        return f"(its text cannot be made: {type(problem).__name__})"
