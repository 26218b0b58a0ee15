"""Situations 22 to 26: what threads, interpreters, the collector and the allocator do."""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import logging
import os
import select
import signal
import socket
import statistics
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from harness import DEADLINE, Live, connect, descriptors, exchange, listener, live, receive, receive_all, reset

import evio

from .situation import Run, situation
from .tools import Beside, references, resident

# 22: parallel serves


class Place:
    """The ctx of one serve among many."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.wakes: dict[int, evio.Wake] = {}
        self.pushed = Counter[int]()  #: how often each connection's wake has taken data


@situation(22, "parallel serves", light={"serves": 6, "seconds": 0.7}, heavy={"serves": 16, "seconds": 60})
def parallel_serves(run: Run, serves: int, seconds: float) -> str:
    """Independent of each other: every byte is of the serve, the connection and the ctx that it was sent to."""
    each = 3
    places = [Place(number) for number in range(serves)]
    over = threading.Event()

    def accept(id: int, addr: str, wake: evio.Wake, ctx: Place) -> bytes:
        ctx.wakes[id] = wake
        return b"%d/%d hello\n" % (ctx.number, id)

    def handle(id: int, lines: list[bytes], ctx: Place) -> list[bytes]:
        return [b"%d/%d %s\n" % (ctx.number, id, line) for line in lines or [b"woken"]]

    def client(server: Live, place: Place) -> int:
        with server.connect() as sock, sock.makefile("rb") as stream:
            name, _ = stream.readline().split()
            together.wait(DEADLINE)
            seen, exchanges = Counter[bytes](), 0

            def ask(text: bytes) -> None:
                sock.sendall(text + b"\n")
                while True:
                    who, what = stream.readline().split()
                    assert who == name, f"{who!r} came to {name!r}"
                    if what == text:
                        return
                    seen[what] += 1

            while not over.is_set():
                ask(b"%d" % exchanges)
                exchanges += 1
            together.wait(DEADLINE)
            ask(b"last")
            number, id = map(int, name.split(b"/"))
            assert number == place.number
            assert seen.pop(b"pushed") == place.pushed[id]
            assert seen.pop(b"woken") > 0
            assert not seen
        return exchanges

    def push(first: int) -> None:
        together.wait(DEADLINE)  # with all clients: one that came late would not be pushed to
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for place in places[first::2]:
                for id, wake in place.wakes.copy().items():
                    wake()
                    place.pushed[id] += wake(b"%d/%d pushed\n" % (place.number, id))
            run.progress(seconds - (until - time.monotonic()), seconds)
            time.sleep(0.001)  # or the clients would have nothing else to read
        over.set()
        together.wait(DEADLINE)

    together = threading.Barrier(2 + serves * each)
    with contextlib.ExitStack() as stack:
        net, frame = run.net("tcp"), evio.Lines()
        servers = [stack.enter_context(live(net, handle, accept, ctx=place, frame=frame)) for place in places]
        with ThreadPoolExecutor(2 + serves * each) as pool:
            pushers = [pool.submit(push, first) for first in range(2)]
            clients = [
                pool.submit(client, server, place) for server, place in zip(servers * each, places * each, strict=True)
            ]
            for future in pushers:
                future.result()
            exchanges = sum(future.result() for future in clients)
        assert [sorted(server.accepted) for server in servers] == [[1, 2, 3]] * serves
    return f"{exchanges:,} exchanges, {sum(place.pushed.total() for place in places):,} wakes from other threads"


# 23: subinterpreters

SERVE = """
import socket, sys
sys.path[:] = {path!r}
import evio

class Stop(BaseException):
    pass

def accept(id, addr, wake, ctx):
    wake(b"wake ")
    return b"accept "

def handle(id, lines, ctx):
    return [b"%d " % ctx, *lines]

def closed(id, err, ctx):
    raise Stop

sock = socket.socket(fileno={fd})
try:
    evio.serve({net!r}, sock, handle, accept, closed, ctx={ctx}, frame=evio.Lines())
except Stop:
    pass
finally:
    sock.detach()
"""


def in_interpreter(code: str) -> None:
    """Run code in an interpreter of its own, which is destroyed afterwards."""
    if sys.version_info >= (3, 14):
        interpreters = importlib.import_module("concurrent.interpreters")
        with contextlib.closing(interpreters.create()) as interpreter:
            interpreter.exec(code)  # raises what it raises
        return
    interpreters = importlib.import_module("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
    id = interpreters.create()
    try:
        failure = interpreters.run_string(id, code)  # before 3.13 it raises
        assert failure is None, failure
    finally:
        interpreters.destroy(id)


@situation(23, "subinterpreters", light={"rounds": 2}, heavy={"rounds": 100})
def subinterpreters(run: Run, rounds: int) -> str:
    """Created, serving two at a time, and destroyed; where each has a GIL of its own they really run together."""
    exchanges = 0
    before = descriptors()
    for done in range(rounds):
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(2))
            socks = [stack.enter_context(listener(run.net("tcp"))) for _ in range(2)]
            codes = [
                SERVE.format(path=sys.path, fd=sock.fileno(), net=run.net("tcp"), ctx=ctx)
                for ctx, sock in enumerate(socks)
            ]
            serving = [pool.submit(in_interpreter, code) for code in codes]
            clients = [stack.enter_context(connect(sock)) for sock in socks]
            for client in clients:
                assert receive(client, 12) == b"wake accept "
            for number in range(20):
                for ctx, client in enumerate(clients):
                    client.sendall(b"%04d\n" % number)
                    assert receive(client, 6) == b"%d %04d" % (ctx, number)
                    exchanges += 1
            for client in clients:
                client.close()
            for future in serving:
                future.result()
        run.progress(done, rounds)
    assert descriptors() == before
    return f"{2 * rounds} interpreters, {exchanges:,} exchanges"


# 24: leaks

#: How often memory is measured; a quarter of them is for warming up.
POINTS = 12


def disturb(address: Any, control: socket.socket, counts: list[int], framed: bool) -> None:
    """Be the clients: connections that end in every way there is, and a pause after each count of them."""
    number = 0
    for count in counts:
        while number < count:
            client = connect(address)
            number += 1
            kind = number % 8
            with contextlib.suppress(ConnectionError):
                if kind == 0:
                    client.sendall(b"x" * 100 if framed else b"raise\n")  # a message that is too long, or a failure
                elif kind == 1:
                    client.sendall(b"raise\n")
                elif kind == 2:
                    client.sendall(b"bad\n")
                elif kind == 3:
                    client.sendall(b"last\n")
                elif kind == 4:
                    client.sendall(b"half a mess")
                    reset(client)
                    continue
                elif kind == 5:
                    client.sendall(b"hello\n")
                    client.shutdown(socket.SHUT_WR)
                elif kind == 6:
                    client.sendall(b"1\n2\n3\n")
                    client.recv(100)
                    client.shutdown(socket.SHUT_WR)
                else:
                    client.sendall(b"large\n")
                    receive(client, 1_000_000)
                    client.shutdown(socket.SHUT_WR)
                receive_all(client)
            client.close()
        control.recv(1)


@situation(
    24,
    "leaks",
    light={"connections": 2_400, "spare": 256 * 1024},
    heavy={"connections": 200_000, "spare": 0},
    limit=1200,
)
def leaks(run: Run, connections: int, spare: int) -> str:
    """No memory stays for a connection that has gone, no object either, and no reference.

    Args:
        spare: bytes that may stay all the same: a few connections say little beside what malloc keeps.
    """
    logging.getLogger("evio").addHandler(logging.NullHandler())
    logging.getLogger("evio").propagate = False
    half = connections // 2
    counts = [half * part // POINTS for part in range(1, POINTS + 1)]
    figures = [measure_leaks(run, framed, counts, spare) for framed in (False, True)]
    return f"for each connection {figures[0]}; framed {figures[1]}"


def measure_leaks(run: Run, framed: bool, counts: list[int], spare: int) -> str:
    """Serve the last of `counts` connections, and measure after each."""
    connections = counts[-1]
    large = bytes(1_000_000)

    def handle(id: int, data: Any, ctx: Counter[str]) -> Any:
        text = b"".join(data)[:3] if isinstance(data, list) else data[:3]
        if text == b"rai":
            raise ValueError(data)
        if text == b"bad":
            return 1
        if text == b"lar":
            return large
        return [b"a", bytearray(b"b"), text], text != b"las"

    def accept(id: int, addr: str, wake: evio.Wake, ctx: Counter[str]) -> bytes:
        ctx["accept"] += 1
        wake()
        wake(b"woken")
        return b"hello"

    def closed(id: int, err: BaseException | None, ctx: Counter[str]) -> None:
        ctx["closed"] += 1
        ctx[type(err).__name__] += 1

    def ticker(ctx: Counter[str]) -> bool:
        run.progress(ctx["closed"] + framed * connections, 2 * connections)
        if ctx["closed"] == counts[len(measured)]:
            gc.collect()
            measured.append((resident(), sys.getallocatedblocks(), references(watched)))
            control.send(b"\0")
        return len(measured) < len(counts)

    net, frame = run.net("unix"), evio.Lines(max_size=64) if framed else None
    measured: list[tuple[int, int, list[int]]] = []
    ctx = Counter[str]()
    watched = [ctx, handle, accept, closed, ticker, large]
    control, theirs = socket.socketpair()
    with listener(net) as sock, control:
        with theirs:
            beside = Beside(disturb, sock.getsockname(), theirs, counts, framed)
        at_first = references(watched)
        evio.serve(net, sock, handle, accept, closed, ticker, ctx, frame=frame, idle_timeout=60)
        assert references(watched) == at_first
        beside.result()
    assert ctx["accept"] == ctx["closed"] == connections
    ends = {"NoneType", "ValueError", "TypeError", "ConnectionResetError"} | ({"FrameError"} if framed else set())
    assert ctx.keys() == ends | {"accept", "closed"}
    # What leaks, grows from each point to the next; where malloc takes another page or gives some back is a step.
    settled = measured[POINTS // 4 :]
    slopes = [(after[0] - before[0]) / (connections // POINTS) for before, after in itertools.pairwise(settled)]
    slope = statistics.median(slopes)
    more = settled[-1][1] - settled[0][1]
    figures = f"{slope:+.2f} bytes and {more:+} objects in all"
    assert all(counted == measured[0][2] for _, _, counted in measured)
    assert more < 100, figures  # what is measured is kept, too
    assert slope <= 1 + spare / connections, (figures, slopes)
    return figures


# 25: cycles


class Knot:
    """A ctx that everything refers to, and that refers to everything."""

    def __init__(self, kept: list[evio.Wake]) -> None:
        self.wakes: list[evio.Wake] = []
        self.kept = kept
        self.ends = 0

    def accept(self, id: int, addr: str, wake: evio.Wake, ctx: Knot) -> None:
        self.wakes.append(wake)
        self.kept.append(wake)

    def decoder(self) -> Knot:
        return self

    def feed(self, data: bytes) -> list[bytes]:
        return [data]

    def handle(self, id: int, messages: list[bytes], ctx: Knot) -> list[bytes]:
        return messages

    def closed(self, id: int, err: BaseException | None, ctx: Knot) -> None:
        self.ends += 1


@situation(25, "cycles of ctx, wakes and callbacks", light={"wakes": 300}, heavy={"wakes": 5_000})
def cycles(run: Run, wakes: int) -> str:
    """All of it is collected after serve has returned or raised, and keeping wakes keeps nothing else alive."""
    collected = 0
    for raises in (False, True):
        for keeps in (True, False):
            kept: list[evio.Wake] | None = [] if keeps else None
            references, error = serve_knot(run, wakes, raises, kept)
            assert (error is not None) == raises
            del error
            gc.collect()
            alive = [reference() for reference in references if reference() is not None]
            assert alive == [], f"{len(alive)} of {len(references)} are alive"
            if kept is not None:
                assert len(kept) == wakes
                assert not any(wake() or wake(b"late") for wake in kept)
            collected += len(references)
    return f"{collected:,} objects collected"


def serve_knot(
    run: Run, wakes: int, raises: bool, kept: list[evio.Wake] | None
) -> tuple[list[weakref.ref[Any]], BaseException | None]:
    """Return references to what should be collected, and what serve has raised.

    Args:
        wakes: how many connections come and go.
        raises: whether serve does.
        kept: where the wakes are to be kept, if they are.
    """
    knot = Knot([] if kept is None else kept)

    def ticker(ctx: Knot) -> bool:
        if raises and ctx.ends == wakes:
            raise KeyboardInterrupt(ctx)  # refers to it, and so does its traceback
        return ctx.ends < wakes

    def come_and_go() -> None:
        for number in range(wakes):
            with connect(sock) as client:
                assert exchange(client, b"hello") == b"hello"
            run.progress(number, wakes)

    error = None
    with listener("tcp") as sock, ThreadPoolExecutor(1) as pool:
        clients = pool.submit(come_and_go)
        try:
            evio.serve(run.net("tcp"), sock, knot.handle, knot.accept, knot.closed, ticker, knot, frame=knot)
        except KeyboardInterrupt as raised:
            error = raised
        clients.result()
    return [weakref.ref(thing) for thing in (knot, ticker, *(knot.wakes if kept is None else ()))], error


# 26: no memory


class Done(BaseException):
    """Stops a server at once."""


@dataclass(frozen=True)
class Framing:
    """A way to frame what the clients of `no_memory` say."""

    frame: Any
    data: bytes  #: what is said and answered
    stop: bytes  #: what stops the server, with a number to be put in
    text: Callable[[Any], bytes] = lambda messages: messages[0]  #: what is in `stop`, as `handle` is given it


FRAMINGS = (
    Framing(None, b"hello", b"STOP%05d", lambda data: data),
    Framing(evio.Lines(), b"hello\nthere\n", b"STOP%05d\n"),
    Framing(evio.Prefixed(2), b"\0\5hello\0\5there", b"\0\x09STOP%05d"),
    Framing(evio.resp.Commands(), b"GET 'k'\r\n*1\r\n$4\r\nPING\r\n", b"STOP%05d\r\n", lambda data: data[0][0]),
    Framing(evio.resp.Runs(), b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n" * 3, b"STOP%05d\r\n", lambda data: data[0][0]),
)

#: Functions of the standard library that lose the descriptor that they have just opened when memory ends behind it.
LOSE_DESCRIPTORS = {"dup", "socketpair", "accept"}

EXCHANGES = 60


def converse(address: Any, control: socket.socket, framing: Framing, other: socket.socket) -> None:
    """Be the clients of a server whose memory fails once, for each number that `control` tells."""
    other.close()
    while word := control.recv(5, socket.MSG_WAITALL):
        failed = answered = 0
        while answered < 2:  # a failure, and a later client that is served
            if converse_once(address, framing.data):
                answered += 1
            else:
                failed += 1
            assert failed < 5, "clients are not served any more"
        ready: list[Any] = []
        while not ready:  # what stops the server may be what fails
            with contextlib.suppress(ConnectionError), connect(address) as client:
                client.sendall(framing.stop % int(word))
                receive_all(client)
            ready = select.select([control], [], [], 0.5)[0]
        control.recv(1)
        control.sendall(bytes([failed]))


def converse_once(address: Any, data: bytes) -> bool:
    """Return whether the connection was served to its end; else it was closed at once or in between."""
    with contextlib.suppress(ConnectionError), connect(address) as client:
        if receive(client, 14) != b"pushed hello, ":
            return False
        for number in range(EXCHANGES):
            client.sendall(data)
            if number == 0 and receive(client, 6) != b"woken ":
                return False
            if receive(client, 9) != b"some text":
                return False
        return True
    return False


def lost_by_interpreter(error: object) -> bool:
    """Return whether an exception is what CPython makes of one that it lost, for lack of memory for its traceback.

    Any function in Python that raises while an allocation fails may do so, without evio being near.
    """
    return isinstance(error, SystemError) and (
        str(error) == "error return without exception set"
        or (str(error).startswith("<function ") and str(error).endswith(" returned NULL without setting an exception"))
    )


class Seen:
    """What was told of one failure: the ctx of its server."""

    def __init__(self, stop: bytes) -> None:
        self.stop = stop
        self.ends: list[BaseException | None] = []
        self.records: list[logging.LogRecord] = []
        self.unraisable: list[Any] = []
        self.raised: list[str] = []  #: with the tracebacks as text, for they would keep what their frames have
        self.reached = False  #: whether it has come to it
        self.lost = 0  #: descriptors
        self.loses_descriptors = False  #: as the standard library does where that was its fault

    def failed(self, error: BaseException) -> None:
        """Take down what serve has raised."""
        self.raised.append("".join(traceback.format_exception(error)))
        frames = traceback.extract_tb(error.__traceback__)
        ours = bool(frames) and frames[-1].name == "serve"  # it was the loop, not the interpreter, that raised
        assert isinstance(error, MemoryError) or (lost_by_interpreter(error) and not ours), self.raised
        assert len(self.raised) == 1, self.raised
        self.loses_descriptors = any(
            frame.filename == socket.__file__ and frame.name in LOSE_DESCRIPTORS for frame in frames
        )

    def check(self) -> None:
        """Assert that memory is all that went wrong."""
        for error in self.ends:
            assert error is None or isinstance(error, (MemoryError, ConnectionResetError)) or lost_by_interpreter(error)
        for record in self.records:
            paused = record.getMessage().startswith("accepting is paused")
            error = record.exc_info and record.exc_info[1]
            assert paused or isinstance(error, MemoryError) or lost_by_interpreter(error), record.getMessage()
        assert all(isinstance(error, MemoryError) or lost_by_interpreter(error) for error in self.unraisable), (
            self.unraisable
        )


class Records(logging.Handler):
    seen: Seen

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.records.append(record)


@situation(26, "no memory", light={"failures": 400, "step": 13}, heavy={"failures": 5_000, "step": 1}, limit=1800)
def no_memory(run: Run, failures: int, step: int) -> str:
    """Whichever allocation fails: serve raises MemoryError, or that connection is closed, and others are served.

    Args:
        failures: the last of the allocations that fails, counted from the call of serve on, in each framing, as far
            as there are so many.
        step: from one to the next.
    """
    records = Records()
    logging.getLogger("evio").addHandler(records)
    logging.getLogger("evio").propagate = False
    warnings.simplefilter("ignore", ResourceWarning)  # that a finalizer has closed what could not be used
    sys.unraisablehook = lambda told: records.seen.unraisable.append(told.exc_value)
    tally = Counter[str]()
    reached: list[int] = []  #: the last allocation that was, in each framing
    for done, framing in enumerate(FRAMINGS):
        control, theirs = socket.socketpair()
        with listener("tcp") as sock, control:
            with theirs:
                clients = Beside(converse, sock.getsockname(), theirs, framing, control)
            reached.append(0)
            for number in range(1, failures + 1, step):
                if number > reached[-1] + 50 * step:
                    break  # a conversation has no more
                seen = records.seen = Seen(b"STOP%05d" % number)
                control.sendall(b"%05d" % number)
                serve_without_memory(run, sock, framing, number, seen)
                control.sendall(b".")
                failed = control.recv(1)[0]
                seen.check()
                if seen.reached:
                    reached[-1] = number
                    tally["raised" if seen.raised else "closed" if failed else "survived"] += 1
                    tally["descriptors lost by the standard library"] += seen.lost
                run.progress(done * failures + number, len(FRAMINGS) * failures)
            control.close()
            clients.result()
    return ", ".join(f"{count:,} {what}" for what, count in tally.most_common()) + f"; of {reached} allocations"


def serve_without_memory(run: Run, sock: socket.socket, framing: Framing, number: int, seen: Seen) -> None:
    """Serve until a client stops it, and have an allocation fail, counted from here."""
    mutable = bytearray(b"text")

    def accept(id: int, addr: str, wake: evio.Wake, ctx: Seen) -> bytes:
        wake(b"pushed ")
        wake()
        return b"hello, "

    def handle(id: int, data: Any, ctx: Seen) -> Any:
        if not data:
            return b"woken "
        if framing.text(data) == ctx.stop:
            raise Done
        return [b"some ", mutable], True

    def closed(id: int, err: BaseException | None, ctx: Seen) -> None:
        ctx.ends.append(err)

    hooks = importlib.import_module("_testcapi")
    before = descriptors()
    hooks.set_nomemory(number, number + 1)
    while True:
        try:
            evio.serve(run.net("tcp"), sock, handle, accept, closed, ctx=seen, frame=framing.frame)
        except Done:
            break
        except BaseException as error:
            seen.failed(error)
        gc.collect()
        lost = descriptors() - before
        assert not lost or seen.loses_descriptors, seen.raised
        seen.lost = len(lost)
        for fd in lost:  # or a client waits for an answer
            os.close(fd)
    seen.reached = memory_has_ended()
    hooks.remove_mem_hooks()
    assert descriptors() == before, seen.raised
    assert signal.set_wakeup_fd(-1) == -1, seen.raised


def memory_has_ended() -> bool:
    """Return whether the allocation that was to fail has been: else it is soon."""
    try:
        for _ in range(6_000):
            object()
    except MemoryError:
        return False
    return True
