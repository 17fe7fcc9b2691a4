"""How the kit fails a test: always by an `AssertionError`, with the information to understand it."""


class TestKitError(AssertionError):
    """The base class of the kit's errors."""

    __test__ = False  # for pytest, which would collect it by its name


class UnexpectedConversation(TestKitError):
    """Something unexpected came, or something expected did not. The text shows the conversation so far."""


class CannotPlay(TestKitError):
    """The test asks the peer for something that a server cannot do now, e.g. push to a topic that is not joined."""


class NothingHandled(TestKitError):
    """No handler is registered for the message that was delivered."""


class NotScripted(TestKitError):
    """A handler pushed an event on a fake channel for which the test set no reply."""
