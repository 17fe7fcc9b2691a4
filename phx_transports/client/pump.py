"""The pump of a client: after whatever the core is told, what it wants is done, in this order. Free of I/O."""

from collections.abc import Callable
from typing import Any, Protocol

from phx_proto.client import ClientProtocol
from phx_proto.queues import DeliveryQueue, HandlerQueue

from .reports import Log
from .session import Session


class Alarm(Protocol):
    """Sees to it that the core is told the time, as far as it is needed here.

    Attributes:
        armed: The deadline that is set, by the client's clock; `math.inf` for none.
    """

    armed: float

    def arm(self, deadline: float) -> None: ...


class Pump:
    """Does what one client's core wants done.

    Args:
        proto: The core.
        session: Told what happened.
        perform: Carries out a command.
        on_runnable: Has the handlers of these queues run by the adapter's workers.
        on_executable: Has the handlers of these run by an executor.
        alarm: Set to the core's next deadline, where it is set to a later one.
        log: Whose counts are told when the alarm rings, too.
        on_ended: Called each time from the core's end on.
    """

    def __init__(
        self,
        proto: ClientProtocol,
        session: Session,
        *,
        perform: Callable[[Any], None],
        on_runnable: Callable[[list[DeliveryQueue]], None],
        on_executable: Callable[[list[HandlerQueue]], None],
        alarm: Alarm,
        log: Log,
        on_ended: Callable[[], None],
    ) -> None:
        self._proto = proto
        self._session = session
        self._perform = perform
        self._on_runnable = on_runnable
        self._on_executable = on_executable
        self._alarm = alarm
        self._log = log
        self._on_ended = on_ended

    def run(self) -> None:
        """Do it; to be called after each input."""
        proto = self._proto
        for command in proto.commands():
            self._perform(command)
        events = proto.events()
        if events:
            self._session.settle(events)
        notices = proto.notices()
        if notices:
            self._session.settle(notices)
        if self._session.closed:
            self._on_ended()
        for tap, item in proto.tapped():
            tap.put(item)
        executable = proto.executable()
        if executable:
            self._on_executable(executable)
        runnable = proto.runnable()
        if runnable:
            self._on_runnable(runnable)
        deadline = proto.next_timeout()
        if deadline is not None and deadline < self._alarm.armed:
            self._alarm.arm(deadline)
        if self._log.due < self._alarm.armed:
            self._alarm.arm(self._log.due)
