"""For all tests: how many examples a property gets, and that Ctrl+C reaches the commands under test.

These are always the same. `--hypothesis-profile` chooses another number: `soak` for more and longer runs, other
ones every time, and `mutation` for a run that is repeated thousands of times: fewer.
"""

import asyncio
import signal

from hypothesis import HealthCheck, Phase, settings

#: The first says at the end how many tests are synchronous.
pytest_plugins = ["tests.counted", "tests.fixtures", "tests.simulated", "tests.long_runs"]

settings.register_profile("suite", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("soak", max_examples=1500, derandomize=False, stateful_step_count=100, deadline=None)
settings.register_profile(
    "mutation",
    max_examples=15,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),  # whether it fails is asked, and not with what least example
    suppress_health_check=list(HealthCheck),  # a mutant may be slow; that is no finding
)
settings.load_profile("suite")

# A shell starts what runs in its background with Ctrl+C ignored, and commands under test inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# pytest-asyncio gets the main thread's event loop; unless one is set, asyncio makes one that nothing closes.
asyncio.set_event_loop(None)
