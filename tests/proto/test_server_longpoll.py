"""Long polling on the server's side: the answer to each request, and its time."""

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phx_proto.formats import V2Server
from phx_proto.server import (
    Abort,
    ChannelHandle,
    Close,
    JoinRequested,
    MessageIn,
    PollAnswer,
    PollRequest,
    Polls,
    PollSession,
    Send,
    ServerOptions,
    ServerProtocol,
)

JOIN = '["1","1","room:a","phx_join",{}]'
JOINED = '["1","1","room:a","phx_reply",{"status":"ok","response":{}}]'
HEARTBEAT = '[null,"9","phoenix","heartbeat",{}]'
PONG = '[null,"9","phoenix","phx_reply",{"status":"ok","response":{}}]'


class Site:
    """One mount with one session at most, whose channels answer at once unless they are held."""

    def __init__(self) -> None:
        self.polls = Polls()
        self.now = 0.0
        self.answers: list[PollAnswer] = []
        self.hold = False
        self.joins: list[ChannelHandle] = []
        self.heard: list[str] = []
        self.session: PollSession | None = None
        self.socket: ServerProtocol | None = None

    def opened(self) -> "Site":
        request = PollRequest("GET")
        assert self.polls.request(request, self.now) is None
        self.polls.openings.remove(request)
        self.session = self.polls.open(request, "T", self.now)
        self.socket = ServerProtocol(V2Server(), ("room:*",), options=ServerOptions(timeout=None), now=self.now)
        self._pump()
        assert self.answered(request) == {"status": 410, "token": "T", "messages": []}
        return self

    def get(self, token: str = "T") -> PollRequest:
        return self.ask(PollRequest("GET", token))

    def post(self, *lines: str, kind: str = "application/x-ndjson") -> PollRequest:
        return self.ask(PollRequest("POST", "T", kind, "\n".join(lines).encode()))

    def ask(self, request: PollRequest) -> PollRequest:
        self.polls.request(request, self.now)
        self._pump()
        return request

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.polls.timers.next()) is not None and due <= end:
            self.now = due
            self.polls.timers.fire(due)
            self._pump()
        self.now = end

    def accept(self) -> None:
        """The joins that were held are accepted."""
        assert self.socket is not None
        self.hold = False
        while self.joins:
            self.socket.accept(self.joins.pop(0))
            self._pump()

    def answered(self, request: PollRequest) -> Any:
        """What was answered to it, taken out; `None` while nothing was."""
        for answer in self.answers:
            if answer.request is request:
                self.answers.remove(answer)
                return json.loads(answer.body) if answer.status == 200 else answer.status
        return None

    def push(self, payload: Any) -> None:
        assert self.socket is not None
        self.socket.broadcast("room:a", "news", payload)
        self._pump()

    def _pump(self) -> None:
        session, socket = self.session, self.socket
        if session is not None and socket is not None:
            self._work(socket, session)
            while socket.ready and (frame := session.take(self.now)) is not None:
                socket.receive(frame, self.now)
                self._work(socket, session)
            session.flush()
        self.answers += self.polls.answers
        self.polls.answers.clear()

    def _work(self, socket: ServerProtocol, session: PollSession) -> None:
        for event in socket.events():
            match event:
                case JoinRequested(channel) if self.hold:
                    self.joins.append(channel)
                case JoinRequested(channel):
                    socket.accept(channel)
                case MessageIn():
                    self.heard.append(event.event)
                    socket.finish(event)
                case _:
                    pass
        for command in socket.commands():
            match command:
                case Send(data):
                    session.put(data)
                case Close() | Abort():
                    session.end()


def polled(*messages: str, status: int = 200) -> dict[str, Any]:
    return {"status": status, "token": "T", "messages": list(messages)}


# ---- polls ----------------------------------------------------------------------------------------------------------


def test_a_poll_is_answered_at_once_with_all_that_waits() -> None:
    site = Site().opened()
    site.post(JOIN, HEARTBEAT)
    assert site.session is not None
    assert site.session.buffered == len(JOINED) + len(PONG)
    assert site.answered(site.get()) == polled(JOINED, PONG)
    assert site.session.buffered == 0


def test_a_poll_waits_for_messages() -> None:
    site = Site().opened()
    site.post(JOIN)
    site.answered(site.get())
    poll = site.get()
    site.wait(9.9)
    assert site.answered(poll) is None
    site.push({"n": 1})
    assert site.answered(poll) == polled('[null,null,"room:a","news",{"n":1}]')


def test_a_poll_that_nothing_came_for_is_answered_after_its_window() -> None:
    site = Site().opened()
    poll = site.get()
    site.wait(10)
    assert site.answered(poll) == polled(status=204)


def test_a_second_poll_takes_the_messages() -> None:
    site = Site().opened()
    first, second = site.get(), site.get()
    site.post(HEARTBEAT)
    assert site.answered(second) == polled(PONG)
    site.wait(10)
    assert site.answered(first) == polled(status=204)


def test_what_comes_after_the_connection_of_a_poll_is_gone_is_kept_for_the_next() -> None:
    site = Site().opened()
    assert site.session is not None
    poll = site.get()
    site.session.forget(poll)
    site.post(HEARTBEAT)
    assert site.answered(poll) is None
    assert site.answered(site.get()) == polled(PONG)


def test_the_end_of_another_connection_is_not_that_of_the_poll() -> None:
    site = Site().opened()
    assert site.session is not None
    poll = site.get()
    site.session.forget(PollRequest("GET"))
    site.post(HEARTBEAT)
    assert site.answered(poll) == polled(PONG)


@pytest.mark.parametrize("polls", [1, 2])
def test_what_comes_after_a_poll_without_messages_waits_for_the_next(polls: int) -> None:
    site = Site().opened()
    for poll in [site.get() for _ in range(polls)]:
        site.wait(10)
        assert site.answered(poll) == polled(status=204)
    site.post(HEARTBEAT)
    assert site.answers == [] or site.session is None or site.session.buffered
    assert site.answered(site.get()) == polled(PONG)


def test_bytes_come_mangled_or_not_at_all() -> None:
    site = Site().opened()
    site.post(JOIN)
    site.answered(site.get())
    site.push(b"\x01")
    assert site.answered(site.get()) == polled("\x02\x06\x04room:anews\x01")
    site.push(b"\xff")
    assert site.answered(site.get()) == 500


# ---- posts ----------------------------------------------------------------------------------------------------------


def test_a_post_is_answered_when_every_message_was_handled() -> None:
    site = Site().opened()
    site.hold = True
    post = site.post(JOIN, '["1","2","room:a","shout",{}]')
    site.wait(5)
    assert site.answered(post) is None
    site.accept()
    assert site.answered(post) == {"status": 200}
    assert site.heard == ["shout"]


def test_a_message_that_is_not_handled_in_time_ends_its_post_and_may_be_handled_later() -> None:
    site = Site().opened()
    site.hold = True
    first = site.post(JOIN, '["1","2","room:a","dropped",{}]', HEARTBEAT)
    site.wait(1)
    site.wait(9)
    assert site.answered(first) == {"status": 408}
    site.accept()
    assert site.heard == []
    assert site.answered(site.get()) == polled(JOINED)


def test_a_post_behind_one_that_is_not_handled_keeps_its_next_message_alone() -> None:
    site = Site().opened()
    site.post(JOIN)
    site.hold = True
    held = '["3","3","room:b","phx_join",{}]'
    shout = '["1","4","room:a","shout",{}]'
    assert site.session is not None
    first, second = (
        PollRequest("POST", "T", "application/x-ndjson", held.encode()),
        PollRequest("POST", "T", "application/x-ndjson", f"{shout}\n{shout}".encode()),
    )
    for request in (first, second):  # both are let in before the join is handled
        site.polls.request(request, site.now)
    site._pump()
    site.wait(10)
    assert (site.answered(first), site.answered(second)) == ({"status": 408}, {"status": 408})
    site.accept()
    assert site.heard == ["shout"]


def test_a_poll_that_was_answered_while_the_session_was_busy_delays_no_post_behind_it() -> None:
    site = Site().opened()
    site.hold = True
    requests = [PollRequest("POST", "T", "application/x-ndjson", JOIN.encode()), PollRequest("GET", "T")]
    for request in requests:  # both are let in before the join is handled
        site.polls.request(request, site.now)
    site._pump()
    site.wait(9)
    post = site.post(HEARTBEAT)
    site.wait(1)
    assert [site.answered(request) for request in requests] == [{"status": 408}, polled(status=204)]
    site.accept()
    assert site.answered(post) == {"status": 200}


def test_only_a_hundred_messages_of_a_post_are_handled() -> None:
    site = Site().opened()
    site.post(JOIN)
    post = site.post(*(f'["1","{n}","room:a","m{n}",{{}}]' for n in range(2, 152)))
    assert site.answered(post) == {"status": 200}
    assert len(site.heard) == 100


def test_lines_may_end_as_on_windows() -> None:
    site = Site().opened()
    binary = b64encode(b"\x00\x01\x01\x06\x0312room:aone").decode()
    body = "\r\n".join((JOIN, binary, '["1","3","room:a","two",{}]')).encode()
    post = site.ask(PollRequest("POST", "T", "application/x-ndjson", body))
    assert (site.answered(post), site.heard) == ({"status": 200}, ["one", "two"])


def test_bytes_are_posted_in_base64() -> None:
    site = Site().opened()
    site.post(JOIN, b64encode(b"\x00\x01\x01\x06\x0312room:abin\xff").decode())
    assert site.heard == ["bin"]


def test_a_body_of_another_type_is_one_message() -> None:
    site = Site().opened()
    assert site.answered(site.post('["1","1",\n"room:a","phx_join",{}]', kind="application/json")) == {"status": 200}
    assert site.answered(site.get()) == polled(JOINED)


def test_what_is_no_base64_is_an_error_of_http_and_the_session_lives() -> None:
    site = Site().opened()
    assert site.answered(site.post(JOIN, "no base64!")) == 500
    assert site.answered(site.post(HEARTBEAT)) == {"status": 200}


@pytest.mark.parametrize("line", ["[not json", "", "[1,2]", "\udcff[]"])
def test_a_malformed_message_kills_the_session_and_nobody_is_told(line: str) -> None:
    site = Site().opened()
    poll = site.get()
    post = site.ask(PollRequest("POST", "T", "application/x-ndjson", line.encode("utf-8", "surrogateescape") or b"\n"))
    if site.answered(post) == 500:  # it was taken for base64
        return
    site.wait(9.9)
    assert site.answered(poll) is None
    site.wait(0.1)
    assert site.answered(poll) == polled(status=204)
    assert site.answered(post) == {"status": 408}


# ---- sessions -------------------------------------------------------------------------------------------------------


def test_a_session_that_is_gone_takes_no_notice() -> None:
    site = Site().opened()
    assert site.socket is not None
    site.socket.disconnect()
    site._pump()
    assert site.session is not None
    site.session.put("too late")
    post, poll = site.post(HEARTBEAT), site.get()
    site.wait(1.9)
    assert site.answered(post) is None
    site.wait(0.1)
    assert site.answered(post) == {"status": 410}
    assert site.polls.openings == [poll]
    assert not site.session._mail  # nothing is kept of them


def test_so_it_is_with_one_that_is_busy_with_a_join_for_longer_than_that() -> None:
    site = Site().opened()
    site.hold = True
    site.post(JOIN)
    post = site.post(HEARTBEAT)
    site.wait(2)
    assert site.answered(post) == {"status": 410}
    site.accept()
    assert site.answered(site.get()) == polled(JOINED)


def test_a_poll_that_was_answered_while_the_session_was_busy_is_given_no_messages() -> None:
    site = Site().opened()
    site.hold = True
    site.post(JOIN)
    post, poll = PollRequest("POST", "T", "", JOIN.replace("room:a", "room:b").encode()), PollRequest("GET", "T")
    site.polls.request(post, site.now)
    site.polls.request(poll, site.now)
    assert site.socket is not None
    site.socket.accept(site.joins.pop())
    site._pump()
    site.wait(10)
    assert site.answered(post) == {"status": 408}
    assert site.answered(poll) == polled(status=204)
    site.accept()
    assert site.answered(site.get()) == polled(JOINED, JOINED.replace("room:a", "room:b"))


def test_a_session_without_polls_ends_after_one_and_a_half_windows_or_two_times_that() -> None:
    site = Site().opened()
    site.wait(4)
    site.answered(site.get())
    site.post(HEARTBEAT)
    site.wait(25.9)
    assert site.polls.expired == []
    site.wait(0.1)
    assert site.polls.expired == [site.session]


@pytest.mark.parametrize(("polled_at", "ends_at"), [(0, 30), (14, 30), (15, 45), (16, 45)])
def test_a_session_is_looked_at_every_one_and_a_half_windows(polled_at: float, ends_at: float) -> None:
    site = Site().opened()
    if polled_at:
        site.wait(polled_at)
        site.get()
    site.wait(ends_at - polled_at - 0.1)
    assert site.polls.expired == []
    site.wait(0.1)
    assert site.polls.expired == [site.session]


def test_an_ended_session_is_forgotten_after_a_while() -> None:
    site = Site().opened()
    assert site.session is not None
    site.session.end()
    site.wait(54)
    assert site.polls.sessions
    site.wait(1)
    assert not site.polls.sessions
    assert site.answered(site.post(HEARTBEAT)) == {"status": 410}


def test_a_token_of_no_session_opens_one_with_get_alone() -> None:
    site = Site().opened()
    poll = site.get("null")
    assert site.polls.openings == [poll]
    assert site.answered(site.ask(PollRequest("POST", "null"))) == {"status": 410}


def test_openings_that_are_refused_or_fail() -> None:
    site = Site()
    for end, answer in ((site.polls.refuse, {"status": 403}), (site.polls.crash, 500)):
        request = site.get("x")
        end(request)
        site._pump()
        assert site.answered(request) == answer


def test_other_methods_are_refused() -> None:
    site = Site()
    site.ask(PollRequest("PUT"))
    (answer,) = site.answers
    assert (answer.status, answer.body) == (400, b"")


def test_an_error_of_the_server_has_the_body_of_phoenix() -> None:
    site = Site()
    site.polls.crash(site.get("x"))
    site._pump()
    (answer,) = site.answers
    assert (answer.status, json.loads(answer.body)) == (500, {"errors": {"detail": "Internal Server Error"}})


def test_nothing_secret_is_shown() -> None:
    site = Site().opened()
    request = PollRequest("POST", "sekret", "", b"sekret")
    answer = PollAnswer(request, 200, b"sekret")
    assert "sekret" not in f"{request!r} {answer!r} {site.session!r}"
    assert repr(site.session) == "PollSession(alive, 0 bytes)"
    assert site.session is not None
    site.session.end()
    assert (repr(site.session), site.session.buffered) == ("PollSession(over, 0 bytes)", 0)


BODIES = st.one_of(
    st.binary(max_size=30),
    st.lists(st.sampled_from([JOIN, HEARTBEAT, "[", "AAAA", "", '["1","2","room:a","x",{}]']), max_size=5).map(
        lambda lines: "\n".join(lines).encode()
    ),
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["GET", "GET", "POST", "POST", "HEAD"]),
            st.sampled_from(["T", "T", "T", "other"]),
            st.sampled_from(["application/x-ndjson", "application/json"]),
            BODIES,
            st.sampled_from([0.0, 0.0, 1.0, 12.0]),
        ),
        max_size=12,
    )
)
def test_every_request_is_answered_once(steps: list[tuple[str, str, str, bytes, float]]) -> None:
    site = Site().opened()
    asked = []
    for method, token, kind, body, seconds in steps:
        asked.append(site.ask(PollRequest(method, token, kind, body)))
        site.wait(seconds)
    site.wait(1000)
    answered = [answer.request for answer in site.answers] + site.polls.openings
    assert sorted(map(id, answered)) == sorted(map(id, asked))
