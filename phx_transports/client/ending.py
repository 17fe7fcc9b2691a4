"""How a client ends, whichever its adapter: gracefully, at once, by an error, by a signal. Free of I/O.

The core ends first: it has left, closed and told so. If the application did not end it, handlers then get what had come
before, for so long as closing may take; only after that the adapter lets go of what it holds.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from signal import Signals

from phx_proto.client import ClientProtocol
from phx_proto.states import SocketState

from .reports import HandlerError, OnHandlerError, is_exit, logger, report_to
from .session import Session, Tell


class Ending:
    """The end of one client.

    Args:
        proto: The core.
        session: Who waits for the end, and reads until then.
        tell: Used for each input to the core.
        on_handler_error: Told what a handler raised.
        fail_fast: Whether that ends the client.
        drain_timeout: Seconds that closing may take.
        halt: Has no handler begun any more, from now on; must not raise, and must not wait.

    Attributes:
        deadline: When handlers are waited for no longer; `math.inf` while the core has not ended.
    """

    def __init__(
        self,
        proto: ClientProtocol,
        session: Session,
        *,
        tell: Tell,
        on_handler_error: OnHandlerError,
        fail_fast: bool,
        drain_timeout: float,
        halt: Callable[[], None],
    ) -> None:
        self.deadline = inf
        self._proto = proto
        self._session = session
        self._tell = tell
        self._on_handler_error = on_handler_error
        self._fail_fast = fail_fast
        self._drain_timeout = drain_timeout
        self._halt = halt
        self._dropped = False

    # ---- what ends it -----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Begin to close gracefully; nothing in a forked process, for the connection is its parent's."""
        if self._session.is_here:
            self._tell(self._drain)

    def drop(self) -> None:
        """Close at once; handlers are waited for no longer. Nothing in a forked process either."""
        if self._session.is_here:
            self._tell(self._abort)

    def fail(self, error: BaseException) -> None:
        """Close at once, and have whoever waits for the end raise this."""
        self._tell(partial(self._fail, error))

    def handler_failed(self, report: HandlerError) -> None:
        """A handler raised.

        What is no error but asks for the end, `SystemExit` or `KeyboardInterrupt`, is heeded: the client closes
        gracefully, and whoever waits for its end gets that raised. So does what `on_handler_error` raises likewise.
        """
        if is_exit(report.error):
            self.exit(report.error)
            return
        if self._fail_fast:
            self._halt()  # before anything else: nothing more is handled
        try:
            report_to(self._on_handler_error, report)
        except BaseException as error:
            self.exit(error)
        if self._fail_fast:
            self.fail(report.raisable)

    def exit(self, error: BaseException) -> None:
        """Close gracefully, and have whoever waits for the end raise this."""
        self._tell(partial(self._exit, error))

    def on_signal(self, number: int) -> None:
        """SIGINT or SIGTERM: the first closes gracefully, the next at once."""
        name, url = Signals(number).name, self._proto.endpoint.redacted
        if self._proto.state in (SocketState.DRAINING, SocketState.CLOSING):
            logger.warning("%s again: the client of %s drops its connection", name, url)
            self.drop()
        else:
            logger.warning("%s: the client of %s closes", name, url)
            self.stop()

    # ---- after the core has ended -----------------------------------------------------------------------------------

    def core_ended(self, now: float) -> None:
        """The core has ended: nothing waits for who still reads, and the time of handlers runs."""
        if self.deadline == inf:
            self.deadline = now + self._drain_timeout
            self._session.release_readers()

    def waits(self, now: float) -> bool:
        """Whether handlers are still to have what had come before the core ended."""
        wanted = self._session.error is not None and not self._dropped  # else it was given up with the client
        return wanted and now < self.deadline and self._proto.stats.backlog > 0

    # ---- private ----------------------------------------------------------------------------------------------------

    def _exit(self, error: BaseException, now: float) -> None:
        if self._proto.state in (SocketState.DRAINING, SocketState.CLOSING, SocketState.CLOSED):
            return  # it is on its way
        self._session.fail(error)
        self._dropped = True  # the core's drain is all the time that handlers have
        self._proto.drain(now, timeout=self._drain_timeout, error=error)
        self._session.release_readers()

    def _drain(self, now: float) -> None:
        self._proto.drain(now, timeout=self._drain_timeout)
        self._session.release_readers()

    def _abort(self, now: float) -> None:
        self._dropped = True
        self._proto.abort(now)

    def _fail(self, error: BaseException, now: float) -> None:
        if not self._session.closed:
            self._session.fail(error)
            self._dropped = True
            self._proto.abort(now, error=error)
