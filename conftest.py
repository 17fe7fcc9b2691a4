"""For all tests: a shell starts what runs in its background with Ctrl+C ignored, and commands under test inherit it."""

import signal

#: Says at the end how many tests are synchronous.
pytest_plugins = ["tests.counted"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
