"""The count of synchronous tests that the suite prints (see `counted.py`)."""

import pytest

pytest_plugins = ["pytester"]

#: Three synchronous tests and one on an event loop.
SUITE = """
    import asyncio
    import pytest
    from hypothesis import given, strategies

    @pytest.mark.parametrize("number", [1, 2])
    def test_plain(number): ...

    @given(strategies.booleans())
    def test_property(value): ...

    @pytest.mark.asyncio
    async def test_on_a_loop(): ...
"""
ASYNC_PROPERTY = """
    import pytest
    from hypothesis import given, strategies

    @pytest.mark.asyncio
    @given(strategies.booleans())
    async def test_property_on_a_loop(value): ...
"""
COUNTED = "3 of 4 tests are synchronous (75.0 %)"


@pytest.fixture(autouse=True)
def _as_the_suite_is_run(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nasyncio_mode = strict\nasyncio_default_fixture_loop_scope = function\n")


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "tests.counted", "-p", "no:cacheprovider", *options)


@pytest.mark.parametrize("options", [(), ("-q",), ("-n", "1")], ids=["alone", "quiet", "xdist"])
def test_the_count_is_printed(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    pytester.makepyfile(SUITE)
    result = run(pytester, *options)
    assert result.ret == 0
    assert COUNTED in result.outlines


def test_a_property_of_a_coroutine_function_runs_on_a_loop(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ASYNC_PROPERTY)
    assert "0 of 1 tests are synchronous (0.0 %)" in run(pytester).outlines


def test_only_selected_tests_count(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    assert "2 of 2 tests are synchronous (100.0 %)" in run(pytester, "-k", "plain").outlines


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_a_run_under_the_floor_fails_and_says_so(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    pytester.makepyfile(SUITE)
    result = run(pytester, "--sync-floor=75.1", *options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "At least 75.1 % of the tests are to be synchronous." in result.outlines


def test_a_run_at_the_floor_passes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    assert run(pytester, "--sync-floor=75").ret == 0
