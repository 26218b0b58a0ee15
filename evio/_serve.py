"""`serve`, the one function: it checks what it is given, listens, and lets an engine run."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ._engine import loop_for
from ._listen import Address, listening, parse_net, socket_options
from ._types import Accept, Closed, Frame, Handle, Ticker

_MAX_SECONDS = 1e9  # 31 years: more is a mistake, and would overflow a clock in nanoseconds
# Clients have the listener's options where the system lets them inherit: five calls less for each, 6 % of a short
# connection. Not set on a listener of the caller's, who has not asked for that.
_INHERITS = sys.platform == "linux"
_MAX_KEEPALIVE = 32767  # Linux's MAX_TCP_KEEPIDLE, the smallest of the systems' limits


def serve(
    net: str,
    addr: Address,
    handle: Handle | None = None,
    accept: Accept | None = None,
    closed: Closed | None = None,
    ticker: Ticker | None = None,
    ctx: Any = None,
    *,
    frame: Frame | None = None,
    idle_timeout: float | None = None,
    max_conns: int | None = None,
    max_pending: int = 64 * 1024 * 1024,
    linger: float = 5.0,
    nodelay: bool = True,
    keepalive: int | None = 300,
) -> None:
    """Listen on an address and serve its clients until the ticker returns False.

    All callbacks run in the calling thread, one at a time, never nested. `handle` and `accept`
    return a reply: the pair `(send, keepopen)`, or either half alone: what to send (None, a
    bytes-like object, or a list of them), or a bool that tells whether the connection stays open.

    Args:
        net: "tcp", "tcp4", "tcp6" or "unix"; with "-compat" behind it the portable engine serves.
        addr: "host:port", ":port", "[v6]:port", a path for unix ("@name" for an abstract one), or
            a listening socket.socket, which stays open and the caller's.
        handle: `handle(id, data, ctx)`, called when data has arrived, or with b"" after `wake()`.
            Returns a reply. None drops what arrives.
        accept: `accept(id, addr, wake, ctx)`, called when a client has connected. Returns a reply.
        closed: `closed(id, err, ctx)`, called once for each connection when it is gone. `err` is
            None or the exception that ended it. What it returns is ignored.
        ticker: `ticker(ctx)`, called once before the first accept, then 1 to 60 times a second.
            Returns False to stop the server.
        ctx: passed to every callback as it is.
        frame: evio.Lines, evio.Prefixed, evio.resp.Commands, evio.resp.Runs, or an object whose
            `decoder()` makes a decoder for each connection; `handle` is then given the list of
            messages that the decoder's `feed(data)` returned.
        idle_timeout: seconds without a byte in either direction after which a connection is
            closed with TimeoutError; None for never.
        max_conns: how many connections are open at a time; more wait in the backlog. None for no limit.
        max_pending: how many bytes may wait for a client to read them, before queueing more
            closes its connection with BufferError. One reply may be of any size.
        linger: seconds that a closing connection has for its last replies.
        nodelay: whether TCP_NODELAY is set.
        keepalive: seconds of silence after which TCP keepalive probes; None or 0 for never.

    Returns:
        None, once the ticker has returned False and every connection is closed.

    Raises:
        TypeError, ValueError: an argument is not what it may be.
        OSError, socket.gaierror: the address cannot be resolved, bound or listened on.
        RuntimeError: called from inside a callback, or the process was forked in one.
        BaseException: what `ticker` raised, or a KeyboardInterrupt, SystemExit or other
            non-Exception from any callback or signal handler, after every connection was closed.
    """
    net, compat = parse_net(net)
    for name, callback in (("handle", handle), ("accept", accept), ("closed", closed), ("ticker", ticker)):
        if callback is not None and not callable(callback):
            raise TypeError(f"{name} must be callable or None, not {type(callback).__name__}")
    if frame is not None and not callable(getattr(frame, "decoder", None)):
        raise TypeError(f"frame must have a decoder() method or be None, not {type(frame).__name__}")
    if not isinstance(nodelay, bool):
        raise TypeError(f"nodelay must be a bool, not {type(nodelay).__name__}")
    limits = (
        0.0 if idle_timeout is None else _seconds("idle_timeout", idle_timeout, above_zero=True),
        0 if max_conns is None else _integer("max_conns", max_conns, 1, sys.maxsize),
        _integer("max_pending", max_pending, 0, sys.maxsize),
        _seconds("linger", linger),
    )
    keepalive = 0 if keepalive is None else _integer("keepalive", keepalive, 0, _MAX_KEEPALIVE)
    with _not_nested(), listening(net, addr) as listener, _Interrupts() as interrupts:
        if _INHERITS and net != "unix" and not isinstance(addr, socket.socket):
            for option in socket_options(nodelay, keepalive):
                listener.setsockopt(*option)
            nodelay, keepalive = False, 0  # there is nothing left to set
        fds = listener.fileno(), interrupts.fileno()
        loop = loop_for(compat)(*fds, handle, accept, closed, ticker, ctx, frame, *limits, nodelay, keepalive)

        def leave() -> None:
            loop.abandon()
            listener.close()
            interrupts.close()

        _servers.add(leave)
        try:
            loop.run()
        finally:
            _servers.discard(leave)


def _integer(name: str, value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}, not {value}")
    return value


def _seconds(name: str, value: object, above_zero: bool = False) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 <= value <= _MAX_SECONDS or (above_zero and value == 0):
        raise ValueError(
            f"{name} must be {'above 0' if above_zero else 'from 0'} to {_MAX_SECONDS:g} seconds, not {value}"
        )
    return float(value)


_thread = threading.local()


@contextlib.contextmanager
def _not_nested() -> Iterator[None]:
    if getattr(_thread, "serving", False):
        raise RuntimeError("evio.serve was called from inside a callback; another thread can serve beside this one")
    _thread.serving = True
    try:
        yield
    finally:
        _thread.serving = False


class _Interrupts:
    """Makes a signal wake the loop, whichever thread the kernel gives it to, in the thread that runs handlers."""

    def __init__(self) -> None:
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._previous = -1

    def __enter__(self) -> _Interrupts:  # not in __init__: `with` may fail between the two, and then calls no __exit__
        if threading.current_thread() is threading.main_thread():
            self._pair = socket.socketpair()
            try:
                for end in self._pair:
                    end.setblocking(False)
                self._previous = signal.set_wakeup_fd(self._pair[1].fileno(), warn_on_full_buffer=False)
            except BaseException as error:
                self._close_pair()
                if not isinstance(error, ValueError):  # the main thread of a subinterpreter: signals are not its affair
                    raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when a signal has come, or -1."""
        return -1 if self._pair is None else self._pair[0].fileno()

    def close(self) -> None:
        """Put the earlier wakeup descriptor back. A second call does nothing."""
        if self._pair is not None:
            try:
                self._put_back()
            except MemoryError:  # the call takes some; now there may be, and a closed descriptor must not stay there
                self._put_back()
            finally:
                self._close_pair()

    def _put_back(self) -> None:
        try:
            signal.set_wakeup_fd(self._previous)
        except (OSError, ValueError):  # a callback closed it meanwhile
            signal.set_wakeup_fd(-1)

    def _close_pair(self) -> None:
        assert self._pair is not None
        for end in self._pair:
            end.close()
        self._pair = None


#: For each server that runs in this process, what makes a forked child leave it alone.
_servers: set[Callable[[], None]] = set()


def _leave_servers() -> None:
    for leave in tuple(_servers):
        leave()
    _servers.clear()
    _thread.serving = False


if sys.platform != "win32" and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_servers)
