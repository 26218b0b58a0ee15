"""The portable engine: all of serve's contract on the stdlib's `selectors` and `socket`, in one thread.

It serves where the native engine is not built, and it can be read as the specification of both.
docs/design.md has the table of states and the reasons for what is decided here.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from errno import (
    EAGAIN,
    EBADF,
    ECONNRESET,
    EFAULT,
    EINVAL,
    EMFILE,
    ENFILE,
    ENOBUFS,
    ENOMEM,
    ENOSPC,
    ENOTSOCK,
    EWOULDBLOCK,
)
from itertools import takewhile
from math import inf
from threading import RLock
from time import monotonic
from typing import Any

from . import _faults, _replies, _wake
from ._decoders import FrameError
from ._frames import portable_decoder
from ._listen import duplicate, socket_options
from ._types import Accept, Closed, Decoder, Frame, Handle, Ticker
from ._wake import BytesLike

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_OPEN, _FLUSHING, _DRAINING, _CLOSED = range(4)  # the states of a connection, which never go back

_READ_MIN, _READ_MAX = 16 * 1024, 256 * 1024  # what one recv takes: more for a connection that fills it
_SEND_MAX = 1024 * 1024  # what one connection may send in one go before others have their turn
_PIECES_MAX = 64 if hasattr(socket.socket, "sendmsg") else 1  # of one send; more brings nothing, Windows takes one
_HIGH_WATER = 256 * 1024  # unsent bytes beyond which a connection is not read
_ACCEPT_BURST = 64  # clients accepted in one turn: a flood of them must not keep the others waiting
_ACCEPT_PAUSE = 0.25  # seconds that the listener rests when there is no descriptor or memory for a client
_TICK_BUSY, _TICK_QUIET = 1 / 60, 1.0  # seconds from tick to tick
_SLEEP_MAX = 1e6  # seconds: pollers count milliseconds in 32 bits
_CONNS_MAX = 509 if issubclass(selectors.DefaultSelector, selectors.SelectSelector) else sys.maxsize  # Windows: 512 - 3

# For programs that have put SIGPIPE back to its default. PyPy has no name for it.
_SEND_FLAGS: int = getattr(socket, "MSG_NOSIGNAL", 0x4000 if sys.platform == "linux" else 0)
_WOULD_BLOCK = {EAGAIN, EWOULDBLOCK, ENOBUFS}  # ENOBUFS is how some systems say that a socket's buffer is full
_EXHAUSTED = {EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC}  # accepting, or watching one more, would fail again at once
_BROKEN = {EBADF, EFAULT, EINVAL, ENOTSOCK}  # the listener is not one any more

_PARALLEL = not getattr(sys, "_is_gil_enabled", lambda: True)()  # threads run at once

_FORKED = "evio.serve cannot go on in a forked child: it belongs to the parent"


class Wake(_wake.Wake):
    """What `accept` is given. It refers to its loop and connection for as long as that is open, and no longer."""

    __slots__ = ("__weakref__", "_id", "_target")

    _id: int
    _target: tuple[Loop, _Connection] | None
    # In the class: at shutdown a module's names may be gone.
    _finalizing: Callable[[], bool] = staticmethod(sys.is_finalizing)

    @property
    def id(self) -> int:
        """The connection's id, as the callbacks are given it."""
        return self._id

    def __call__(self, data: BytesLike | None = None, /) -> bool:
        target = self._target
        if self._finalizing():
            return False
        if data is not None and type(data) is not bytes:
            data = _replies.octets(data)
        return target is not None and target[0].wake(target[1], data)

    def __repr__(self) -> str:
        target = self._target
        return f"<evio.Wake id={self._id} {'open' if target is not None and target[1].wakes_are_taken() else 'closed'}>"


@dataclass(slots=True, eq=False)
class _Connection:
    """One client. The loop's alone, but for the last five members, which wakes share."""

    id: int
    sock: socket.socket
    wake: Wake
    decoder: Decoder | None = None
    events: int = _READ  # what the selector watches
    read_size: int = _READ_MIN
    eof: bool = False  # the peer has sent all it will
    paused: bool = False  # not read, as too much is unsent
    reason: Exception | None = None  # what `closed` is given if nothing else goes wrong
    out: deque[bytes | memoryview] = field(default_factory=deque)  # to be sent, in order
    unsent: int = 0  # bytes in `out`

    state: int = _OPEN
    asked: bool = False  # wake() was called and handle has not been yet
    overflowed: bool = False  # wake(data) found more than max_pending bytes waiting
    wakes: deque[tuple[int, bytes]] = field(default_factory=deque)  # from wake(data), with counts
    taken: int = 0  # the count up to which the loop has taken them

    def wakes_are_taken(self) -> bool:
        return self.state == _OPEN and not self.overflowed

    def take_wakes(self) -> None:
        """Put what wakes have queued into `out`. Not what they queue meanwhile: that may never end."""
        for _ in range(len(self.wakes)):
            self.taken, data = self.wakes.popleft()
            self.out.append(data)
            self.unsent += len(data)

    def offer(self, room: int) -> tuple[int, int]:
        """Offer up to `room` bytes of `out` to the kernel. Return how many those were, and how many it took."""
        if len(self.out) == 1 and self.unsent <= room:
            return self.unsent, self.sock.send(self.out[0], _SEND_FLAGS)
        pieces: list[bytes | memoryview] = []
        offered = 0
        for piece in self.out:
            pieces.append(piece if len(piece) <= room - offered else memoryview(piece)[: room - offered])
            offered += len(pieces[-1])
            if offered == room or len(pieces) == _PIECES_MAX:
                break
        if len(pieces) == 1 or sys.platform == "win32":  # where it always is: said for type checkers
            return offered, self.sock.send(pieces[0], _SEND_FLAGS)
        return offered, self.sock.sendmsg(pieces, (), _SEND_FLAGS)

    def advance(self, sent: int) -> None:
        """Drop from `out` what the kernel took."""
        self.unsent -= sent
        while sent:
            piece = self.out[0]
            if len(piece) > sent:
                self.out[0] = memoryview(piece)[sent:]
                return
            sent -= len(piece)
            self.out.popleft()


class _Deadlines:
    """Connections that all have the same time: what began first is up first, so each step is O(1)."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._due: OrderedDict[_Connection, float] = OrderedDict()

    def begin(self, conn: _Connection) -> None:
        """Begin a connection's time, or begin it anew."""
        self._due[conn] = monotonic() + self.seconds
        self._due.move_to_end(conn)

    def end(self, conn: _Connection) -> None:
        self._due.pop(conn, None)

    def due(self, conn: _Connection) -> float:
        return self._due.get(conn, inf)

    def first(self) -> float:
        return next(iter(self._due.values()), inf)

    def up(self, now: float) -> list[_Connection]:
        return [conn for conn, _ in takewhile(lambda item: item[1] <= now, self._due.items())]


class _Bell:
    """Ends the loop's sleep, from any thread.

    Closed with its last reference, and whoever rings has one: so nobody ever writes to a descriptor
    that has become something else's. It does not block: a full pair is readable, which is all it is for.
    """

    _ends: tuple[socket.socket, ...] = ()  # one that was not made to its end, for lack of memory, has none to close

    def __init__(self, reader: socket.socket, writer: socket.socket) -> None:
        self._ends = self.reader, self._writer = reader, writer
        for end in self._ends:
            end.setblocking(False)

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._writer.send(b"\0")

    def close(self) -> None:
        for end in self._ends:
            end.close()

    __del__ = close


class Loop:
    """One server. `evio._engine.Loop` says what the arguments are."""

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
    ) -> None:
        self._fds = listener, interrupts
        self._handle, self._accept, self._closed, self._ticker = handle, accept, closed, ticker
        self._ctx, self._frame = ctx, frame
        self._max_conns = min(max_conns or sys.maxsize, _CONNS_MAX)
        self._max_pending = max_pending
        self._options = socket_options(nodelay, keepalive)

        self._listener: socket.socket
        self._interrupts: socket.socket
        self._duplicates: list[socket.socket] = []  # these two: what closes or loses one of ours takes nobody else's
        self._bell: _Bell | None = _Bell(*socket.socketpair())
        self._selector = selectors.DefaultSelector()  # a key's data: a connection, or what is to be called
        self._abandoned = False

        self._conns: dict[int, _Connection] = {}  # by id; each until its `closed` is called
        self._last_id = 0
        self._sending: _Connection | None = None  # what the kernel has taken of its output is not known
        self._idle = _Deadlines(idle_timeout)  # without idle_timeout it stays empty
        self._lingering = _Deadlines(linger)
        self._stop_by = inf  # when the last connections are cut; inf unless the loop is stopping

        self._listening = False  # the selector watches the listener
        self._accept_again = inf  # when a paused listener is; inf if it is not
        self._starved = False  # accept has failed, and the backlog has not been empty since

        self._woken: dict[_Connection, None] = {}  # an ordered set
        if _PARALLEL:  # with a GIL there is no need, and where there is no memory either it is not just a MemoryError
            self._counting = RLock()  # held by a thread that queues data
        self._turns = 0
        self._asleep = 0  # the turn in which the loop may be asleep, or 0
        self._rung = 0  # the turn in which the bell was rung last

        self._moved = False  # something was read, written or woken in this turn
        self._active = -inf  # when that was last so
        self._interrupted = False  # a signal has come
        self._last_tick = self._tick_due = inf  # stays so without a ticker

    # Running. No connection outlives run(), and nothing that is left of it, such as a traceback's
    # frames, keeps the callbacks or ctx alive.

    def run(self) -> None:
        """Serve until the ticker stops it. Called once."""
        try:
            self._start()
            if self._ticker is None or self._tick():
                while self._turn():
                    pass
            self._stop(calls=True)
        except BaseException:
            if not self._abandoned:
                self._wind_up()
            raise
        finally:
            self._close_own()
            self._handle = self._accept = self._closed = self._ticker = self._frame = self._ctx = None

    def abandon(self) -> None:
        """Close every descriptor of the loop's own, in a child that was forked beside or inside it."""
        self._abandoned = True
        for conn in self._conns.values():  # closed and no more: the rest would reach the parent's poller and clients
            conn.state = _CLOSED
            conn.wake._target = None
            conn.sock.close()
        self._conns.clear()
        if self._bell is not None:
            self._bell.close()
        self._close_own()

    def _start(self) -> None:
        self._check_fork()
        assert self._bell is not None
        self._listener = self._duplicate(self._fds[0])
        self._selector.register(self._bell.reader, _READ, self._rang)
        if self._fds[1] != -1:
            self._interrupts = self._duplicate(self._fds[1])
            self._selector.register(self._interrupts, _READ, self._interrupt)

    def _duplicate(self, fd: int) -> socket.socket:
        sock = duplicate(fd)
        self._duplicates.append(sock)
        sock.setblocking(False)
        return sock

    def _close_own(self) -> None:
        for sock in self._duplicates:
            sock.close()
        with contextlib.suppress(OSError):  # a kqueue is not there in a forked child
            self._selector.close()
        self._bell = self._sending = None
        self._woken.clear()

    def _turn(self) -> bool:
        """Do one turn. Return whether the server goes on."""
        self._watch_listener(self._accept_again == inf and len(self._conns) < self._max_conns)
        self._poll()
        self._do_woken()
        return self._keep_time()

    def _poll(self) -> None:
        """Sleep until there is something to do, and serve what is ready."""
        due = min(self._tick_due, self._accept_again, self._stop_by, self._idle.first(), self._lingering.first())
        self._turns += 1
        self._asleep = self._turns
        timeout = 0.0 if self._woken else None if due == inf else min(due - monotonic(), _SLEEP_MAX)
        try:
            ready = self._selector.select(timeout)
        except (OSError, ValueError):
            self._check_fork()  # a signal's handler may fork too, and then the selector is closed
            raise
        self._asleep = 0
        self._check_fork()
        now = monotonic()
        for key, mask in ready:
            conn = key.data
            if type(conn) is not _Connection:
                conn()
                continue
            # It may have been closed in this batch, and its descriptor be another's by now: its state tells.
            if mask & _WRITE and conn.state <= _FLUSHING:
                self._flush(conn)
            if mask & _READ and conn.state == _OPEN:
                self._read(conn)
            elif mask & _READ and conn.state == _DRAINING:
                self._drain(conn)
            if conn.out or conn.state != _OPEN or conn.events != _READ:
                self._settle(conn)
        if now >= due:  # as of the poll: what had arrived by then has been read
            self._expire(now)

    # Stopping. `closed` is called exactly once for whoever is in _conns, whatever interrupts this.

    def _stop(self, calls: bool) -> None:
        """Close all connections in good order. `calls`: outstanding wakes get their handle first."""
        self._stop_by = monotonic() + self._lingering.seconds
        self._tick_due = self._accept_again = inf
        self._idle = _Deadlines(0)  # there is one deadline for all
        self._watch_listener(False)
        if self._sending is not None:  # a signal's exception came out of its send: more might be sent twice
            self._sending.state = _FLUSHING
            self._sending.out.clear()
            self._sending.unsent = 0
        for conn in tuple(self._conns.values()):
            if conn.state == _OPEN:
                self._leave(conn, calls)
            elif conn.state == _FLUSHING:
                self._flush(conn)
            elif conn.state == _DRAINING:
                self._drain(conn, until_quiet=True)
            if conn.state == _FLUSHING and self._lingering.due(conn) == inf:
                self._lingering.begin(conn)
            self._settle(conn)
        while self._conns and monotonic() < self._stop_by:
            self._poll()
        for conn in tuple(self._conns.values()):
            self._close(conn, conn.reason)

    def _wind_up(self) -> None:
        """Close all connections while an exception is on its way out of run(). A second one cuts it short."""
        if self._stop_by == inf:
            with contextlib.suppress(BaseException):  # the first is what serve raises
                self._stop(calls=False)
        while self._conns:
            conn = next(iter(self._conns.values()))
            with contextlib.suppress(BaseException):
                self._close(conn, conn.reason)

    # The listener is watched while there is room for a client.

    def _watch_listener(self, wanted: bool) -> None:
        if wanted and not self._listening:
            try:
                self._selector.register(self._listener, _READ, self._accept_burst)
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._pause_listener(error)
                return
        elif self._listening and not wanted:
            self._selector.unregister(self._listener)
        self._listening = wanted

    def _accept_burst(self) -> None:
        for _ in range(_ACCEPT_BURST):
            if len(self._conns) >= self._max_conns:
                return
            try:
                sock, peer = self._listener.accept()
            except BlockingIOError:
                self._starved = False
                return
            except OSError as error:
                if error.errno in _BROKEN:
                    raise
                if error.errno in _EXHAUSTED:
                    self._pause_listener(error)
                    return
                continue  # that client is gone, the next one may be there
            sock.setblocking(False)
            conn = _Connection(self._last_id + 1, sock, object.__new__(Wake))
            try:
                self._selector.register(sock, _READ, conn)
            except OSError as error:  # no memory to watch it
                sock.close()
                self._pause_listener(error)
                return
            self._last_id = conn.id
            self._connected(conn, peer)

    def _pause_listener(self, error: OSError) -> None:
        self._accept_again = monotonic() + _ACCEPT_PAUSE
        if not self._starved:
            self._starved = True
            _faults.log_accept_paused(error.errno or 0)

    def _connected(self, conn: _Connection, peer: Any) -> None:
        if isinstance(peer, tuple):
            for option in self._options:
                with contextlib.suppress(OSError):  # the peer has gone already: reading will tell
                    conn.sock.setsockopt(*option)
        conn.wake._id = conn.id
        conn.wake._target = (self, conn)
        if self._idle.seconds:
            self._idle.begin(conn)
        accept, addr = self._accept, _peer_text(peer)
        self._conns[conn.id] = conn  # from here on `closed` will be called, so accept comes right behind
        if self._frame is not None:
            try:
                conn.decoder = portable_decoder(self._frame)
            except Exception as error:
                self._failed("accept", conn, error)
                return
            self._check_fork()
        if accept is not None:
            self._call("accept", accept, conn, addr, conn.wake)
        self._settle(conn)

    # Reading: once for each event, so that others have their turn.

    def _read(self, conn: _Connection) -> None:
        size = conn.read_size
        try:
            data = conn.sock.recv(size)
        except OSError as error:
            self._socket_failed(conn, error)
            return
        if not data:
            conn.eof = True
            self._leave(conn, calls=True)
            return
        if len(data) == size:
            conn.read_size = min(size * 4, _READ_MAX)
        elif len(data) < size // 8:
            conn.read_size = max(size // 4, _READ_MIN)
        self._moved = True
        if self._idle.seconds:
            self._idle.begin(conn)
        if self._handle is None:
            return
        if conn.decoder is None:
            self._call("handle", self._handle, conn, data)
        else:
            self._deliver(conn, conn.decoder, data, self._handle)

    def _deliver(self, conn: _Connection, decoder: Decoder, data: bytes, handle: Handle) -> None:
        """Hand over the messages that `data` completes. A bad one behind them ends the connection."""
        try:
            messages, bad, reply = _decode(decoder, data)
            filled = bool(messages)
        except Exception as error:
            self._failed("handle", conn, error)
            return
        self._check_fork()
        try:
            if filled:
                self._call("handle", handle, conn, messages)
            if bad is not None and conn.state == _OPEN:
                conn.reason = bad
                self._leave(conn, calls=False)
                if conn.state == _FLUSHING:
                    self._obey("handle", conn, reply)
                self._leave_at_our_wish(conn)
        finally:
            del bad  # its traceback leads back here: a cycle

    def _drain(self, conn: _Connection, until_quiet: bool = False) -> None:
        """Read and drop. To close with unread input would make the kernel take the last replies back."""
        try:
            if conn.sock.recv(_READ_MIN):
                return
        except OSError as error:
            if error.errno in _WOULD_BLOCK and not until_quiet:
                return
        self._close(conn, conn.reason)

    # Calling back: here, in _connected, _deliver, _close and _tick. After a callback nothing is taken
    # for granted: the connection may have been closed, and the process may be a forked child.

    def _call(self, name: str, callback: Callable[..., Any], conn: _Connection, *args: Any) -> None:
        """Call handle or accept, and do as the reply says."""
        try:
            reply = callback(conn.id, *args, self._ctx)
        except Exception as error:
            self._failed(name, conn, error)
            return
        self._check_fork()
        self._obey(name, conn, reply)

    def _obey(self, name: str, conn: _Connection, reply: Any) -> None:
        pieces: Sequence[bytes | memoryview]
        try:
            pieces, keepopen = ((reply,), True) if type(reply) is bytes else _replies.parse(name, reply)
        except Exception as error:
            self._failed(name, conn, error)
            return
        if not keepopen and conn.state == _OPEN:
            self._leave(conn, calls=False)  # first, so that another thread's wake does not come behind the last reply
        if any(pieces) and conn.state != _CLOSED:
            self._queue(conn, pieces)
        if not keepopen:
            self._leave_at_our_wish(conn)

    def _failed(self, callback: str, conn: _Connection, error: Exception) -> None:
        if self._abandoned:
            raise error
        _faults.log_failure(callback, conn.id, error)
        self._check_fork()
        self._close(conn, error)

    def _check_fork(self) -> None:
        if self._abandoned:
            raise RuntimeError(_FORKED)

    # Writing. All output goes through `out`, and from there as soon as the kernel takes it.

    def _queue(self, conn: _Connection, pieces: Sequence[bytes | memoryview]) -> None:
        """Queue a reply, and send what can be sent."""
        waits = bool(conn.out)  # then the selector will tell when
        if conn.wakes:  # queued earlier, so sent earlier
            conn.take_wakes()
        if conn.unsent > self._max_pending:
            self._lost(conn, _faults.overflow_error(self._max_pending))
            return
        for piece in pieces:
            if piece:
                # What was returned is what is sent: of a buffer that may change, a copy. Another thread may change it
                # as soon as a peer sees its first bytes.
                may_change = type(piece) is memoryview and type(piece.obj) is not bytes
                conn.out.append(bytes(piece) if may_change else piece)
                conn.unsent += len(piece)
        if not waits:
            self._flush(conn)

    def _flush(self, conn: _Connection) -> None:
        """Send until there is no more, the kernel takes no more, or others must have their turn."""
        self._sending = conn
        room = _SEND_MAX
        while conn.out and room:
            try:
                offered, sent = conn.offer(room)
            except OSError as error:
                self._sending = None
                self._socket_failed(conn, error)
                break
            conn.advance(sent)
            room -= sent
            if sent < offered:
                break
        self._sending = None
        if room < _SEND_MAX and conn.state != _CLOSED:
            self._moved = True
            if self._lingering.due(conn) != inf:
                self._lingering.begin(conn)
            elif self._idle.seconds:
                self._idle.begin(conn)

    # States: OPEN, FLUSHING, perhaps DRAINING, CLOSED; and from each to CLOSED at once.

    def _leave(self, conn: _Connection, calls: bool) -> None:
        """From OPEN to FLUSHING. First the state, which makes wakes False; then all that were True are done."""
        conn.state = _FLUSHING
        self._do_wakes(conn, calls)
        if conn.state == _FLUSHING:
            self._flush(conn)  # the selector tells late of room

    def _leave_at_our_wish(self, conn: _Connection) -> None:
        if conn.state == _OPEN:
            self._leave(conn, calls=False)
        if conn.state == _FLUSHING:
            self._idle.end(conn)
            self._lingering.begin(conn)

    def _settle(self, conn: _Connection) -> None:
        """Leave FLUSHING if all is sent, and let the selector watch what the state asks for."""
        if conn.state == _FLUSHING and not conn.out:
            if conn.eof:
                self._close(conn, conn.reason)
                return
            try:
                conn.sock.shutdown(socket.SHUT_WR)
            except OSError:  # the peer has reset it a moment ago
                self._lost(conn, _faults.socket_error(ECONNRESET))
                return
            conn.state = _DRAINING
            self._idle.end(conn)
            self._lingering.begin(conn)
            if self._stop_by != inf:
                self._drain(conn, until_quiet=True)
        if conn.state == _CLOSED:
            return
        high_water = min(_HIGH_WATER, self._max_pending)
        conn.paused = conn.unsent > (high_water // 2 if conn.paused else high_water)
        wanted = _WRITE if conn.out else 0
        if conn.state == _DRAINING or (conn.state == _OPEN and not conn.paused):
            wanted |= _READ
        if wanted != conn.events:
            self._selector.modify(conn.sock, wanted, conn)
            conn.events = wanted

    def _socket_failed(self, conn: _Connection, error: OSError) -> None:
        if error.errno not in _WOULD_BLOCK:
            self._lost(conn, _faults.socket_error(error.errno or 0))

    def _lost(self, conn: _Connection, error: Exception) -> None:
        """Close with an error; but where all was sent, or the loop is stopping, it takes nothing from anyone."""
        self._close(conn, conn.reason if conn.state == _DRAINING or self._stop_by != inf else error)

    def _close(self, conn: _Connection, error: Exception | None) -> None:
        conn.state = _CLOSED
        conn.wake._target = None
        self._idle.end(conn)
        self._lingering.end(conn)
        if conn.events:  # a forked child may have the socket too: closing it does not take it out of the poller
            conn.events = 0
            self._selector.unregister(conn.sock)
        conn.sock.close()
        conn.out.clear()
        conn.decoder = conn.reason = None
        closed = self._closed
        del self._conns[conn.id]  # nothing between this and closed: either both happen or neither
        if closed is not None:
            try:
                closed(conn.id, error, self._ctx)
            except Exception as failure:
                if self._abandoned:
                    raise
                _faults.log_failure("closed", conn.id, failure)
            self._check_fork()

    # Wakes. Any thread may wake, and so may a signal's handler or a __del__ that runs in the middle of
    # anything here, wake() too. So there is no lock: who held it could be interrupted by who wants it.
    #
    # A wake leaves its work first (a deque's append or an attribute, then an item of a dict, each of
    # them atomic) and then looks at the state. The loop changes the state first and then takes the
    # work. So if a wake has still seen OPEN, the loop will see its work: no True is broken.
    #
    # A wake leaves its work before it looks whether the loop may be asleep. The loop says that it may
    # be before it looks for work. So one of them sees the other. Each sleep is rung once; two who ring
    # at once, or one who is late, cost a turn with nothing to do. Only the loop says that it is awake.
    #
    # Each piece carries the count of bytes up to its end. Two threads that append at once may count
    # from the same piece; then the bytes of one are missing until the loop has taken both, not longer.
    # With a GIL they seldom do. Without one they would all the time, and so count one after the other,
    # with a lock that the loop never takes, and that lets a signal's handler in which interrupts its own thread.

    def wake(self, conn: _Connection, data: bytes | None) -> bool:
        """Do what `Wake.__call__` promises, in any thread."""
        if not conn.wakes_are_taken():
            return False
        if data is None:
            conn.asked = True
        elif data and _PARALLEL:
            with self._counting:
                self._put(conn, data)
        elif data:
            self._put(conn, data)
        self._woken[conn] = None
        turn, bell = self._asleep, self._bell
        if turn and turn != self._rung and bell is not None:
            bell.ring()
            self._rung = turn
        return conn.wakes_are_taken()

    def _put(self, conn: _Connection, data: bytes) -> None:
        """Queue a wake's data for the loop to take, or note that it is too much."""
        try:
            count = conn.wakes[-1][0]
        except IndexError:
            count = conn.taken
        if conn.unsent + count - conn.taken > self._max_pending:
            conn.overflowed = True
        else:
            conn.wakes.append((count + len(data), data))

    def _do_woken(self) -> None:
        """Do what wakes have left until now, first come first served."""
        woken = [self._woken.popitem()[0] for _ in range(len(self._woken))]
        for conn in reversed(woken):
            self._moved = True
            if conn.state == _OPEN:
                self._do_wakes(conn, calls=True)
                self._settle(conn)

    def _do_wakes(self, conn: _Connection, calls: bool) -> None:
        """Send what wakes have queued; then call handle, if one asked for it and `calls` allows it."""
        if conn.overflowed:
            self._lost(conn, _faults.overflow_error(self._max_pending))
            return
        if conn.wakes:
            waits = bool(conn.out)
            conn.take_wakes()
            if not waits:
                self._flush(conn)
        if calls and conn.asked and self._handle is not None and conn.state != _CLOSED:
            conn.asked = False
            self._call("handle", self._handle, conn, b"" if conn.decoder is None else [])

    def _rang(self) -> None:
        assert self._bell is not None
        self._bell.reader.recv(4096)

    # Time

    def _expire(self, now: float) -> None:
        """Close the connections whose time is up."""
        for deadlines, error in ((self._idle, _faults.idle_error), (self._lingering, _faults.linger_error)):
            for conn in deadlines.up(now):
                if conn.out:  # the kernel tells of room late, when there is much: the peer may have taken something
                    self._flush(conn)
                    self._settle(conn)
                if deadlines.due(conn) <= now:
                    self._lost(conn, error(deadlines.seconds))

    def _interrupt(self) -> None:
        self._interrupts.recv(4096)  # the signals' numbers; their handlers have run by themselves
        self._interrupted = True

    def _keep_time(self) -> bool:
        """Tick if it is time to. Return whether the server goes on."""
        now = monotonic()
        if now >= self._accept_again:
            self._accept_again = inf
        if self._moved:
            self._active = now
        if self._moved or self._interrupted:
            self._moved = self._interrupted = False
            self._tick_due = min(self._tick_due, self._last_tick + _TICK_BUSY)
        return now < self._tick_due or self._tick()

    def _tick(self) -> bool:
        assert self._ticker is not None
        now = self._last_tick = monotonic()
        self._tick_due = now + (_TICK_BUSY if now < self._active + 1 else _TICK_QUIET)
        goes_on = _replies.parse_tick(self._ticker(self._ctx))
        self._check_fork()
        return goes_on


def _decode(decoder: Decoder, data: bytes) -> tuple[Sequence[Any], FrameError | None, Any]:
    """Return the messages that `data` completes; and of a bad one behind them the error, and its reply."""
    try:
        return _replies.parse_messages(decoder.feed(data)), None, None
    except FrameError as error:
        return error.messages, error, error.reply  # a subclass may have neither, or raise


def _peer_text(peer: Any) -> str:
    """Return a client's address as `accept` is given it."""
    if not isinstance(peer, tuple):  # unix, or a system that no longer knows a peer that is gone
        return ""
    host, port, *rest = peer
    if not rest:
        return f"{host}:{port}"
    if host.startswith("::ffff:") and "." in host:
        return f"{host.removeprefix('::ffff:')}:{port}"
    zone = rest[1]
    if zone:
        with contextlib.suppress(OSError):  # the interface is gone: its number, then
            zone = socket.if_indextoname(zone)
        host += f"%{zone}"
    return f"[{host}]:{port}"
