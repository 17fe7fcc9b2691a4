"""Handlers and the router that finds them; both pure, and independent of the transport."""

from .handler import Handler, HandlerKind
from .router import Dispatch, Router

__all__ = ["Dispatch", "Handler", "HandlerKind", "Router"]
