"""Makes an address: params and token may be callables, which the adapter must call first, at each attempt."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .core import Core
from .endpoint import Address, Endpoint
from .errors import ConnectError, InvalidEndpoint, ResolveFailed
from .transports import TransportName


@dataclass(eq=False, repr=False)  # a repr of its values would show secrets
class Dialer:
    """Has the adapter call an endpoint's callables, and makes the address of one attempt from their values."""

    endpoint: Endpoint
    core: Core
    on_address: Callable[[Address, float], None]
    on_failure: Callable[[ConnectError, float], None]
    _transport: TransportName = "websocket"  # of this attempt
    _questions: dict[int, str] = field(default_factory=dict[int, str])  # unanswered, with the callable's name
    _values: dict[str, Any] = field(default_factory=dict[str, Any])

    def begin(self, transport: TransportName, now: float) -> None:
        """Ends in one of the two callbacks: at once if there is no callable."""
        self._transport = transport
        providers = self.endpoint.providers
        self._values = {name: value for name, value in self.endpoint.given.items() if name not in providers}
        self._questions = {self.core.resolve(provider, self): name for name, provider in providers.items()}
        if not self._questions:
            self._finish(now)

    def stop(self) -> None:
        """Drop the attempt; late answers are ignored."""
        for request in self._questions:
            self.core.resolving.pop(request, None)
        self._questions = {}

    def resolved(self, request: int, value: Any, now: float) -> None:
        self._values[self._questions.pop(request)] = value
        if not self._questions:
            self._finish(now)

    def resolve_failed(self, request: int, error: BaseException, now: float) -> None:
        """A callable has raised: the attempt fails, and other values are ignored."""
        name = self._questions.pop(request)
        self.stop()
        problem = f"the callable for {name} raised {type(error).__name__}"
        self.on_failure(ResolveFailed(problem, raised=error), now)

    def _finish(self, now: float) -> None:
        try:
            address = self.endpoint.request(self.core.serializer.vsn, **self._values, transport=self._transport)
        except InvalidEndpoint as error:  # static values were checked when the endpoint was made
            self.on_failure(ResolveFailed(str(error)), now)
        else:
            self.on_address(address, now)
