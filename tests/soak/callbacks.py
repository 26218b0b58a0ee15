"""Situations 17 to 21: exceptions, bad replies, signals, fork."""

from __future__ import annotations

import gc
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import replies
from harness import (
    DEADLINE,
    Live,
    connect,
    descriptors,
    echo,
    exchange,
    in_child,
    listener,
    live,
    nothing,
    receive,
    receive_all,
    serve_once,
)

import evio

from .situation import Run, situation
from .tools import milliseconds, references


class _Raising:
    """Callbacks that greet and echo, and of whose calls some raise."""

    def __init__(self, numbers: set[int]) -> None:
        self.calls = 0
        self.raised: list[tuple[str, int, Exception]] = []  #: the callback, the connection and the exception
        self._numbers = numbers  # of the calls that raise

    def _call(self, callback: str, id: int) -> None:
        number = self.calls
        self.calls += 1
        if number in self._numbers:
            error = ValueError(number)
            self.raised.append((callback, id, error))
            raise error

    def accept(self, id: int, *args: Any) -> bytes:
        self._call("accept", id)
        return b"welcome"

    def handle(self, id: int, data: bytes, ctx: Any) -> bytes:
        self._call("handle", id)
        return data

    def closed(self, id: int, *args: Any) -> None:
        self._call("closed", id)


class _Client:
    """One of the clients of `_Raising`, which checks every byte."""

    def __init__(self, server: Live) -> None:
        self._socket = connect(server.addr)
        self.name = "{}:{}".format(*self._socket.getsockname()) if server.addr.family == socket.AF_INET else ""

    def exchange(self, message: bytes) -> bool:
        """Send and receive, and return whether all came back. A part of it may, where handle raised behind it."""
        received = b""
        try:
            self._socket.sendall(message)
            while len(received) < len(message):
                piece = self._socket.recv(len(message))
                if not piece:
                    break
                received += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert message.startswith(received)
        return received == message

    def is_welcome(self) -> bool:
        try:
            greeting = receive(self._socket, 7)
        except ConnectionResetError:
            greeting = b""
        assert greeting in (b"welcome", b"")
        return greeting != b""

    def close(self) -> None:
        self._socket.close()


@situation(17, "exceptions in callbacks", light={"calls": 1_500}, heavy={"calls": 100_000})
def exceptions_in_callbacks(run: Run, calls: int) -> str:
    """One call in a hundred raises: one log record for each, its connection closed with it, the rest correct."""
    callbacks = _Raising(set(run.random.sample(range(calls), calls // 100)))
    gone: set[str] = set()  # the addresses of those that the server has closed
    pattern = run.random.randbytes(300_000)
    with live(run.net("tcp"), callbacks.handle, callbacks.accept, callbacks.closed) as server:
        clients: list[_Client] = []
        while callbacks.calls < calls:
            run.progress(callbacks.calls, calls)
            if len(clients) < 20:
                client = _Client(server)
                clients.append(client)
                alive = client.is_welcome()
            else:
                client = run.random.choice(clients)
                size = run.random.choice((1, 10, 1000, 100_000))
                start = run.random.randrange(len(pattern) - size)
                alive = client.exchange(pattern[start : start + size])
            if not alive:
                gone.add(client.name)
            if not alive or run.random.random() < 0.25:
                clients.remove(client)
                client.close()
        for client in clients:
            client.close()
        server.wait(lambda: len(server.closed) == len(server.accepted))
        assert len(callbacks.raised) == calls // 100
        failed = {id: error for callback, id, error in callbacks.raised if callback != "closed"}
        assert {id: err for id, err in server.closed.items() if err is not None} == failed
        assert gone == {server.accepted[id] for id in failed}
        records = server.take_records()
        assert [(record.getMessage(), record.exc_info[1]) for record in records if record.exc_info] == [
            (f"{callback}() failed for connection {id}", error) for callback, id, error in callbacks.raised
        ]
    told = ", ".join(f"{count:,} of {name}" for name, count in Counter(name for name, *_ in callbacks.raised).items())
    return f"{len(records):,} records for {len(callbacks.raised):,} raises ({told})"


@situation(18, "bad replies", light={"times": 4}, heavy={"times": 1_000})
def bad_replies(run: Run, times: int) -> str:
    """The TypeError of the contract for each, nothing kept of any, beside a client that is served."""
    make: Callable[[], Any] = nothing

    def handle(id: int, data: bytes, ctx: Any) -> Any:
        return make() if data == b"?" else data

    def accept(id: int, *args: Any) -> Any:
        return make() if id % 2 else None

    watched = [replies.PIECE, *replies.CLASSES, handle, accept]

    with live(run.net("tcp"), handle, accept) as server:
        other = server.connect()
        assert exchange(other, b"first") == b"first"
        before = references(watched)
        total = (len(replies.BAD) + len(replies.FORMS)) * times
        numbers = itertools.count()
        for bad in replies.BAD:
            make = bad.make
            for _ in range(times):
                run.progress(next(numbers), total)
                id = len(server.closed) + 2
                with connect(server.addr) as client:
                    callback = "accept" if id % 2 else "handle"
                    client.sendall(b"?")
                    error = server.wait_closed(id)
                assert type(error) is TypeError
                assert str(error).startswith(f"{callback}() returned {bad.text}; allowed: "), f"{bad.name}: {error}"
                (record,) = server.take_records()
                assert record.exc_info is not None
                assert record.exc_info[1] is error
                server.closed[id] = None  # it holds what the callback returned
                del record, error
            assert exchange(other, b"still here") == b"still here"
        for form in replies.FORMS:  # which are right, though some look as bad
            make = form.make
            for _ in range(times):
                run.progress(next(numbers), total)
                id = len(server.closed) + 2
                with connect(server.addr) as client:
                    if not id % 2:
                        client.sendall(b"?")
                    assert receive(client, len(form.sent)) == form.sent, form.name
                    client.shutdown(socket.SHUT_WR)
                    assert receive_all(client) == b"", form.name
                    assert server.wait_closed(id) is None
        make = nothing  # it may have been one of the classes
        assert references(watched) == before
    return f"{len(replies.BAD)} bad replies: TypeError; {len(replies.FORMS)} right ones: sent; no reference kept"


@situation(18, "a list that other threads change", light={"times": 60}, heavy={"times": 5_000})
def list_that_changes(run: Run, times: int) -> str:
    """What is sent is the list at one moment, or the error is a TypeError."""
    pieces: list[Any] = []
    # Many, and not bytes, so that they take long to read.
    a, b, c = bytearray(b"a"), bytearray(b"bbb"), bytearray(b"c")
    contents: list[list[Any]] = [[a] * 5000, [b] * 4000, [*[c] * 3000, None], []]
    answers = {b"".join(content) + b"." for content in contents if None not in content}
    done = False

    def change() -> None:
        while not done:
            for content in contents:
                pieces[:] = content

    def handle(id: int, data: bytes, ctx: Any) -> Any:
        server.wakes[id](b"")
        return pieces

    def closed(id: int, err: BaseException | None, ctx: Any) -> None:
        ends[type(err)] += 1

    ends: Counter[type] = Counter()
    thread = threading.Thread(target=change)
    switches = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        with live(run.net("tcp"), handle, closed=closed) as server:
            for number in range(times):
                run.progress(number, times)
                with connect(server.addr) as client:
                    client.sendall(b"?")
                    client.shutdown(socket.SHUT_WR)
                    try:
                        received = receive_all(client)
                    except ConnectionResetError:
                        received = b""
                assert received + b"." in answers
            server.wait(lambda: ends.total() == times)
            assert all(type(err) is TypeError for err in server.closed.values() if err is not None)
            assert len(server.take_records()) == ends[TypeError]
            assert ends[TypeError] + ends[type(None)] == times
    finally:
        done = True
        thread.join()
        sys.setswitchinterval(switches)
    return f"{ends[type(None)]:,} sent, {ends[TypeError]:,} TypeErrors"


class _Decoder:
    """A decoder whose feed can raise."""

    def __init__(self, raising: Callable[[str, bytes], None]) -> None:
        self._raising = raising

    def decoder(self) -> _Decoder:
        return self

    def feed(self, data: bytes) -> list[bytes]:
        self._raising("feed", data)
        return [data]


CALLBACKS = ("accept", "handle", "closed", "ticker", "feed")


@situation(19, "KeyboardInterrupt, SystemExit", light={"times": 2}, heavy={"times": 200})
def interrupts_in_callbacks(run: Run, times: int) -> str:
    """Every connection closed with None, the exception raised by serve, and then it serves again."""
    before = descriptors(), threading.enumerate()
    cases = list(itertools.product(CALLBACKS, (KeyboardInterrupt, SystemExit)))
    # All in one thread: the clients connect, send and close before serve looks at them.
    for number in range(times * len(cases)):
        run.progress(number, times * len(cases))
        callback, kind = cases[number % len(cases)]
        with listener(run.net("tcp")) as sock:
            _interrupted(run, sock, callback, kind("on purpose"))
            _serves_again(run, sock)
    gc.collect()
    assert (descriptors(), threading.enumerate()) == before
    assert signal.set_wakeup_fd(-1) == -1
    left = [thing for thing in gc.get_objects() if isinstance(thing, (KeyboardInterrupt, SystemExit, _Decoder))]
    assert left == []
    return f"raised {times * len(cases):,} times, by {', '.join(CALLBACKS)}"


def _interrupted(run: Run, sock: socket.socket, callback: str, error: BaseException) -> None:
    """Serve three to six clients, one of which has the callback raise."""
    count = run.random.randint(3, 6)
    victim = run.random.randint(1, count)
    accepted: dict[int, evio.Wake] = {}
    closed_with: list[tuple[int, BaseException | None]] = []
    raised = 0

    def raising(name: str, data: bytes = b"fail") -> None:
        nonlocal raised
        if name == callback and data == b"fail" and not raised:
            raised += 1
            raise error

    def accept(id: int, addr: str, wake: evio.Wake, ctx: Any) -> None:
        assert id not in accepted
        accepted[id] = wake
        if id == victim:
            raising("accept")

    def handle(id: int, data: Any, ctx: Any) -> Any:
        raising("handle", data[0] if framed else data)
        return data

    def closed(id: int, err: BaseException | None, ctx: Any) -> None:
        assert accepted[id]() is False
        closed_with.append((id, err))
        if id == victim:
            raising("closed")
        if raised and run.random.random() < 0.25:
            raise KeyboardInterrupt("a second one, which cuts short what is left")

    def ticker(ctx: Any) -> None:
        if len(accepted) == count:
            raising("ticker")

    framed = callback == "feed"
    functions = [handle, accept, closed, ticker]
    before = references(functions)
    clients = [connect(sock) for _ in range(count)]
    clients[victim - 1].sendall(b"fail")
    if callback == "closed":
        clients[victim - 1].close()
    frame = _Decoder(raising) if framed else None
    caught: BaseException | None = None
    try:
        evio.serve(run.net("tcp"), sock, handle, accept, closed, ticker, frame=frame, linger=0.05)
    except BaseException as exception:
        caught = exception
    assert caught is error
    for client in clients:
        client.close()
    assert raised == 1
    assert victim in accepted
    assert sorted(closed_with) == [(id, None) for id in accepted]
    assert not any(wake() or wake(b"late") for wake in accepted.values())
    error.__traceback__ = None  # its frames refer to the callbacks
    assert references(functions) == before


def _serves_again(run: Run, sock: socket.socket) -> None:
    """Serve a client, and whoever has been left in the backlog."""
    with connect(sock) as client:
        name = "{}:{}".format(*client.getsockname())
        ids: dict[int, str] = {}
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        ended: list[str] = []
        evio.serve(
            run.net("tcp"),
            sock,
            echo,
            lambda id, addr, wake, ctx: ids.update({id: addr}),
            lambda id, err, ctx: ended.append(ids[id]),
            lambda ctx: name not in ended,
            linger=0.05,
        )
        assert receive_all(client) == b"hello"


class _Enough(BaseException):
    """Ends a server that has no ticker."""


@situation(20, "signals", light={"signals": 60, "serves": 3}, heavy={"signals": 500, "serves": 10})
def signals_without_traffic(run: Run, signals: int, serves: int) -> str:
    """The handler runs soon although another thread got the signal; the wakeup descriptor is put back."""
    handled = threading.Event()
    handler_threads: set[threading.Thread] = set()
    latencies: list[float] = []
    reader, writer = os.pipe()

    def handler(*args: Any) -> None:
        handler_threads.add(threading.current_thread())
        handled.set()

    def end(*args: Any) -> None:
        raise _Enough

    def kill(worker: threading.Thread, seed: float) -> None:
        """Signal the worker, which waits for a pipe, while the server sleeps."""
        numbers = random.Random(seed)
        assert worker.ident is not None
        assert exchange(client, b"it serves") == b"it serves"
        for _ in range(signals // serves):
            time.sleep(numbers.uniform(0, 0.003))  # the loop falls asleep, or is about to
            handled.clear()
            sent = time.monotonic()
            signal.pthread_kill(worker.ident, signal.SIGUSR1)
            assert handled.wait(DEADLINE), "the handler has not run"
            latencies.append(time.monotonic() - sent)
            run.progress(len(latencies), signals)

    def kill_and_end(worker: threading.Thread, seed: float) -> None:
        try:
            kill(worker, seed)
        finally:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)

    signal.signal(signal.SIGUSR1, handler)
    signal.signal(signal.SIGUSR2, end)
    one, two = socket.socketpair()
    worker = threading.Thread(target=lambda: os.read(reader, 1))
    worker.start()
    try:
        with one, two, listener(run.net("tcp")) as sock, ThreadPoolExecutor(1) as pool:
            one.setblocking(False)
            two.setblocking(False)
            signal.set_wakeup_fd(two.fileno(), warn_on_full_buffer=False)
            for _ in range(serves):
                with connect(sock) as client:
                    killing = pool.submit(kill_and_end, worker, run.random.random())
                    try:
                        evio.serve(run.net("tcp"), sock, echo)
                    except _Enough:
                        killing.result()
                    else:
                        raise AssertionError("serve returned")
                assert signal.set_wakeup_fd(two.fileno(), warn_on_full_buffer=False) == two.fileno()
            signal.raise_signal(signal.SIGUSR1)
            assert one.recv(1) == bytes([signal.SIGUSR1])  # and it works again
            signal.set_wakeup_fd(-1)
    finally:
        os.write(writer, b".")
        worker.join()
        os.close(reader)
        os.close(writer)
    assert handler_threads == {threading.main_thread()}
    assert len(latencies) == signals
    assert max(latencies) < 1
    return f"{signals} signals: {milliseconds(max(latencies))} at most; the earlier descriptor put back {serves} times"


#: What a program sees that is run by a child: an exit status and a word on stderr if it is more than 0 to 2.
_SEES = """
import os
for fd in range(4096):
    try:
        os.fstat(fd)
    except OSError:
        if fd < 3:
            raise
    else:
        if fd > 2:
            raise SystemExit(f"sees {fd}, which is {os.readlink(f'/dev/fd/{fd}')}")
"""


@situation(21, "fork and exec", light={"forks": 15, "clients": 30}, heavy={"forks": 1_000, "clients": 100})
def forks_under_clients(run: Run, forks: int, clients: int) -> str:
    """Children that end, run a program, serve or wake: the parent's clients do not notice."""
    done = threading.Event()

    def exchange_all() -> int:
        exchanges = 0
        while not done.is_set():
            for number, client in enumerate(connected):
                client.sendall(b"%d:%d:" % (number, exchanges) * 10)
            for number, client in enumerate(connected):
                expected = b"%d:%d:" % (number, exchanges) * 10
                assert receive(client, len(expected)) == expected
            exchanges += 1
        return exchanges

    def wakes() -> None:
        for one in server.wakes.values():
            assert one() is False
            assert one(b"from the child") is False

    program = [sys.executable, "-I", "-S", "-c", _SEES]
    actions: list[Callable[[], int]] = [
        lambda: in_child(nothing),
        lambda: in_child(wakes),
        lambda: in_child(lambda: serve_once(run.net("tcp"))),
        lambda: in_child(lambda: os.execv(program[0], program)),
        lambda: subprocess.run(program, close_fds=False, check=False).returncode,  # which forks below Python
    ]
    with live(run.net("tcp"), echo) as server, ThreadPoolExecutor(1) as pool:
        connected = [server.connect() for _ in range(clients)]
        server.wait(lambda: len(server.accepted) == clients)
        exchanging = pool.submit(exchange_all)
        try:
            for number in range(forks):
                run.progress(number, forks)
                assert actions[number % len(actions)]() == 0
                with connect(server.addr) as client:  # it still accepts
                    assert exchange(client, b"new") == b"new"
        finally:
            done.set()
        exchanges = exchanging.result()
        assert exchanges > 0
        server.wait(lambda: len(server.closed) == forks)
        assert set(server.closed.values()) == {None}
        assert set(server.closed) == set(range(clients + 1, clients + forks + 1))
        for id in range(1, clients + 1):
            assert server.wakes[id](b"woken")
        assert all(receive(client, 5) == b"woken" for client in connected)
    return f"{exchanges * clients:,} exchanges beside {forks:,} forks; a program sees 0 to 2"
