"""`ServerProtocol`: the other side of the wire, one socket with the semantics of `Phoenix.Socket`.

Theory of operation. On a real server a socket is a process, and so is each of its channels. A client sees only the
order of their answers. So this class has two kinds of mailbox, and one loop that works on them:

- The socket's mailbox holds frames that came in, frames that channels send, the ends of channels, and requests to close
  the connection. It is processed in order of arrival, but not while a join waits for the application's answer. That
  answer is sent at once, before anything in the mailbox.
- A channel's mailbox holds its messages, the broadcasts that it intercepts, and its leave. They are processed one by
  one: the next comes when the application has finished the one before. When a channel ends, its mailbox is dropped and
  nothing in it is answered. With `last_words` the application can still send until it calls `terminated`; only then
  does the client get the end.

All frames of one read go through the socket's mailbox before any channel's mailbox is processed, as with real
processes. That decides races: if a leave and a join of one topic come in one read, the join finds the channel still
there and replaces it, and the leave is never answered.

There are no callbacks. The application drains `events()`, and answers by calls that name a channel or a message. A call
for a channel that has ended, or on a closed socket, does nothing, because the application cannot know of the end in
time. A call that can never be right raises a `LocalError`. So does a payload that cannot be encoded: on a real server
it crashes the channel that sends it, so an application should call `crash`, as for any error of a handler.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, Final, TypeAlias

import msgspec

from ..checks import check_kind
from ..errors import InvalidFrame, InvalidState
from ..formats import Request, ServerSerializer
from ..message import HEARTBEAT, PHOENIX_TOPIC, PHX_CLOSE, PHX_ERROR, PHX_JOIN, PHX_LEAVE
from .events import (
    HOSTS,
    MESSAGE_COST,
    RELEASES,
    Abort,
    BroadcastOut,
    ChannelHandle,
    ChannelTerminated,
    Close,
    JoinRefRule,
    JoinRequested,
    MessageIn,
    Send,
    ServerCommand,
    ServerEvent,
    ServerOptions,
    SocketClosed,
    Termination,
)

_DEFAULTS: Final = ServerOptions()
_EMPTY: Final[dict[str, Any]] = {}

_Mail: TypeAlias = Callable[[], None]
_Item: TypeAlias = tuple[Request | BroadcastOut, int]  # with its cost, see `ServerProtocol._waiting`


@dataclass(slots=True, eq=False)
class _Channel:
    """One join of one topic.

    `join_ref` is what the client sent: its messages must match it, and `phx_close` carries it. If it is null, replies
    and pushes carry the join's `ref` instead.
    """

    handle: ChannelHandle
    join_ref: Any
    ref: Any
    alive: bool = False
    ending: Termination | None = None  # why it ended, while it waits for the application's `terminated`
    running: MessageIn | BroadcastOut | None = None
    mailbox: deque[_Item] = field(default_factory=deque[_Item])

    @property
    def name(self) -> Any:
        return self.ref if self.join_ref is None else self.join_ref


class ServerProtocol:
    """One client's connection, from its opened WebSocket to its end.

    Args:
        serializer: Of the version that the client asked for.
        topics: Patterns of the topics that the application serves: a whole topic, or the beginning of one and `*`.
        options: The socket's configuration.
        last_words: Whether a channel that ends may still send until `terminated` is called. If not, the end is sent to
            the client at once.
        now: The time, in monotonic seconds.

    >>> from phx_proto import V2Server
    >>> server = ServerProtocol(V2Server(), ("room:*",), now=0.0)
    >>> server.receive('["1","1","room:lobby","phx_join",{}]', 0.1)
    >>> (join,) = server.events()
    >>> server.accept(join.channel, {"hello": "you"})
    >>> server.commands()[0].data
    '["1","1","room:lobby","phx_reply",{"status":"ok","response":{"hello":"you"}}]'
    """

    def __init__(
        self,
        serializer: ServerSerializer,
        topics: tuple[str, ...],
        *,
        options: ServerOptions = _DEFAULTS,
        last_words: bool = False,
        now: float,
    ) -> None:
        self.serializer = serializer
        self._topics = topics
        self._options = options
        self._last_words = last_words
        self._release = RELEASES[options.release]
        self._host = HOSTS[options.host]
        self._max_channels = self._release.max_channels if (limit := options.max_channels) is msgspec.UNSET else limit
        self._opened = now
        self._open = True
        self._deadline: float | None = None
        self._mail: deque[_Mail] = deque()
        self._waiting = 0  # cost of the client's messages in all mailboxes, in bytes, see `max_waiting`
        self._channels: dict[str, _Channel] = {}  # an ended one stays until the socket has processed its end
        self._ready: deque[_Channel] = deque()  # idle channels with messages in their mailbox
        self._joining: _Channel | None = None
        self._serials = count(1)
        self._commands: list[ServerCommand] = []
        self._events: list[ServerEvent] = []
        self.touched(now)

    # ---- from the transport ------------------------------------------------------------------------------------------

    def receive(self, frame: str | bytes, now: float) -> None:
        """One frame was received: `str` for a text frame, `bytes` for a binary one."""
        self.receive_all((frame,), now)

    def receive_all(self, frames: Iterable[str | bytes], now: float) -> None:
        """These frames were received in one read."""
        if not self._open:
            return
        self.touched(now)
        for frame in frames:
            self._waiting += len(frame) + MESSAGE_COST
            self._mail.append(partial(self._read, frame))
        self._run()

    @property
    def full(self) -> bool:
        """Whether `max_waiting` is exceeded, so that nothing more should be read from the client now.

        Any input and any call of the application may change it. What is received anyway is kept.
        """
        limit = self._options.max_waiting
        return limit is not None and self._waiting > limit

    @property
    def ready(self) -> bool:
        """Whether more can be received: no join waits for its answer, and the socket is not `full`."""
        return self._joining is None and not self.full

    def touched(self, now: float) -> None:
        """The client sent bytes that are not a message: a ping, a pong, a part of a frame."""
        if self._open and self._options.timeout is not None:
            self._deadline = self._host.idle_end(self._opened, now, self._options.timeout)

    def closed(self, code: int | None, reason: str) -> None:
        """The client ended the connection. While a join waits for its answer, its close frame waits like any frame.

        Args:
            code: The close frame's code, 1005 if it has none; `None` if the connection ended without a close frame.
            reason: The close frame's reason, or a description of what happened.
        """
        if code is None:
            self._end_socket(None, None, reason)
            return
        end = partial(self._end_socket, Close(self._host.close_answer(code)), code, reason)
        if self._joining is None:
            end()
        else:
            self._mail.append(end)

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout` next; `None` for never."""
        return self._deadline

    def handle_timeout(self, now: float) -> None:
        """The time of `next_timeout` has come. Does nothing before that."""
        if self._deadline is None or now < self._deadline:
            return
        if self.full:  # the client is not silent: it is not read
            self.touched(now)
        else:
            self._deadline = None
            self._post(partial(self._close, self._host.idle_code, "the client was silent for too long"))

    # ---- to the adapter ----------------------------------------------------------------------------------------------

    def commands(self) -> list[ServerCommand]:
        """What the transport must do, in order; each command is returned once."""
        commands, self._commands = self._commands, []
        return commands

    def events(self) -> list[ServerEvent]:
        """The events for the application, in order; each is returned once."""
        events, self._events = self._events, []
        return events

    # ---- the application: joins --------------------------------------------------------------------------------------

    def accept(self, channel: ChannelHandle, response: Any = _EMPTY) -> None:
        """Accept the join.

        Raises:
            InvalidState: The join was answered already.
            LocalError: The response cannot be encoded. The join still waits for its answer.
        """
        self._answer("accept", channel, "ok", response)

    def refuse(self, channel: ChannelHandle, response: Any = _EMPTY) -> None:
        """Refuse the join. No `ChannelTerminated` follows, because there was no channel. Raises as `accept`."""
        self._answer("refuse", channel, "error", response)

    def crash_join(self, channel: ChannelHandle) -> None:
        """Answer the join like a real server whose application raised. Raises as `accept`."""
        self._answer("crash_join", channel, "error", {"reason": "join crashed"})

    # ---- the application: a channel ----------------------------------------------------------------------------------

    def reply(self, message: MessageIn, status: str = "ok", response: Any = _EMPTY) -> None:
        """Answer a message, at any time, before or after `finish`.

        Raises:
            LocalError: The response cannot be encoded.
        """
        channel = self._find("reply", message.channel)
        if channel is not None:
            frame = self.serializer.reply(channel.name, message.ref, channel.handle.topic, status, response)
            self._post(partial(self._send, frame))

    def finish(self, message: MessageIn | BroadcastOut) -> None:
        """The message or broadcast is handled; the channel's next one follows.

        Raises:
            InvalidState: It was finished already.
        """
        channel = self._find("finish", message.channel)
        if channel is None:
            return
        if channel.running is not message:
            raise InvalidState("finish", "finished already")
        channel.running = None
        if channel.mailbox:
            self._ready.append(channel)
            self._run()

    def push(self, channel: ChannelHandle, event: str, payload: Any) -> None:
        """Send an event to this channel's client.

        Raises:
            InvalidState: The channel's join has not been accepted yet.
            LocalError: The payload cannot be encoded.
        """
        found = self._find("push", channel)
        if found is not None:
            self._post(partial(self._send, self.serializer.push(found.name, channel.topic, event, payload)))

    def intercept(self, channel: ChannelHandle, event: str, payload: Any) -> None:
        """Pass a broadcast on its topic to the channel, as `BroadcastOut`. Raises `InvalidState` as `push`."""
        found = self._find("intercept", channel)
        if found is not None and found.alive:
            self._put(found, BroadcastOut(channel, event, payload), 0)
            self._run()

    def stop(self, channel: ChannelHandle) -> None:
        """End the channel with `phx_close`: clients do not rejoin. Raises `InvalidState` as `push`."""
        self._stop("stop", channel, Termination.STOPPED)

    def crash(self, channel: ChannelHandle) -> None:
        """End the channel with `phx_error`: clients rejoin. Also for a channel that fails during its `last_words`.

        Raises `InvalidState` as `push`.
        """
        self._stop("crash", channel, Termination.CRASHED)

    def terminated(self, channel: ChannelHandle) -> None:
        """An ended channel has sent its `last_words`: the client gets the end now."""
        found = self._channels.get(channel.topic)
        if found is not None and found.handle is channel and found.ending is not None:
            self._tell_end(found, found.ending)
            self._run()

    # ---- the application: the socket ---------------------------------------------------------------------------------

    def broadcast(self, topic: str, event: str, payload: Any) -> None:
        """Send an event to the channel of the topic, if this socket has one.

        Raises:
            LocalError: There is such a channel, and the payload cannot be encoded.
        """
        if self._speaking(topic) is not None:
            self.fastlane(topic, self.serializer.broadcast(topic, event, payload))

    def fastlane(self, topic: str, frame: str | bytes) -> None:
        """Broadcast a frame that a serializer's `broadcast` has encoded, once for many sockets."""
        if self._speaking(topic) is None:
            return
        if self._mail or self._joining is not None:
            self._mail.append(partial(self._send, frame))
        else:  # the usual case: nothing is queued before it
            self._send(frame)

    def disconnect(self) -> None:
        """Close the connection; clients reconnect, perhaps with new credentials."""
        self._post(partial(self._close, self._release.disconnect, "disconnected by the application"))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection with a code and a reason of the application.

        Args:
            code: 1000 to 1003, 1007 to 1014, or 3000 to 4999 (RFC 6455 §7.4).
            reason: 123 bytes in UTF-8 at most.

        Raises:
            ValueError: A close frame cannot carry these.
            TypeError: The code is not a whole number.
        """
        check_kind("code", code, int)  # 1000.0 equals 1000
        if not any(code in codes for codes in _CLOSE_CODES):
            raise ValueError(f"a close code is 1000 to 1003, 1007 to 1014 or 3000 to 4999, not {code}")
        if len(reason.encode()) > _MAX_REASON:
            raise ValueError(f"a close reason has {_MAX_REASON} bytes at most, not {len(reason.encode())}")
        self._post(partial(self._close, code, reason or "closed by the application", reason))

    def drain(self) -> None:
        """Close the connection with 1012, like a real server that drains its sockets before it stops."""
        self._post(partial(self._close, 1012, "drained by the application"))

    def shutdown(self) -> None:
        """Close the connection like a real server that stops: with 1012 if a channel is joined."""
        self._post(self._shutdown)

    def abort(self) -> None:
        """Drop the connection at once, without a close frame."""
        self._end_socket(Abort(), None, "aborted by the application")

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def _post(self, mail: _Mail) -> None:
        if self._open:
            self._mail.append(mail)
            self._run()

    def _run(self) -> None:
        while self._open:
            if self._mail and self._joining is None:
                self._mail.popleft()()
            elif self._ready:
                self._turn(self._ready.popleft())
            else:
                return

    # ---- the socket's mail -------------------------------------------------------------------------------------------

    def _read(self, frame: str | bytes) -> None:
        cost = len(frame) + MESSAGE_COST
        self._waiting -= cost
        try:
            request = self.serializer.decode(frame)
        except InvalidFrame as error:
            self._close(1011, str(error))
            return
        if not all(map(_shallow, (request.join_ref, request.ref, request.topic))):
            self._close(1011, "a ref or a topic is nested too deeply to be sent back")
            return
        topic = request.topic
        channel = self._channels.get(topic) if isinstance(topic, str) else None
        if topic == PHOENIX_TOPIC and request.event == HEARTBEAT:
            self._respond(None, request, "ok", {})
        elif request.event == PHX_JOIN and isinstance(topic, str):
            self._join(request, topic)
        elif channel is not None:
            if channel.alive and self._fits(channel.join_ref, request):
                self._waiting += cost
                self._put(channel, request, cost)
        elif request.event == PHX_LEAVE:
            self._respond(request.join_ref, request, "ok", {})
        else:
            self._respond(None, request, "error", {"reason": "unmatched topic"})

    def _join(self, request: Request, topic: str) -> None:
        limit = self._options.max_topic
        pattern = next((pattern for pattern in self._topics if _matches(pattern, topic)), None)
        if pattern is None or len(topic) > limit:
            self._respond(None, request, "error", {"reason": "unmatched topic"})
            return
        if len(self.serializer.reply(request.join_ref, request.ref, "", "", {})) > limit + _REPLY_SIZE:
            self._close(1011, "the refs of a join are too long to be kept")
            return
        old = self._channels.pop(topic, None)
        if old is not None:
            if old.alive:
                self._end_channel(old, Termination.REPLACED)
            old.ending = None
            self._mail.append(partial(self._send_end, old, PHX_CLOSE, {}))  # after the new join's answer
        elif self._max_channels is not None and len(self._channels) >= self._max_channels:
            self._respond(request.join_ref, request, "error", {"reason": "too many channels joined"})
            return
        channel = _Channel(ChannelHandle(next(self._serials), topic), request.join_ref, request.ref)
        self._joining = channel
        self._events.append(JoinRequested(channel.handle, pattern, request.payload))

    def _put(self, channel: _Channel, item: Request | BroadcastOut, cost: int) -> None:
        channel.mailbox.append((item, cost))
        if channel.running is None and len(channel.mailbox) == 1:
            self._ready.append(channel)

    def _fits(self, joined: Any, request: Request) -> bool:
        sent, rule = request.join_ref, self._release.fits
        if rule is JoinRefRule.ANY and request.event != PHX_LEAVE:
            return True
        if joined is None and rule is not JoinRefRule.SAME_OR_NULL:
            return True
        if sent is None and rule is JoinRefRule.SAME_OR_NULL:
            return True
        return type(joined) is type(sent) and bool(joined == sent)  # 1, 1.0 and true are three different refs

    def _ended(self, channel: _Channel, event: str, payload: Any) -> None:
        if self._channels.get(channel.handle.topic) is channel:  # else it was replaced, and its end was sent
            del self._channels[channel.handle.topic]
            self._send_end(channel, event, payload)

    def _shutdown(self) -> None:
        code = 1012 if self._channels else self._host.shutdown_unjoined
        self._end_socket(Abort() if code is None else Close(code), code, "the server shuts down")

    def _close(self, code: int, reason: str, told: str = "") -> None:
        self._end_socket(Close(code, told), code, reason)

    # ---- a channel ---------------------------------------------------------------------------------------------------

    def _turn(self, channel: _Channel) -> None:
        if not channel.alive:
            return
        request, cost = channel.mailbox.popleft()
        self._waiting -= cost
        if isinstance(request, BroadcastOut):
            channel.running = request
            self._events.append(request)
        elif not isinstance(request.event, str):
            self._die(channel, Termination.CRASHED)
        elif request.event == PHX_LEAVE:
            frame = self.serializer.reply(channel.name, request.ref, channel.handle.topic, "ok", {})
            self._mail.append(partial(self._send, frame))
            self._die(channel, Termination.LEFT)
        else:
            channel.running = MessageIn(channel.handle, request.ref, request.event, request.payload)
            self._events.append(channel.running)

    def _die(self, channel: _Channel, reason: Termination) -> None:
        """End the channel; its end goes into the socket's mailbox, after its `last_words` if it may send any."""
        self._end_channel(channel, reason)
        if self._last_words:
            channel.ending = reason
        else:
            self._tell_end(channel, reason)

    def _tell_end(self, channel: _Channel, reason: Termination) -> None:
        channel.ending = None
        crashed = reason is Termination.CRASHED
        payload = {"reason": self._release.crash_reason} if crashed and self._release.crash_reason else {}
        self._mail.append(partial(self._ended, channel, PHX_ERROR if crashed else PHX_CLOSE, payload))

    def _end_channel(self, channel: _Channel, reason: Termination) -> None:
        channel.alive = False
        self._waiting -= sum(cost for _, cost in channel.mailbox)
        channel.mailbox.clear()
        self._events.append(ChannelTerminated(channel.handle, reason))

    # ---- the rest ----------------------------------------------------------------------------------------------------

    def _answer(self, call: str, channel: ChannelHandle, status: str, response: Any) -> None:
        if not self._open:
            return
        joining = self._joining
        if joining is None or joining.handle is not channel:
            raise InvalidState(call, "answered already")
        frame = self.serializer.reply(joining.join_ref, joining.ref, channel.topic, status, response)
        if status == "ok":
            joining.alive = True
            self._channels[channel.topic] = joining
        self._joining = None
        self._send(frame)
        self._run()

    def _stop(self, call: str, channel: ChannelHandle, reason: Termination) -> None:
        found = self._find(call, channel)
        if found is None:
            return
        if found.alive:
            self._die(found, reason)
            self._run()
        elif reason is Termination.CRASHED:
            found.ending = reason

    def _find(self, call: str, channel: ChannelHandle) -> _Channel | None:
        """The channel with this handle; `None` if it has ended.

        Raises:
            InvalidState: Its join waits for the answer.
        """
        if self._joining is not None and self._joining.handle is channel:
            raise InvalidState(call, "joining")
        found = self._speaking(channel.topic)
        return found if found is not None and found.handle is channel else None

    def _speaking(self, topic: str) -> _Channel | None:
        """The channel of the topic, unless it can send no more to its client."""
        channel = self._channels.get(topic)
        return channel if channel is not None and (channel.alive or channel.ending is not None) else None

    def _respond(self, join_ref: Any, request: Request, status: str, response: dict[str, Any]) -> None:
        self._send(self.serializer.reply(join_ref, request.ref, request.topic, status, response))

    def _send_end(self, channel: _Channel, event: str, payload: Any) -> None:
        ref = channel.join_ref
        self._send(self.serializer.push(ref, channel.handle.topic, event, payload, ref=ref))

    def _send(self, frame: str | bytes) -> None:
        self._commands.append(Send(frame))

    def _end_socket(self, command: Close | Abort | None, code: int | None, reason: str) -> None:
        if not self._open:
            return
        self._open = False
        self._deadline = None
        self._mail.clear()
        self._ready.clear()
        for channel in (*self._channels.values(), self._joining):
            if channel is not None and (channel.alive or channel is self._joining):
                self._end_channel(channel, Termination.CONNECTION)
        self._joining = None
        self._channels.clear()
        self._waiting = 0
        if command is not None:
            self._commands.append(command)
        self._events.append(SocketClosed(code, reason))


_ITEMS: Final[dict[Any, Callable[[Any], Iterable[Any]]]] = {list: iter, dict: lambda value: value.values()}
_CLOSE_CODES: Final = (range(1000, 1004), range(1007, 1015), range(3000, 5000))
_MAX_REASON: Final = 123  # bytes
_REPLY_SIZE: Final = 128  # the greatest size of a reply besides its refs
_LEVELS: Final = 32  # of nesting that can certainly be encoded, at any stack depth


def _shallow(value: Any, levels: int = _LEVELS) -> bool:
    items = _ITEMS.get(value.__class__)
    return items is None or (levels > 0 and all(_shallow(item, levels - 1) for item in items(value)))


def _matches(pattern: str, topic: str) -> bool:
    return topic.startswith(pattern[:-1]) if pattern.endswith("*") else topic == pattern
