"""The native engine. What its loop and its wakes promise is said in `_engine.Loop` and `_wake.Wake`."""

from typing import Any, Self, final

from . import _wake
from ._types import Accept, BytesLike, Closed, Frame, Handle, Ticker

#: "epoll" or "kqueue".
POLLER: str

@final
class Wake(_wake.Wake):
    @property
    def id(self) -> int: ...
    def __call__(self, data: BytesLike | None = None, /) -> bool: ...

@final
class Loop:
    def __new__(
        cls,
        listener: int,
        interrupts: int,
        handle: Handle | None,
        accept: Accept | None,
        closed: Closed | None,
        ticker: Ticker | None,
        ctx: Any,
        frame: Frame | None,
        idle_timeout: float,
        max_conns: int,
        max_pending: int,
        linger: float,
        nodelay: bool,
        keepalive: int,
        /,
    ) -> Self: ...
    def run(self) -> None: ...
    def abandon(self) -> None: ...
