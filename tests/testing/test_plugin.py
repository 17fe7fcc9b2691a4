"""The pytest plugin, in runs of pytest of its own."""

from collections.abc import Sequence

import pytest

pytest_plugins = ["pytester"]

PASSING = """
    def test_join(phx_peer, phx_clock):
        phx_peer.expect_join("room:lobby").reply({"ok": 1})
        assert phx_peer.driver().connect().join("room:lobby").result(0) == {"ok": 1}
        phx_clock.advance(30)
        assert phx_peer.clock is phx_clock
"""

ASYNC_MARK = "    import pytest\n    pytestmark = pytest.mark.asyncio\n"
ASYNC = """
    async def test_join(phx_peer):
        phx_peer.expect_join("room:lobby").reply({"ok": 1})
        assert phx_peer.driver().connect().join("room:lobby").result(0) == {"ok": 1}
"""

RUNS = {
    "without an asyncio plugin": ["-p", "no:asyncio"],
    "strict mode": ["--asyncio-mode=strict"],
    "auto mode": ["--asyncio-mode=auto"],
    "xdist": ["-n", "2"],
}


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """A run in a process of its own, in which every warning is an error."""
    scope = () if "no:asyncio" in arguments else ("-o", "asyncio_default_fixture_loop_scope=function")
    return pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider", *scope, *arguments)


def run_here(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """A run in this process, without plugins that would be imported anew: it is quicker."""
    plugins = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    return pytester.runpytest_inprocess(
        "-W", "error", *plugins, "-o", "asyncio_default_fixture_loop_scope=function", *arguments
    )


@pytest.mark.parametrize("arguments", RUNS.values(), ids=RUNS)
def test_the_fixtures_work_with_other_plugins_and_without(pytester: pytest.Pytester, arguments: Sequence[str]) -> None:
    pytester.makepyfile(PASSING)
    run(pytester, *arguments).assert_outcomes(passed=1)


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_the_fixtures_work_in_coroutine_tests(pytester: pytest.Pytester, mode: str) -> None:
    pytester.makepyfile((ASYNC_MARK if mode == "strict" else "") + ASYNC)
    run_here(pytester, f"--asyncio-mode={mode}").assert_outcomes(passed=1)


def test_what_was_not_expected_fails_the_test_itself(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test_join(phx_peer):
            phx_peer.driver().connect().join("room:lobby")
    """)
    result = run_here(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "The conversation did not go as expected.",
            "Came, and was not expected:",
            '  join of "room:lobby" {}',
            "The conversation:",
            "    0.000  client  connects to ws://peer.test/socket/websocket (vsn 2.0.0)",
        ]
    )
    result.stdout.no_fnmatch_line("*conversation with phx_peer*")
    report, _, _ = str(result.stdout).partition("short test summary")  # which repeats it where CI is set
    assert report.count("The conversation:") == 1


FAILING = """
    from phx_transports.threads import connect

    def test_push(phx_peer):
        with connect(phx_peer.url, transport=phx_peer):
            phx_peer.push("room:lobby", "shout")
"""


def test_a_failure_of_the_kits_shows_the_tests_own_line_and_none_of_the_kits(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILING)
    result = run_here(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(['>*phx_peer.push("room:lobby", "shout")', "E   *CannotPlay: The server cannot push*"])
    result.stdout.no_fnmatch_line("*network.py*")


def test_with_full_trace_it_shows_all(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILING)
    run_here(pytester, "--full-trace").stdout.fnmatch_lines(["*network.py*"])


def test_a_client_that_nobody_answers_is_ended_with_a_note(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from phx_transports.testing import Peer
        from phx_transports.threads import connect

        def test_join():
            with Peer(patience=0.01) as peer, connect(peer.url, transport=peer) as client:
                client.join("room:lobby")
    """)
    run_here(pytester).stdout.fnmatch_lines(
        ['E *note  nobody answers the join of "room:lobby": the client is ended', "E *client  drops the connection"]
    )


def test_a_failing_test_shows_the_conversation(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test_join(phx_peer):
            phx_peer.driver().connect()
            assert phx_peer.joined == ["room:lobby"]
    """)
    result = run_here(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- conversation with phx_peer -*",
            "    0.000  client  connects to ws://peer.test/socket/websocket (vsn 2.0.0)",
            "    0.000  server  accepts the connection",
        ]
    )


def test_a_failing_coroutine_test_shows_the_conversation(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ASYNC + "        assert False\n")
    result = run_here(pytester, "--asyncio-mode=auto")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*- conversation with phx_peer -*", '*client  joins "room:lobby" {}'])


def test_a_failing_test_shows_what_its_servers_wires_carried(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from phx_transports.server import ServerChannel, on
        from phx_transports.threads import connect

        class Room(ServerChannel):
            @on("shout")
            async def shout(self, payload):
                self.push("heard", payload)
                return {"token": "secret"}

        def test_it(phx_server):
            server = phx_server({"room:*": Room})
            with connect(server.url, proxy=None) as client:
                channel = client.join("room:lobby", {"since": 1})
                assert channel.push("shout", b"???").ok
                channel.leave()
                client.ping()
                client.reconnect()
                client.wait_connected()
            assert False
    """)
    result = run_here(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- conversation with phx_server -*",
            "*client  #1 connects",
            '*client  #1 joins "room:lobby" {"since":1}',
            '*server  #1 answers the join of "room:lobby" with ok {}',
            '*client  #1 pushes "shout" to "room:lobby" <3 bytes>',
            '*server  #1 pushes "heard" to "room:lobby" <3 bytes>',
            '*server  #1 answers the push "shout" on "room:lobby" with ok {"token":"…"}',
            '*client  #1 leaves "room:lobby"',
            '*server  #1 answers the leave of "room:lobby" with ok {}',
            '*server  #1 closes "room:lobby"',
            "*client  #1 sends a heartbeat",
            "*server  #1 answers the heartbeat with ok {}",
            "*client  #2 connects",
            "*client  #2 closes the connection with 1000",
        ],
        consecutive=False,
    )


def test_a_server_ends_with_its_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from phx_transports.server import ServerChannel
        from phx_transports.threads import connect
        import threading

        def test_join(phx_server):
            server = phx_server({"room:*": ServerChannel})
            with connect(server.url, proxy=None) as client:
                client.join("room:lobby")

        def test_nothing_is_left():
            assert not [thread for thread in threading.enumerate() if thread.name == "phx-test-server"]
    """)
    run_here(pytester).assert_outcomes(passed=2)


def test_the_plugin_brings_nothing_of_the_library_into_a_run_that_does_not_use_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_modules():
            library = {name for name in sys.modules if name.partition(".")[0] in ("phx_proto", "phx_transports")}
            assert library == {"phx_transports", "phx_transports.testing", "phx_transports.testing.plugin"}
    """)
    run(pytester).assert_outcomes(passed=1)


def test_the_kit_needs_neither_pytest_nor_hypothesis(pytester: pytest.Pytester) -> None:
    script = pytester.makepyfile(
        kit="""
        import sys

        sys.modules["pytest"] = sys.modules["hypothesis"] = None
        from phx_transports import testing

        assert [getattr(testing, name) for name in testing.__all__]
        assert not hasattr(testing, "nothing_of_this_name")
    """
    )
    assert pytester.runpython(script).ret == 0
