"""How the kit fails a test: always as an `AssertionError`, and with what is needed to understand it."""


class TestKitError(AssertionError):
    """The root of what the kit raises when a test does not hold."""

    __test__ = False  # for pytest, which would collect it by its name


class UnexpectedConversation(TestKitError):
    """What came was not expected, or what was expected did not come. The text gives the conversation so far."""


class CannotPlay(TestKitError):
    """The test asks the peer for what a server could not do at this point, e.g. push to a topic that is not joined."""


class NothingHandled(TestKitError):
    """No handler is registered for the message that was delivered."""


class NotScripted(TestKitError):
    """A handler pushed on a channel stand-in what the test gave no reply for."""
