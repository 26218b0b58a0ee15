"""Which engine a net runs on: the choice and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from . import _portable
from ._extension import native

if TYPE_CHECKING:
    from ._types import Accept, Closed, Frame, Handle, Ticker


class Loop(Protocol):
    """One server. Both engines have a class of this shape; `evio._serve` is its one caller.

    Args:
        listener: the descriptor of a listening, non-blocking socket. The loop does not own it.
        interrupts: a descriptor that becomes readable when a signal has come, or -1.

    The rest are serve's arguments, already checked; 0 stands for None in the numbers.
    """

    def __init__(
        self,
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
    ) -> None: ...

    def run(self) -> None:
        """Serve until the ticker stops it. Called once."""

    def abandon(self) -> None:
        """Close every descriptor of the loop's own, in a child that was forked beside or inside it.

        Nothing that the parent shares is changed. Wakes return False from here on, and a `run`
        that the fork came out of raises RuntimeError once the callback has returned.
        """


#: What `tcp` runs on: "epoll", "kqueue" or "selectors".
engine: str = native.POLLER if native is not None else "selectors"


def loop_for(compat: bool) -> Callable[..., Loop]:
    """Return the class of loop that serves, the portable one where `compat` asks for it."""
    return _portable.Loop if compat or native is None else native.Loop
