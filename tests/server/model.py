"""The contract as a model, and a machine of random steps that holds a live server to it.

A client tells the server by letters what to do: answer, answer much, fail, close, wake another. Here
is kept what each connection was told, what its callbacks returned and what its wakes answered; from
that follows what its client must receive, to the byte, and how the connection must end. Where the
contract leaves a race open, such as a reset beside a reply, all that it allows is allowed.

    Connection    what is known of one connection, and what follows from it
    Served        a server, its clients and the steps that they take; settle() waits for what must come
    Machine       draws the steps

What a client receives is made of pieces, each with a head that is its own, so that three streams can be told
apart that may mix in any way: replies, data of wakes by callbacks, and data of wakes by the test.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import random
import socket
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from harness import DEADLINE, listener, live
from harness import reset as close_with_a_reset
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import evio

KIB = 1 << 10
#: Above it a connection is not read, and below half of it it is again.
HIGH_WATER = 256 * KIB
#: The socket buffers of both sides, and what they and the kernel hold at most of what is sent.
BUFFERS = 64 * KIB
KERNEL = 512 * KIB
MAX_PENDING = 1024 * KIB
#: Longer than any test waits: what is cut off by it was not let go in time.
LINGER = 2 * DEADLINE
CLIENTS = 6
CONTENT = random.Random(1).randbytes(4096 * KIB)

SMALL, MEDIUM, BIG = 20, 40 * KIB, 2048 * KIB

#: What each letter is answered: the sizes of its pieces.
ANSWERS: dict[bytes, list[int]] = {
    b"e": [SMALL],
    b"m": [MEDIUM],
    b"b": [BIG],
    b"l": [SMALL, 0, 3000, 1],  # pieces of buffers that change once they were returned
    b"n": [],  # None
    b"t": [],  # True
    b"q": [],  # False
    b"Q": [SMALL],  # and closes, as the next two do
    b"L": [SMALL, BIG],
    b"W": [SMALL],  # after wake(data) of its own
    b"v": [],  # False, after wake(data) of its own
    b"w": [SMALL],  # the same, and stays open
    b"k": [SMALL],  # after wake() of its own
    b"o": [SMALL],  # after wake(data) of another connection
    b"p": [SMALL],  # after wake() of another
    b"x": [],  # raises
    b"y": [],  # returns what is no reply
    b"!": [],  # refused by the framing
    b"h": [SMALL],  # stands still
    b"i": [],  # KeyboardInterrupt or SystemExit
}
#: Those that close the connection with keepopen=False, and those that fail.
CLOSING = b"q", b"Q", b"L", b"W", b"v"
FAILING = b"x", b"y"
#: What is no reply.
BAD_REPLIES: list[Any] = ["text", 5, (b"one", b"two"), (b"", True, None), [b"one", None]]

Framing = Literal["raw", "lines", "refusing"]
End = Literal["ticker returns False", "ticker raises", "KeyboardInterrupt", "SystemExit"]
ENDS: tuple[End, ...] = ("ticker returns False", "ticker raises", "KeyboardInterrupt", "SystemExit")


@dataclass(eq=False)
class Piece:
    """What a client must receive in one go. Each is itself: two are never equal."""

    data: bytes
    after: dict[str, int] = field(default_factory=dict)  #: how many of each stream must come before it
    last: bool = False  #: every wake's data must come before it
    optional: bool = False  #: a wake answered False while the connection was closing: it may still be sent


class Connection:
    """What is known of one connection.

    The first group is changed by the test's thread, the second by callbacks, in an order that makes
    `heard` the last: who has seen it there finds the rest.
    """

    def __init__(self, serial: int, plan: bytes) -> None:
        self.serial = serial
        self.plan = plan  #: the letter that accept does
        self.client: socket.socket
        self.sent: list[bytes] = []
        self.begun = b""  #: the beginning of a message of which the end is yet to be sent
        self.gone: Literal["", "half", "closed", "reset"] = ""
        self.was_half = False  #: whether it was "half" before
        self.clean = True  #: whether nothing was left to come when the client went
        self.stuck = False  #: whether there was for certain more than the kernel takes
        self.overflows: Literal["", "may", "must"] = ""
        self.open_when_held = False
        self.owed_pokes = 0
        self.asked_pokes = 0
        self.frozen: int | None = None  #: how many messages were heard when the server had to stop reading
        self.buffer = bytearray()
        self.nbytes_received = 0
        self.matched = dict.fromkeys(("reply", "callback", "test"), 0)
        self.settled = dict(self.matched)
        self.eof = False
        self.was_reset = False

        self.id = 0
        self.streams: dict[str, list[Piece]] = {"reply": [], "callback": [], "test": []}
        self.poke_plans: collections.deque[bytes] = collections.deque()
        self.pokes_begun = 0
        self.failure: BaseException | type[BaseException] | None = None
        self.closing: type | None = None  #: NoneType or FrameError, once it is closing
        self.refusing = False
        self.closed_raises = False
        self.pokes = 0
        self.heard: list[bytes] = []
        self.numbers = itertools.count()

    def piece(self, kind: str, size: int) -> Piece:
        """Return a piece of `size` bytes behind its head. A size of 0 is no bytes at all."""
        if size == 0:
            return Piece(b"")
        number = next(self.numbers)
        offset = number * 7919 % (len(CONTENT) - size)
        return Piece(b"<%s %d %d:" % (kind.encode(), self.serial, number) + CONTENT[offset : offset + size])

    def outstanding(self) -> int:
        """Return the bytes that the server was to send and the client has not received."""
        pieces = itertools.chain(*self.streams.values())
        return sum(len(one.data) for one in pieces if not one.optional) - self.nbytes_received

    def count(self, name: str) -> int:
        """Return how many pieces of a stream there are, up to the last one that must come."""
        return max((index + 1 for index, one in enumerate(self.streams[name]) if not one.optional), default=0)

    def left(self, name: str) -> list[Piece]:
        """Return what must still come of a stream."""
        return [one for one in self.streams[name][self.matched[name] :] if not one.optional]

    def to_come(self) -> int:
        """Return the bytes that might be outstanding, if the server heard everything that it was told."""
        unheard = itertools.chain(
            self.sent[len(self.heard) :], self.poke_plans, [b"e"] * (self.owed_pokes - self.pokes)
        )
        return self.outstanding() + sum(sum(ANSWERS[one[:1]]) + 100 for one in unheard)

    def receive(self, data: bytes) -> None:
        """Compare what has come with what must come."""
        self.buffer += data
        self.nbytes_received += len(data)
        while self.buffer:
            name, piece = self._next()
            if len(self.buffer) < len(piece.data):
                break
            for other, count in piece.after.items():
                assert self.matched[other] >= count, f"{self}: a piece of {name} came before one of {other}"
            if piece.last:
                assert not self.left("callback") + self.left("test"), f"{self}: the last reply overtook a wake"
            del self.buffer[: len(piece.data)]
            piece.optional = False
            self.matched[name] = self.streams[name].index(piece) + 1

    def _next(self) -> tuple[str, Piece]:
        for name, stream in self.streams.items():
            for piece in stream[self.matched[name] :]:
                size = min(len(self.buffer), len(piece.data))
                if self.buffer[:size] == memoryview(piece.data)[:size]:
                    return name, piece
                if not piece.optional:
                    break
        heads = {name: [one.data[:30] for one in self.left(name)[:1]] for name in self.streams}
        raise AssertionError(f"{self}: {bytes(self.buffer[:30])!r} has come, not the next of {heads}")

    def __repr__(self) -> str:
        return f"connection {self.serial} (id {self.id})"


class Refusing(evio.Lines):
    """Lines, of which one that begins with `!` is refused, with a reply."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self._served = served

    def decoder(self) -> Any:
        return RefusingDecoder(super().decoder(), self._served)


class RefusingDecoder:
    def __init__(self, lines: Any, served: Served) -> None:
        self._lines = lines
        self._served = served

    def feed(self, data: bytes) -> list[bytes]:
        lines: list[bytes] = self._lines.feed(data)
        for index, line in enumerate(lines):
            if line.startswith(b"!"):
                conn = self._served.all[int(line[1:])]
                conn.refusing = True
                if index == 0:
                    self._served.refuse(conn)
                raise evio.FrameError("refused", reply=refusal(conn), messages=lines[:index])
        return lines


def refusal(conn: Connection) -> bytes:
    return b"<refused %d>" % conn.serial


class Served:
    """A server, its clients, and what they do."""

    def __init__(self, net: str, framing: Framing, max_conns: int | None, max_pending: int, idle: bool) -> None:
        self.all: list[Connection] = []
        self.steps: list[str] = []  #: what was done, for a failure that may not come again
        self.framing = framing
        self._tcp = net.startswith("tcp")
        self._max_conns = max_conns
        self._max_pending = max_pending
        self._net = net
        self._idle = idle
        self._stack = contextlib.ExitStack()
        self._start()

    def _start(self) -> None:
        self.all.clear()
        self._note("serve", self._net, self.framing, self._max_conns, self._max_pending)
        self.open: list[Connection] = []  #: those whose client has not gone
        self.waiting: collections.deque[Connection] = collections.deque()  #: in the backlog
        self.held = False
        self._accepted: dict[int, Connection] = {}
        self._ended: set[int] = set()
        self._faults: list[str] = []  #: what callbacks found to be wrong
        self._logged: dict[str, Any] = {}  #: what must be in the log
        self._mutable: list[bytearray] = []
        self._stopping: End | None = None
        self._raised: BaseException | None = None
        self._standing_still, self._gate = threading.Event(), threading.Event()
        frames = {"raw": None, "lines": evio.Lines(max_size=KIB), "refusing": Refusing(self)}
        # Accepted sockets inherit the buffer.
        sock = self._stack.enter_context(listener(self._net, sndbuf=BUFFERS // 2))
        self.server = self._stack.enter_context(
            live(
                self._net,
                self._handle,
                self._accept,
                self._closed,
                self._ticker,
                addr=sock,
                frame=frames[self.framing],
                max_conns=self._max_conns,
                max_pending=self._max_pending,
                linger=LINGER,
                idle_timeout=4 * DEADLINE if self._idle else None,
            )
        )
        self.control = self.connect(b"n")
        self.open.remove(self.control)
        self.server.wait(lambda: self.control.id)

    # What callbacks do

    def _accept(self, id: int, addr: str, wake: evio.Wake, ctx: Any) -> Any:
        conn = self.waiting.popleft()
        self._accepted[id] = conn
        if self._max_conns and len(self.server.accepted) - len(self.server.closed) > self._max_conns:
            self._faults.append(f"{conn} was accepted beside max_conns others")
        conn.id = id
        return self._do(conn, "accept", [conn.plan])

    def _handle(self, id: int, data: Any, ctx: Any) -> Any:
        conn = self._accepted[id]
        if data:
            reply = self._do(conn, "handle", [bytes([one]) for one in data] if self.framing == "raw" else data)
            if conn.refusing and conn.closing is None and conn.failure is None:
                self.refuse(conn)
            return reply
        conn.pokes_begun += 1
        return self._do(conn, "handle", [conn.poke_plans.popleft() if conn.poke_plans else b"e"], poke=True)

    def _closed(self, id: int, err: BaseException | None, ctx: Any) -> None:
        conn, wake = self._accepted[id], self.server.wakes[id]
        if wake() or wake(b"late"):
            self._faults.append(f"a wake of {conn} was answered with True inside closed")
        if conn.closed_raises:
            error = self._logged[f"closed() failed for connection {id}"] = ZeroDivisionError("in closed")
            raise error

    def _ticker(self, ctx: Any) -> bool | None:
        if "ticker" in str(self._stopping):
            for conn in self._accepted.values():  # words that are sent when nobody is served any more
                if conn.id not in self.server.closed and conn is not self.control:
                    if conn.to_come() > self._max_pending and not conn.overflows:
                        conn.overflows = "may"
                    self.wake_data(conn, "callback", SMALL)
                    self._wake(conn)
        if self._stopping == "ticker raises":
            self._raised = ZeroDivisionError("in ticker")
            raise self._raised
        return self._stopping != "ticker returns False"

    def refuse(self, conn: Connection) -> None:
        """Note that nothing more is heard on a connection, whose last reply is that of its FrameError."""
        if conn.to_come() > self._max_pending and not conn.overflows:
            conn.overflows = "may"
        conn.streams["reply"].append(Piece(refusal(conn), last=True))
        conn.closing = evio.FrameError

    def _do(self, conn: Connection, callback: str, messages: Iterable[bytes], poke: bool = False) -> Any:
        try:
            return self._really_do(conn, callback, messages, poke)
        except BaseException as error:
            if error not in (conn.failure, self._raised):
                self._faults.append(f"{callback} of {conn}: {error!r}")
            raise

    def _really_do(self, conn: Connection, callback: str, messages: Iterable[bytes], poke: bool = False) -> Any:
        """Do what the messages ask for until one closes or fails, note it and return the reply."""
        for mutable in self._mutable:  # returned by an earlier callback: nobody may look at it any more
            mutable[:] = bytes(len(mutable))
        self._mutable.clear()
        pieces: list[Piece] = []
        heard: list[bytes] = []
        letter = b""
        for message in messages:
            assert message[:1] in ANSWERS
            heard.append(message)
            letter = message[:1]
            if letter == b"h":
                self._standing_still.set()
                if not self._gate.wait(DEADLINE):
                    self._faults.append("nobody let the server go on")
            elif letter == b"i":
                self._raised = KeyboardInterrupt() if self._stopping == "KeyboardInterrupt" else SystemExit()
                raise self._raised
            elif letter in (b"w", b"W", b"v"):
                self.wake_data(conn, "callback", SMALL)
            elif letter == b"k":
                self._wake(conn)
            elif letter in (b"o", b"p"):
                self._wake_another(conn, letter)
            if letter in FAILING:
                break
            pieces += [conn.piece("reply", size) for size in ANSWERS[letter]]
            if letter in CLOSING:
                break
        reply: Any = self._reply(pieces, letter)
        if letter in FAILING:
            bad = BAD_REPLIES[len(conn.heard) % len(BAD_REPLIES)]
            conn.failure = ZeroDivisionError(f"in {callback}") if letter == b"x" else TypeError
            self._logged[f"{callback}() failed for connection {conn.id}"] = conn.failure
            reply = bad
        else:
            queued = {name: conn.count(name) for name in ("callback", "test")}
            for piece in pieces:
                piece.after = queued  # queued earlier, so sent earlier
            conn.streams["reply"] += [piece for piece in pieces if piece.data]
            woken = any(message[:1] in (b"w", b"W", b"v", b"k") for message in heard)
            if woken and conn.to_come() > self._max_pending and not conn.overflows:
                conn.overflows = "may"
        if letter in CLOSING:
            for piece in pieces:
                piece.last = True
            conn.closing = type(None)
        if poke:
            conn.pokes += 1
        elif callback == "handle":
            conn.heard += heard
        if isinstance(conn.failure, BaseException):
            raise conn.failure
        return reply

    def _reply(self, pieces: list[Piece], letter: bytes) -> Any:
        """Return a reply in one of the forms that there are."""
        send: Any = [piece.data for piece in pieces]
        if letter == b"l":
            self._mutable += [bytearray(one) for one in send]
            send = [memoryview(one) if index % 2 else one for index, one in enumerate(self._mutable)]
        elif len(pieces) < 2:
            send = send[0] if send else None
        if letter in CLOSING:
            return False if send is None else (send, False)
        if letter == b"m":
            return send, True
        return True if letter == b"t" and send is None else send

    def _wake_another(self, conn: Connection, letter: bytes) -> None:
        others = [one for id, one in self._accepted.items() if id not in self.server.closed and one is not conn]
        for other in others[-1:]:
            if other is self.control:
                continue
            if max(other.to_come(), other.outstanding() + 3000) > self._max_pending and not other.overflows:
                other.overflows = "may"
            if letter == b"o":
                self.wake_data(other, "callback", 3000)
            else:
                self._wake(other)

    def _wake(self, conn: Connection) -> None:
        if self.server.wakes[conn.id]():
            conn.owed_pokes = max(conn.owed_pokes, conn.pokes_begun + 1)
            conn.asked_pokes += 1

    # What clients and threads do. Nothing here waits for the server.

    def _note(self, step: str, *arguments: object) -> None:
        self.steps.append(f"{step}: {', '.join(map(str, arguments))}")

    def connect(self, plan: bytes, closed_raises: bool = False) -> Connection:
        """Connect a client, for whom accept does what the letter `plan` says."""
        self._note("connect", plan, closed_raises)
        conn = Connection(len(self.all), plan)
        conn.closed_raises = closed_raises
        self.all.append(conn)
        self.waiting.append(conn)
        conn.client = self.server.connect()
        conn.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFERS)
        self.open.append(conn)
        return conn

    def send(self, conn: Connection, letters: Iterable[bytes], begin: bytes = b"") -> None:
        """Send messages, and of another one the beginning, of which the next call sends the end."""
        messages = [self._message(conn, letter) for letter in letters]
        if conn is not self.control:
            self._note("send", conn, messages, begin)
        data = b"".join(messages)
        if conn.begun:
            messages.insert(0, conn.begun)
            data = conn.begun[1:] + data
            conn.begun = b""
        if begin and self.framing != "raw":
            conn.begun = self._message(conn, begin)
            data += conn.begun[:1]
        conn.sent += [message.removesuffix(b"\n") for message in messages]
        if self.held:
            self._expect_overflow(conn)
        try:
            conn.client.sendall(data)
        except (ConnectionResetError, BrokenPipeError):
            assert self._may_be_closed(conn), f"{conn} was closed"

    def _message(self, conn: Connection, letter: bytes) -> bytes:
        if letter == b"!":
            letter = b"!%d" % conn.serial if self.framing == "refusing" else b"e"
        return letter if self.framing == "raw" else letter + b"\n"

    def wake_data(
        self, conn: Connection, source: Literal["callback", "test"], size: int, may_be_closing: bool = False
    ) -> bool:
        """Call `wake(data)`, and note what the client must receive if the answer is True."""
        piece = conn.piece(source, size)
        piece.after = dict(conn.settled)
        answer = self.server.wakes[conn.id](piece.data)
        if size and (answer or may_be_closing):
            piece.optional = not answer
            conn.streams[source].append(piece)
        return answer

    def wakes_data(self, conn: Connection, sizes: Iterable[int]) -> None:
        """Call `wake(data)` by the test, where it is known what the answer must be."""
        self._note("wake(data)", conn, sizes)
        for size in sizes:
            must = self._wake_answer(conn)
            if must and size and conn.outstanding() - KERNEL > self._max_pending:
                conn.overflows, must = "must", False
            elif size and self._expect_overflow(conn, size):
                must = must and None
            answer = self.wake_data(conn, "test", size, must is None)
            assert must in (None, answer), f"wake(data) of {conn} answered {answer}"

    def poke(self, conn: Connection, letter: bytes) -> None:
        """Call `wake()`, and let the handle that follows do what the letter says."""
        self._note("wake", conn, letter)
        must = self._wake_answer(conn)
        if conn.outstanding() - KERNEL > self._max_pending and must and not self.held and sum(ANSWERS[letter]):
            conn.overflows = "must"
            must = None  # it may have come to that before the answer
        elif self._expect_overflow(conn) and not self.held:
            must = must and None  # the same
        conn.poke_plans.append(letter)
        if not self.held and {*conn.poke_plans} & {*CLOSING, *FAILING}:
            must = must and None  # what it has asked for may have come before its answer
        owed = conn.pokes_begun + 1
        answer = self.server.wakes[conn.id]()
        assert must in (None, answer), f"wake() of {conn} answered {answer}"
        if answer:
            conn.owed_pokes = max(conn.owed_pokes, owed)
        if answer or must is None:
            conn.asked_pokes += 1

    def _expect_overflow(self, conn: Connection, size: int = 0) -> bool:
        """Note whether more might be queued behind more than max_pending bytes."""
        waiting = conn.to_come() + size if self.held else conn.outstanding()
        if waiting > self._max_pending and not conn.overflows:
            conn.overflows = "may"
        return bool(conn.overflows)

    def _wake_answer(self, conn: Connection) -> bool | None:
        """Return what a wake must answer, or None where either is allowed."""
        if conn.overflows == "must" or conn.failure is not None or conn.id in self._ended:
            return False
        if conn.closing is not None:
            return False
        if conn.overflows or (conn.gone and not (self.held and conn.open_when_held)):
            return None
        return True

    def leave(self, conn: Connection, how: Literal["half", "closed", "reset"]) -> None:
        """Shut the write side of a client, close it or have it reset the connection."""
        self._note("leave", conn, how)
        if how == "reset" and (not conn.id or not self._tcp):
            how = "closed"  # what a reset before accept is, differs from system to system
        if not conn.gone:
            nothing_left = not conn.to_come() and len(conn.heard) == len(conn.sent) and conn.pokes >= conn.owed_pokes
            conn.clean = bool(conn.id) and not self.held and nothing_left
        conn.stuck = conn.outstanding() > KERNEL
        conn.was_half = conn.gone == "half"
        conn.gone = how
        if how == "half":
            with contextlib.suppress(OSError):  # the server has gone already
                conn.client.shutdown(socket.SHUT_WR)
            return
        self.open.remove(conn)
        if how == "reset":
            close_with_a_reset(conn.client)
        else:
            conn.client.close()

    def race(self, conn: Connection, letters: list[bytes], how: Literal["", "half", "closed", "reset"]) -> None:
        """Let another thread wake a connection while its client sends, and perhaps leaves."""
        self._note("race", conn, letters, how)
        must = self._wake_answer(conn) if conn.heard == conn.sent else None
        calls = 20
        answers: list[bool] = []

        def wake() -> None:
            answers.extend(self.wake_data(conn, "test", SMALL, True) for _ in range(calls))

        if conn.to_come() + sum(sum(ANSWERS[letter]) for letter in letters) + calls * 100 > self._max_pending:
            conn.overflows = conn.overflows or "may"
        thread = threading.Thread(target=wake)
        thread.start()
        self.send(conn, letters)
        if how:
            self.leave(conn, how)
            conn.clean = False
        thread.join()
        assert answers == sorted(answers, reverse=True), f"a wake of {conn} answered True after False"
        if how or conn.overflows or {*letters} & {*CLOSING, *FAILING, b"!"}:
            must = must and None
        assert must in (None, *answers[-1:]), f"wake(data) of {conn} answered {answers[-1]}"

    def hold(self) -> None:
        """Let the server stand still inside a callback, so that all that follows comes in its next turn."""
        self._note("hold")
        self._standing_still.clear()
        self._gate.clear()
        self.send(self.control, [b"h"])
        assert self._standing_still.wait(DEADLINE)
        for conn in self.all:
            conn.open_when_held = bool(conn.id) and not conn.gone and conn.id not in self.server.closed
        self.held = True

    def release(self) -> None:
        self._note("release")
        self.held = False
        self._gate.set()

    # What must come

    def settle(self) -> None:
        """Wait until the server has done what it must do, and see that it has not done what it must not."""
        if self.held:
            return
        accepted = -1
        while accepted != len(self._accepted):
            accepted = len(self._accepted)
            for conn in self._accepted_now():
                self._settle(conn)
            if self.waiting and self._has_room():
                first = self.waiting[0]
                self.server.wait(lambda: first.id)  # noqa: B023
        self.ping()
        if any(conn.overflows for conn in self._accepted_now()):
            self.ping()  # what was woken in the turn of the first has had its turn now
        for conn in self._accepted_now():
            if conn.id in self.server.closed:
                self._check_end(conn)
            elif not conn.gone and not conn.closing and conn.outstanding() > HIGH_WATER + KERNEL:
                if conn.frozen is None:
                    conn.frozen = len(conn.heard)
                self._check_frozen(conn)
            if conn.overflows == "may" and conn.id not in self._ended:
                conn.overflows = ""
            conn.settled = {name: conn.count(name) for name in conn.streams}
            assert conn.pokes_begun <= conn.asked_pokes, f"{conn}: handle ran for no wake()"
            if self._tcp and conn in self.open:
                host, port = conn.client.getsockname()
                assert self.server.accepted[conn.id] == f"{host}:{port}"
        assert self._faults == []

    def ping(self) -> None:
        """Wait for a turn of the loop."""
        self.send(self.control, [b"e"])
        self.read(self.control)

    def read(self, conn: Connection) -> None:
        """Receive all that must come, and the end where that must come too."""
        if conn is not self.control:
            self._note("read", conn)
        if conn.frozen is not None and len(conn.sent) > len(conn.heard):
            self.ping()
            self._check_frozen(conn)
        conn.frozen = None
        while not conn.eof:
            if conn.outstanding() <= 0 and not self._must_end_for_client(conn):
                self.server.wait(lambda: self._rests(conn))
                if conn.outstanding() <= 0 and not self._must_end_for_client(conn):
                    break
            self._receive(conn)

    def _check_frozen(self, conn: Connection) -> None:
        if conn.frozen is not None:
            assert len(conn.heard) == conn.frozen, f"{conn} was read though too much was unsent"

    def _receive(self, conn: Connection) -> None:
        try:
            data = conn.client.recv(1024 * KIB)
        except ConnectionResetError:
            data, conn.was_reset = b"", True
        if data:
            conn.receive(data)
            return
        conn.eof = True
        assert self._faults == []
        assert self._must_end_for_client(conn), f"{conn} came to an end"
        if self._is_lossy(conn):
            return
        assert not conn.was_reset, f"{conn} was reset"
        assert not any(map(conn.left, conn.streams)), f"{conn} has lost {conn.outstanding()} bytes"
        assert not conn.buffer, f"{conn} was sent a part of a piece"
        if conn.closing is None and self._stopping is None:
            assert conn.heard == conn.sent, f"{conn} has lost {len(conn.sent) - len(conn.heard)} messages"

    def _is_lossy(self, conn: Connection) -> bool:
        """Tell whether output may be dropped, and wait for the end where only that can tell."""
        if conn.overflows and conn.outstanding():
            self.server.wait(lambda: conn.id in self.server.closed)
            if self._stopping or isinstance(self.server.closed[conn.id], BufferError):
                return True
        return conn.failure is not None

    def _must_end_for_client(self, conn: Connection) -> bool:
        return bool(
            conn.gone == "half"
            or conn.closing
            or conn.failure
            or conn.overflows == "must"
            or conn.id in self.server.closed
            or self._stopping
        )

    def _may_be_closed(self, conn: Connection) -> bool:
        return bool(self._must_end_for_client(conn) or conn.overflows)

    def _accepted_now(self) -> list[Connection]:
        return [conn for conn in list(self._accepted.values()) if conn.id and conn.id not in self._ended]

    def _has_room(self) -> bool:
        return not self._max_conns or len(self.server.accepted) - len(self.server.closed) < self._max_conns

    def _settle(self, conn: Connection) -> None:
        self.server.wait(lambda: self._rests(conn))
        is_open = conn.id not in self.server.closed and not conn.gone and not conn.closing
        if is_open and HIGH_WATER // 2 < conn.outstanding() <= HIGH_WATER + KERNEL:
            self.read(conn)  # it may be paused or may not: make it known

    def _rests(self, conn: Connection) -> bool:
        """Tell whether nothing more must happen to a connection until its client does something."""
        if conn.id in self.server.closed:
            return True
        if conn.failure is not None or conn.overflows == "must" or conn.gone in ("closed", "reset"):
            return False
        if conn.closing is not None:
            return not (conn.gone == "half" and conn.outstanding() == 0)
        if conn.outstanding() > HIGH_WATER // 2:  # it need not be read
            return conn.pokes >= conn.owed_pokes
        return (
            conn.heard == conn.sent
            and conn.pokes >= conn.owed_pokes
            and not (conn.gone == "half" and conn.outstanding() == 0)
        )

    def _check_end(self, conn: Connection) -> None:
        """Compare how a connection ended with how it may."""
        self._ended.add(conn.id)
        err = self.server.closed[conn.id]
        assert conn.heard == conn.sent[: len(conn.heard)], f"{conn} heard {conn.heard}, not {conn.sent}"
        may = self._may_end_with(conn)
        assert type(err) in may, f"{conn} was closed with {err!r}; allowed: {[one.__name__ for one in may]}"
        if type(err) is type(conn.failure):
            assert err is conn.failure
        if conn.gone == "half" and err is None and conn.closing is None and self._stopping is None:
            assert conn.heard == conn.sent, f"{conn} has lost {len(conn.sent) - len(conn.heard)} messages"
            assert conn.pokes >= conn.owed_pokes, f"{conn} has lost a wake()"

    def _may_end_with(self, conn: Connection) -> set[type]:
        may: set[type] = set()
        gone = conn.gone in ("closed", "reset")
        if conn.failure is not None:
            may.add(conn.failure if isinstance(conn.failure, type) else type(conn.failure))
        elif conn.closing is not None:
            if conn.gone or self._stopping:
                may.add(conn.closing)
            if self._stopping:
                may.add(type(None))
            if gone and not conn.eof:
                may.add(ConnectionResetError)
        elif conn.overflows != "must":
            if conn.gone == "half" or self._stopping:
                may.add(type(None))
            if conn.gone == "reset" and conn.id:
                may.add(ConnectionResetError)
                if conn.was_half and not conn.stuck:
                    may.add(type(None))
            if conn.gone == "closed":
                may |= {ConnectionResetError} if conn.stuck else {type(None)}
                if not conn.clean:
                    may.add(ConnectionResetError)
        elif gone:
            may.add(ConnectionResetError)
        if conn.overflows:
            may.add(BufferError)
        return may

    # The end

    def stop(self, how: End) -> None:
        """Stop the server, receive what is left, check everything, and see what serve did."""
        self._note("stop", how)
        self._stopping = how
        for conn in {*self.waiting} & {*self.open}:
            self.leave(conn, "closed")
        if "ticker" not in how:
            self.send(self.control, [b"i"])
        else:
            self.server.wakes[self.control.id](b"")  # it ticks sooner
        self.release()
        for conn in [*self.open, self.control]:
            if conn.id:
                self.read(conn)
                conn.client.close()
        assert self.server.join() is self._raised
        for conn in self._accepted_now():
            self._check_end(conn)
            ended_otherwise = conn.failure or conn.closing or conn.overflows or conn.gone in ("closed", "reset")
            if how == "ticker returns False" and not ended_otherwise:
                assert conn.pokes >= conn.owed_pokes, f"{conn} has lost a wake()"
        for wake in self.server.wakes.values():
            assert not wake()
            assert not wake(b"late")
        said = {one.getMessage(): one.exc_info and one.exc_info[1] for one in self.server.records}
        assert len(said) == len(self.server.take_records())
        assert said.keys() == self._logged.keys()
        for text, error in said.items():
            assert error is self._logged[text] or type(error) is self._logged[text]
        assert self._faults == []
        self._stack.close()

    def restart(self) -> None:
        """Serve again, with no clients yet."""
        self._start()

    def abandon(self) -> None:
        """End what a failed step has left. The failure is told what the steps were."""
        kind, error, traceback = sys.exc_info()
        if isinstance(error, Exception):
            error.add_note("\n".join(["The steps:", *self.steps]))
        self._stopping = self._stopping or "ticker returns False"
        self.release()
        for wake in self.server.wakes.values():
            wake(b"")  # it ticks sooner
        for conn in self.all:
            conn.client.close()
        self.server.thread.join(DEADLINE)
        with contextlib.suppress(BaseException):  # what has failed is told already
            self._stack.__exit__(kind, error, traceback)


GENTLE = [b"e", b"l", b"m", b"b", b"n", b"t", b"w", b"k", b"o", b"p"]
#: Mostly those that leave a connection open, or none would live long.
ANY = [one for one in ANSWERS if one not in (b"h", b"i")]
LETTERS = st.sampled_from(GENTLE * 6 + ANY)
#: Messages that are sent while something else happens; the last one may be any.
MESSAGES = st.tuples(st.lists(LETTERS, max_size=2), st.sampled_from(ANY)).map(lambda one: [*one[0], one[1]])
#: Steps that a server must have lived through to be stopped by another.
LIFE = 12
PICK = st.integers(0, CLIENTS - 1)
LEAVING = st.sampled_from(["half", "closed", "reset"])
PLANS = LETTERS.filter(lambda one: one != b"!")
SIZES = st.lists(st.sampled_from([0, SMALL, 3000, 300 * KIB]), min_size=1, max_size=4)
#: What one of two connections does in the turn in which others do something too.
AT_ONCE = st.tuples(
    st.integers(0, 1),
    st.tuples(st.just("send"), MESSAGES)
    | st.tuples(st.just("wake"), PLANS)
    | st.tuples(st.just("wake_data"), SIZES)
    | st.tuples(st.just("leave"), LEAVING)
    | st.tuples(st.just("connect"), PLANS),
)


class Machine(RuleBasedStateMachine):
    """Draws the steps. Whether one may be drawn depends on earlier ones alone, never on how fast the server is."""

    suffix = ""  #: what selects the engine
    served: Served | None = None
    started = 0  #: how many steps there were when the server began

    @initialize(
        net=st.sampled_from(["tcp", "unix"]),
        framing=st.sampled_from(["raw", "lines", "refusing"]),
        max_conns=st.sampled_from([None, None, 3]),
        max_pending=st.sampled_from([MAX_PENDING, 64 * MAX_PENDING]),
        idle=st.booleans(),
    )
    def serve(self, net: str, framing: Framing, max_conns: int | None, max_pending: int, idle: bool) -> None:
        self.served = Served(net + self.suffix, framing, max_conns, max_pending, idle)

    @property
    def model(self) -> Served:
        assert self.served is not None
        return self.served

    def pick(self, number: int) -> Connection:
        return self.model.open[number % len(self.model.open)]

    def has_clients(self) -> bool:
        return bool(self.model.open)

    @precondition(lambda self: len(self.model.open) < CLIENTS)
    @rule(plan=PLANS, closed_raises=st.booleans())
    def connect(self, plan: bytes, closed_raises: bool) -> None:
        self.model.connect(plan, closed_raises)
        self.model.settle()

    @precondition(has_clients)
    @rule(number=PICK, letters=st.lists(LETTERS, min_size=1, max_size=5), begin=st.just(b"") | LETTERS)
    def send(self, number: int, letters: list[bytes], begin: bytes) -> None:
        conn = self.pick(number)
        if conn.gone != "half":
            self.model.send(conn, letters, begin)
            self.model.settle()

    @precondition(has_clients)
    @rule(number=PICK)
    def read(self, number: int) -> None:
        conn = self.pick(number)
        if conn.id:
            self.model.read(conn)
            self.model.settle()

    @precondition(has_clients)
    @rule(number=PICK, sizes=SIZES)
    def wake_data(self, number: int, sizes: list[int]) -> None:
        conn = self.pick(number)
        if conn.id:
            self.model.wakes_data(conn, sizes)
            self.model.settle()

    @precondition(has_clients)
    @rule(number=PICK, letter=PLANS)
    def wake(self, number: int, letter: bytes) -> None:
        conn = self.pick(number)
        if conn.id:
            self.model.poke(conn, letter)
            self.model.settle()

    @precondition(has_clients)
    @rule(number=PICK, letter=PLANS)
    def reply_behind_much(self, number: int, letter: bytes) -> None:
        """A big reply that nobody reads yet, then another."""
        conn = self.pick(number)
        for plan in b"b", letter:
            if conn.id and conn in self.model.open:
                self.model.poke(conn, plan)
                self.model.settle()

    @precondition(has_clients)
    @rule(number=PICK, letters=MESSAGES, how=st.sampled_from(["", "", "half", "closed", "reset"]))
    def race(self, number: int, letters: list[bytes], how: Any) -> None:
        conn = self.pick(number)
        if conn.id and conn.gone != "half":
            self.model.race(conn, letters, how)
            self.model.settle()

    @precondition(has_clients)
    @rule(number=PICK, how=LEAVING)
    def leave(self, number: int, how: Any) -> None:
        self.model.leave(self.pick(number), how)
        self.model.settle()

    @precondition(has_clients)
    @rule(steps=st.lists(AT_ONCE, min_size=1, max_size=6))
    def at_once(self, steps: list[tuple[int, tuple[str, Any]]]) -> None:
        self.model.hold()
        for number, (step, argument) in steps:
            self.do(number, step, argument)
        self.model.release()
        self.model.settle()

    @precondition(lambda self: self.has_clients() and len(self.model.steps) - self.started >= LIFE)
    @rule(how=st.sampled_from(ENDS), steps=st.lists(AT_ONCE, max_size=4))
    def stop(self, how: End, steps: list[tuple[int, tuple[str, Any]]]) -> None:
        if steps:
            self.model.hold()
        for number, (step, argument) in steps:
            self.do(number, step, argument)
        self.model.stop(how)
        self.model.restart()
        self.started = len(self.model.steps)

    def do(self, number: int, step: str, argument: Any) -> None:
        """Take a step of those that are taken while the server stands still."""
        if step == "connect":
            if len(self.model.open) < CLIENTS:
                self.model.connect(argument)
            return
        if not self.model.open:
            return
        conn = self.pick(number)
        if step == "leave":
            self.model.leave(conn, argument)
        elif step == "send" and conn.gone != "half":
            self.model.send(conn, argument)
        elif step == "wake" and conn.id:
            self.model.poke(conn, argument)
        elif step == "wake_data" and conn.id:
            self.model.wakes_data(conn, argument)

    def teardown(self) -> None:
        if self.served is None:
            return
        if sys.exc_info()[0] is not None:  # a step has failed
            self.served.abandon()
            return
        try:
            self.served.stop("ticker returns False")
        except BaseException:
            self.served.abandon()
            raise
