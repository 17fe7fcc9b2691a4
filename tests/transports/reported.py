"""What clients report of their handlers, kept for tests to look at."""

from typing import Any

from phx_transports.client.reports import HandlerError


class Reports:
    """An `on_handler_error` that keeps what it is told."""

    def __init__(self) -> None:
        self.all: list[HandlerError] = []

    def __call__(self, report: HandlerError) -> None:
        self.all.append(report)

    def told(self) -> list[tuple[str, Any, str]]:
        return [
            (report.name.rpartition(".")[2], report.message.payload, type(report.error).__name__) for report in self.all
        ]
