"""The kernel of tests/c/kernel.h in Python, below the portable engine, and the server of tests/c/test_faults.c.

`play` carries out a script that the C program has printed, and returns the trace, which must be the
core's. What a script means, and where a fault hangs, is explained there. One thing is left out: EINTR,
which Python's own calls never show.
"""

from __future__ import annotations

import errno
import gc
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from random import Random
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from evio import _faults, _portable

UNITS = 128  # of a second: what the clock goes by, exact as a float and in nanoseconds
UNIT_NS, MS_NS = 7_812_500, 1_000_000
VAIN_MAX = 60  # how often the loop may ask for events while nothing comes of it
WOKEN_REPLY, GREETING, OWN_WAKE = 3, 5, 10  # bytes

READ, WRITE = 1, 2  # as selectors has them
BROKEN = READ | WRITE

LISTENER, INTERRUPTS = 0, 1  # their descriptors

PERIOD = 1 << 16
PATTERN = Random(1).randbytes(PERIOD) * 20


def output_at(number: int, offset: int, nbytes: int) -> bytes:
    """Return what the server sends to a client from an offset on: so each byte tells where it belongs."""
    start = (number * 8191 + offset) % PERIOD
    piece = PATTERN[start : start + nbytes]
    assert len(piece) == nbytes
    return piece


class CallbackError(Exception):
    """What a callback of the server raises."""


@dataclass
class Fault:
    """A call that begins at an offset fails so many times; one that would go beyond it ends there."""

    call: str
    at: int
    error: int  # 0: it only ends there
    times: int


@dataclass
class Action:
    """Something that a client or another thread does at a time, in units."""

    at: int
    what: str
    client: int
    how: str
    nbytes: int


@dataclass
class Client:
    """A client, and the server's end of its connection."""

    number: int
    window: int = 0
    low: int = 0
    place: str = "away"  # "queued", "served", "left"
    mode: str = "-"
    end: bool = False
    reset: bool = False
    failed: bool = False
    shut: bool = False
    cut: bool = False
    full: bool = False
    sent: int = 0
    received: int = 0
    taken: int = 0
    told: tuple[int, str] | None = None
    segments: list[tuple[int, int, str]] = field(default_factory=list)  # start, end, command
    faults: list[Fault] = field(default_factory=list)

    def fail(self, call: str, at: int) -> None:
        """Raise if a call that begins at `at` is to fail."""
        for fault in self.faults:
            if fault.call == call and fault.at == at and fault.error and fault.times:
                fault.times -= 1
                if call in ("recv", "send") and fault.error not in (errno.EAGAIN, errno.ENOBUFS):
                    self.failed = self.reset = True
                raise OSError(fault.error, os.strerror(fault.error))

    def until_fault(self, call: str, at: int, nbytes: int) -> int:
        """Return how many of `nbytes` bytes from `at` a call gets to before the next fault."""
        return min([nbytes, *(fault.at - at for fault in self.faults if fault.call == call and fault.at > at)])

    def state(self) -> str:
        return "reset" if self.cut else "eof" if self.shut or self.place == "left" else "open"


@dataclass
class Script:
    """What the C program has printed of one round."""

    seed: int = 0
    options: dict[str, int] = field(default_factory=dict)
    clients: dict[int, Client] = field(default_factory=lambda: {0: Client(0)})
    actions: list[Action] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)  #: that of the core


def parse_rounds(text: str) -> list[Script]:
    """Return the rounds that `test_faults trace` has printed."""
    rounds: list[Script] = []
    in_trace = False
    for line in text.splitlines():
        words = line.split()
        if words[0] == "round":
            rounds.append(Script(int(words[1])))
            in_trace = False
        script = rounds[-1]
        if in_trace:
            script.trace.append(line)
            continue
        script.text.append(line)
        match words:
            case ["trace"]:
                in_trace = True
            case ["options", *options]:
                script.options = dict(zip(options[::2], map(int, options[1::2]), strict=True))
            case ["client", number, "window", window, "low", low]:
                script.clients[int(number)] = Client(int(number), int(window), int(low))
            case ["fault", number, call, at, error, times]:
                fault = Fault(call, int(at), getattr(errno, error, 0), int(times))
                if fault.error == errno.EINTR:
                    fault.error = 0
                script.clients[int(number)].faults.append(fault)
            case ["at", at, what, number, how, nbytes]:
                script.actions.append(Action(int(at), what, int(number), how, int(nbytes)))
    return rounds


class Kernel:
    """The simulated kernel, its clock, and what is done at which time."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.clients = script.clients
        self.actions = list(script.actions)
        self.server = Server(self)
        self.trace: list[str] = []
        self.now = 0  # in units
        self.vain = 0  # calls of select since something has happened
        self.backlog: list[Client] = []
        self.exhausted_at = -1
        self.nopen = 0
        self.listener_watched = 0  # how often
        self.interrupted = self.asked_to_stop = False

    def tell(self, line: str) -> None:
        self.trace.append(line)

    def monotonic(self) -> float:
        return self.now / UNITS

    def duplicate(self, fileno: int) -> Socket:
        """Return a socket of its own for a descriptor, as `_listen.duplicate` does."""
        return {LISTENER: Listener, INTERRUPTS: Interrupts}[fileno](self)

    def pair(self) -> tuple[Socket, Socket]:
        reader = BellReader(self)
        return reader, BellWriter(self, reader)

    def take_step(self) -> None:
        """Do what the script has for this time."""
        at = self.actions[0].at
        self.tell_clients()
        self.tell(f"step {at}")
        while self.actions and self.actions[0].at == at:
            self.act(self.actions.pop(0))

    def act(self, action: Action) -> None:
        client = self.clients[action.client]
        sends = client.place in ("queued", "served") and not client.end and not client.reset
        match action.what:
            case "connect":
                client.place, client.mode = "queued", action.how
                self.backlog.append(client)
            case "send" if sends:
                client.segments.append((client.sent, client.sent + action.nbytes, action.how))
                client.sent += action.nbytes
            case "end":
                client.end = client.end or sends
            case "reset":
                client.reset = client.reset or client.place != "away"
            case "take":
                client.window += action.nbytes
                client.full = client.full and client.window < client.low
            case "wake":
                self.server.wake_up(client)
            case "queue":
                self.server.queue_up(client, action.nbytes)
            case "stop":
                self.interrupted = self.asked_to_stop = True

    def tell_clients(self) -> None:
        for client in self.clients.values():
            if client.place != "away" and client.told != (client.taken, client.state()):
                client.told = client.taken, client.state()
                self.tell(f"client {client.number} has {client.taken} {client.state()}")


class Socket:
    """What all sockets share. Every call on one that is closed is an error."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.is_open = True
        self.blocks = True
        kernel.nopen += 1

    def check(self) -> None:
        assert self.is_open, "a call on a closed socket"
        assert not self.blocks, "a call on a socket that blocks"

    def setblocking(self, blocks: bool) -> None:
        assert self.is_open
        self.blocks = blocks

    def close(self) -> None:
        if self.is_open:  # sockets of Python's may be closed twice
            self.is_open = False
            self.kernel.nopen -= 1

    def readiness(self) -> int:
        raise NotImplementedError


class Listener(Socket):
    def accept(self) -> tuple[Stream, tuple[str, int]]:
        self.check()
        kernel = self.kernel
        assert kernel.exhausted_at != kernel.now, "accept is tried again without a pause"
        if not kernel.backlog:
            raise BlockingIOError(errno.EAGAIN, "nobody is there")
        client = kernel.backlog[0]
        try:
            client.fail("accept", 0)
        except OSError as error:
            kernel.vain = 0
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                kernel.exhausted_at = kernel.now
            else:
                client.place = "left"
                del kernel.backlog[0]
            raise
        del kernel.backlog[0]
        client.place = "served"
        kernel.exhausted_at = -1
        kernel.vain = 0
        return Stream(kernel, client), ("10.0.0.1", client.number)

    def readiness(self) -> int:
        return READ if self.kernel.backlog else 0

    def watch(self) -> None:
        self.kernel.listener_watched += 1
        self.kernel.clients[0].fail("watch", self.kernel.listener_watched - 1)


class Interrupts(Socket):
    def recv(self, size: int) -> bytes:
        self.check()
        assert self.kernel.interrupted
        self.kernel.interrupted = False
        return b"\2"

    def readiness(self) -> int:
        return READ if self.kernel.interrupted else 0


class BellReader(Socket):
    rung = False

    def recv(self, size: int) -> bytes:
        self.check()
        assert self.rung
        self.rung = False
        return b"\0"

    def readiness(self) -> int:
        return READ if self.rung else 0


class BellWriter(Socket):
    def __init__(self, kernel: Kernel, reader: BellReader) -> None:
        super().__init__(kernel)
        self.reader = reader

    def send(self, data: bytes) -> int:
        self.check()
        self.reader.rung = True
        return len(data)


class Stream(Socket):
    """The server's end of a client's connection."""

    def __init__(self, kernel: Kernel, client: Client) -> None:
        super().__init__(kernel)
        self.client = client

    def progress(self) -> None:
        self.kernel.vain = 0

    def watch(self) -> None:
        self.client.fail("watch", 0)

    def setsockopt(self, level: int, name: int, value: int) -> None:
        self.check()
        self.client.fail("tune", 0)
        if self.client.reset:
            raise OSError(errno.EINVAL, "the peer is gone")

    def recv(self, size: int) -> bytes:
        self.check()
        client, at = self.client, self.client.received
        if at < client.sent or client.end:
            self.progress()
            client.fail("recv", at)
        if at < client.sent:
            start, end, command = next(segment for segment in client.segments if segment[1] > at)
            nbytes = client.until_fault("recv", at, min(size, end - at))
            client.received += nbytes
            filler = bytes(ord("a") + (client.number * 5 + offset) % 26 for offset in range(at, at + 26))
            data = (filler * (nbytes // 26 + 1))[:nbytes]
            return command.encode() + data[1:] if at == start and command != "-" else data
        if client.reset:
            client.failed = True
            raise ConnectionResetError(errno.ECONNRESET, "the peer is gone")
        if not client.end:
            raise BlockingIOError(errno.EAGAIN, "nothing is there")
        return b""

    def send(self, data: bytes | memoryview, flags: int) -> int:
        return self.sendmsg([data], (), flags)

    def sendmsg(self, pieces: Sequence[bytes | memoryview], ancillary: object, flags: int) -> int:
        self.check()
        assert flags & _portable._SEND_FLAGS
        client = self.client
        assert not client.shut, "send after the write side was shut"
        data = b"".join(pieces)
        assert data, "send of nothing"
        if client.reset:
            code = errno.EPIPE if client.failed else errno.ECONNRESET
            client.failed = True
            raise OSError(code, "the peer is gone")
        if not client.window:
            client.full = True
            raise BlockingIOError(errno.EAGAIN, "the peer takes nothing")
        self.progress()
        client.fail("send", client.taken)
        nbytes = client.until_fault("send", client.taken, min(len(data), client.window))
        assert data[:nbytes] == output_at(client.number, client.taken, nbytes), "wrong bytes are sent"
        client.taken += nbytes
        client.window -= nbytes
        client.full |= not client.window
        return nbytes

    def shutdown(self, how: int) -> None:
        self.check()
        client = self.client
        assert how == socket.SHUT_WR
        assert not client.shut
        if not client.reset:
            try:
                client.fail("shutdown", 0)
            except OSError:
                client.reset = True
        if client.reset:
            client.failed = True
            raise OSError(errno.ENOTCONN, "the peer is gone")
        client.shut = True
        self.progress()

    def close(self) -> None:
        if self.is_open:
            self.client.place = "left"
            self.client.cut = self.client.received < self.client.sent
            self.progress()
        super().close()

    def readiness(self) -> int:
        client = self.client
        if client.reset or (client.end and client.shut):
            return BROKEN
        reads = READ if client.received < client.sent or client.end else 0
        return reads | (WRITE if client.window and not client.full else 0)


class Selector:
    """A selector on epoll, level-triggered, which carries out the script when the loop would sleep."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.keys: dict[Socket, tuple[int, Any]] = {}
        self.is_open = True
        kernel.nopen += 1

    def register(self, sock: Socket, events: int, data: Any) -> None:
        assert sock not in self.keys
        assert sock.is_open
        if isinstance(sock, (Listener, Stream)):
            try:
                sock.watch()
            except OSError:
                self.kernel.exhausted_at = self.kernel.now
                raise
        self.keys[sock] = events, data

    def modify(self, sock: Socket, events: int, data: Any) -> None:
        assert sock in self.keys
        assert sock.is_open
        assert events, "modify to nothing is a ValueError"
        self.keys[sock] = events, data

    def unregister(self, sock: Socket) -> None:
        assert sock.is_open
        del self.keys[sock]

    def close(self) -> None:
        assert self.is_open
        self.is_open = False
        self.kernel.nopen -= 1

    def ready(self) -> list[tuple[SimpleNamespace, int]]:
        found = []
        for sock, (events, data) in self.keys.items():
            readiness = sock.readiness()
            mask = events if readiness == BROKEN else readiness & events
            if mask:
                found.append((SimpleNamespace(data=data), mask))
        return found

    def select(self, timeout: float | None) -> list[tuple[SimpleNamespace, int]]:
        kernel = self.kernel
        kernel.vain += 1
        assert kernel.vain <= VAIN_MAX, "the loop spins"
        ready = self.ready()
        if ready or (timeout is not None and timeout <= 0):
            return ready
        until = inf
        if timeout is not None:  # epoll counts milliseconds, rounded up: one less is still the same time
            until = kernel.now + max(1, ceil((ceil(timeout * 1000) - 1) * MS_NS / UNIT_NS))
        while not (ready := self.ready()):
            kernel.vain = 0
            following = kernel.actions[0].at if kernel.actions else inf
            if following <= kernel.now:
                kernel.take_step()
                continue
            assert min(following, until) < inf, "the loop sleeps for ever"
            kernel.now = int(min(following, until))
            if kernel.now >= until:
                return []
        return ready


class Server:
    """The callbacks. What they do, they do by the byte, however these are cut into pieces."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.big = kernel.script.options["big"]
        self.numbers: dict[int, Client] = {}  # by id
        self.wakes: dict[int, Callable[..., bool]] = {}  # by number
        self.received: dict[int, int] = {}
        self.replied: dict[int, int] = {}
        self.silent: set[int] = set()

    def reply(self, client: Client, nbytes: int) -> list[bytes]:
        data = output_at(client.number, self.replied[client.number], nbytes)
        self.replied[client.number] += nbytes
        part = nbytes // (1 + nbytes % 3) + 1
        return [b""] * (nbytes % 5 == 0) + [data[at : at + part] for at in range(0, nbytes, part)]

    def wake_up(self, client: Client) -> None:
        if client.number in self.wakes:
            is_open = self.wakes[client.number]()
            self.kernel.tell(f"wake {client.number} {int(is_open)}")

    def queue_up(self, client: Client, nbytes: int) -> None:
        if client.number not in self.wakes:
            return
        queued = self.wakes[client.number](output_at(client.number, self.replied[client.number], nbytes))
        self.replied[client.number] += nbytes * queued
        self.kernel.tell(f"queue {client.number} {int(queued)}")

    def accept(self, id: int, addr: str, wake: Callable[..., bool], ctx: None) -> Any:
        number = int(addr.removeprefix("10.0.0.1:"))
        client = self.numbers[id] = self.kernel.clients[number]
        self.kernel.tell(f"accept {number} id {id}")
        self.wakes[number] = wake
        self.received[number] = self.replied[number] = 0
        if client.mode == "W":
            self.queue_up(client, OWN_WAKE)
            self.wake_up(client)
        if client.mode == "F":
            raise CallbackError
        greeting = self.reply(client, GREETING) if client.mode in "Gc" else None
        return greeting, client.mode not in "cC"

    def handle(self, id: int, data: bytes, ctx: None) -> Any:
        client = self.numbers[id]
        number = client.number
        if not data:
            self.kernel.tell(f"woken {number}")
            return self.reply(client, WOKEN_REPLY)
        at = self.received[number]
        self.kernel.tell(f"data {number} {at}+{len(data)}")
        self.received[number] += len(data)
        assert self.received[number] == client.received, "data was lost"
        answer, keepopen = 0, True
        if data[:1].isupper():  # a command stands at the beginning of a segment, so of a piece
            match chr(data[0]):
                case "E":
                    self.silent.discard(number)
                case "S":
                    self.silent.add(number)
                case "B":
                    answer += self.big
                case "W":
                    self.wake_up(client)
                case "V":
                    self.queue_up(client, OWN_WAKE)
                case "Q":
                    keepopen = False
                case "F":
                    raise CallbackError
            data = data[1:]
        if keepopen and number not in self.silent:
            answer += len(data)
        return self.reply(client, answer), keepopen

    def closed(self, id: int, error: BaseException | None, ctx: None) -> None:
        client = self.numbers[id]
        self.kernel.tell(f"closed {client.number} {end_name(error)}")
        assert client.place == "left"
        assert not self.wakes[client.number]()

    def ticker(self, ctx: None) -> bool:
        if self.kernel.asked_to_stop:
            self.kernel.tell("stop")
        return not self.kernel.asked_to_stop


def end_name(error: BaseException | None) -> str:
    """Return what the C program calls the end of a connection."""
    match error:
        case None:
            return "none"
        case CallbackError():
            return "failed"
        case BufferError():
            return "overflow"
        case TimeoutError(errno=None):
            return "idle" if "either direction" in str(error) else "linger"
        case OSError(errno=int(code)):
            return errno.errorcode[code]
    raise error


def play(script: Script, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Carry out a script under the portable engine, and return its trace."""
    kernel = Kernel(script)
    server, options = kernel.server, script.options

    def paused(code: int) -> None:
        kernel.tell(f"paused {errno.errorcode[code]}")

    def failed(callback: str, id: int, error: BaseException) -> None:
        assert isinstance(error, CallbackError), error

    def no(*args: Any) -> NoReturn:
        raise AssertionError("not simulated")

    sockets = SimpleNamespace(socketpair=kernel.pair, SHUT_WR=socket.SHUT_WR, if_indextoname=no)
    monkeypatch.setattr(_portable, "socket", sockets)
    monkeypatch.setattr(_portable, "duplicate", kernel.duplicate)
    monkeypatch.setattr(_portable, "selectors", SimpleNamespace(DefaultSelector=lambda: Selector(kernel)))
    monkeypatch.setattr(_portable, "monotonic", kernel.monotonic)
    monkeypatch.setattr(_faults, "log_accept_paused", paused)
    monkeypatch.setattr(_faults, "log_failure", failed)
    loop = _portable.Loop(
        LISTENER,
        INTERRUPTS,
        server.handle,
        server.accept,
        server.closed,
        server.ticker,
        None,
        None,
        options["idle"] / UNITS,
        options["max_conns"],
        options["max_pending"],
        options["linger"] / UNITS,
        True,
        1,
    )
    loop.run()
    kernel.tell_clients()
    kernel.tell("end")
    if sys.implementation.name != "cpython":
        gc.collect()  # the bell closes with its last reference, which others find later
    assert kernel.nopen == 0, "something is left open"
    return kernel.trace
