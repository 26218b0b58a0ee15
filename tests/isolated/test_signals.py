"""Signals: their handlers run within a second, and serve leaves their state as it was."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import (
    CRASHES_WITHOUT_MEMORY,
    DEADLINE,
    connect,
    echo,
    exchange,
    for_cpython,
    listener,
    live,
    own_process,
    receive,
)

import evio


@contextlib.contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Run `work` in another thread beside the block, which serves in the main one."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
            signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(DEADLINE)
        if failures:
            raise failures[0]


@pytest.mark.parametrize("ticking", [True, False])
@own_process
def test_ctrl_c_without_traffic(tcp: str, ticking: bool) -> None:
    """Even when the kernel gives it to another thread."""
    sent = 0.0
    client: socket.socket

    def interrupt() -> None:
        nonlocal sent
        assert receive(client, 5) == b"hello"  # it serves
        time.sleep(0.05)  # and now sleeps
        sent = time.monotonic()
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    closed: list[tuple[int, BaseException | None]] = []
    with listener(tcp) as sock:
        for _ in range(10):
            with connect(sock) as client, beside(interrupt):
                try:
                    evio.serve(
                        tcp,
                        sock,
                        echo,
                        lambda *args: b"hello",
                        lambda id, err, ctx: closed.append((id, err)),
                        (lambda ctx: None) if ticking else None,
                    )
                except KeyboardInterrupt:
                    assert 0 < time.monotonic() - sent < 1
                else:
                    raise AssertionError("serve returned")
    assert closed == [(1, None)] * 10


@own_process
def test_second_ctrl_c_does_not_wait_for_slow_readers(tcp: str) -> None:
    def interrupt() -> None:
        client.sendall(b"?")
        assert receive(client, 1) == b"\0"
        for _ in range(2):
            time.sleep(0.3)  # two presses of a key
            os.kill(os.getpid(), signal.SIGINT)

    closed = []
    with listener(tcp) as sock, connect(sock) as client, beside(interrupt):
        started = time.monotonic()
        try:
            evio.serve(tcp, sock, lambda *args: bytes(64_000_000), closed=lambda *args: closed.append(args), linger=60)
        except KeyboardInterrupt:
            assert time.monotonic() - started < 10
        else:
            raise AssertionError("serve returned")
    assert closed == [(1, None, None)]


@own_process
def test_flag_set_by_a_signal_handler_takes_effect_at_once(tcp: str) -> None:
    flags: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: flags.append(number))

    def terminate() -> None:
        assert ready.wait(DEADLINE)
        time.sleep(0.1)  # it ticks once a second while there is no traffic
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    ready = threading.Event()
    times: list[float] = []

    def ticker(ctx: Any) -> bool:
        ready.set()
        times.append(time.monotonic())
        return not flags

    with listener(tcp) as sock, beside(terminate):
        evio.serve(tcp, sock, ticker=ticker)
    assert flags == [signal.SIGTERM]
    # The last tick came of the signal, not of the clock.
    assert times[-1] - times[-2] < 0.7


@pytest.mark.parametrize("raising", [False, True])
@own_process
def test_wakeup_descriptor_is_put_back(tcp: str, raising: bool) -> None:
    def ticker(ctx: Any) -> bool:
        if raising:
            raise ValueError
        return False

    one, two = socket.socketpair()
    with one, two:
        two.setblocking(False)
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        signal.set_wakeup_fd(two.fileno())
        with contextlib.suppress(ValueError):
            evio.serve(tcp, "127.0.0.1:0", ticker=ticker)
        assert signal.set_wakeup_fd(-1) == two.fileno()
        assert [signal.getsignal(number) for number in signal.valid_signals()] == handlers


@own_process
def test_serve_in_another_thread_touches_no_signal_state(tcp: str) -> None:
    one, two = socket.socketpair()
    with one, two:
        two.setblocking(False)
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        signal.set_wakeup_fd(two.fileno())
        with live(tcp, echo) as server:
            assert exchange(server.connect(), b"x") == b"x"
            assert [signal.getsignal(number) for number in signal.valid_signals()] == handlers
            assert signal.set_wakeup_fd(two.fileno()) == two.fileno()
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)  # it is the main thread's, not the server's
                raise AssertionError("no KeyboardInterrupt")
            assert exchange(server.connect(), b"y") == b"y"
        assert signal.set_wakeup_fd(-1) == two.fileno()


@own_process
def test_deadlines_are_not_extended_by_signals(tcp: str) -> None:
    signal.signal(signal.SIGALRM, lambda *args: None)
    closed: list[tuple[float, BaseException | None]] = []
    with listener(tcp) as sock, connect(sock):
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        started = time.monotonic()
        evio.serve(
            tcp,
            sock,
            closed=lambda id, err, ctx: closed.append((time.monotonic() - started, err)),
            ticker=lambda ctx: not closed,
            idle_timeout=0.5,
        )
        signal.setitimer(signal.ITIMER_REAL, 0)
    ((seconds, error),) = closed
    assert 0.45 < seconds < 3
    assert isinstance(error, TimeoutError)


@own_process
def test_a_peer_that_has_gone_is_no_signal(unix: str) -> None:
    """Where a program has put SIGPIPE back to its default, which ends it, sending to nobody would."""
    gone = threading.Event()

    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        if data == b"gone":
            assert gone.wait(DEADLINE)
        return data

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    with live(unix, handle) as server:
        client = server.connect()
        client.sendall(b"gone")
        client.close()
        gone.set()
        assert isinstance(server.wait_closed(1), ConnectionError)
        assert exchange(server.connect(), b"still") == b"still"


@own_process
def test_signals_do_not_make_the_ticker_run_faster(tcp: str) -> None:
    times: list[float] = []

    def ticker(ctx: Any) -> bool:
        times.append(time.monotonic())
        return times[-1] - times[0] < 0.5

    signal.signal(signal.SIGALRM, lambda *args: None)
    with listener(tcp) as sock:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        evio.serve(tcp, sock, ticker=ticker)
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert len(times) <= 32
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) > 0.005


@for_cpython
@pytest.mark.skipif("native" in CRASHES_WITHOUT_MEMORY, reason="CPython itself crashes")
@own_process
def test_earlier_wakeup_descriptor_is_restored_where_memory_ends(tcp: str) -> None:
    """Whichever allocation of a serve it is that fails, and nothing else than MemoryError comes of it."""
    testcapi = importlib.import_module("_testcapi")
    warnings.simplefilter("ignore", ResourceWarning)  # that a finalizer has closed what could not be used
    unraisable: list[BaseException | None] = []
    sys.unraisablehook = lambda told: unraisable.append(told.exc_value)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno())
    with listener(tcp) as sock, reader, writer:
        for number in range(1, 300):
            try:
                testcapi.set_nomemory(number, number + 1)
                evio.serve(tcp, sock, ticker=lambda ctx: False)
            except (MemoryError, SystemError):  # the latter is CPython's own: a traceback found no memory
                pass
            finally:
                testcapi.remove_mem_hooks()
            assert signal.set_wakeup_fd(writer.fileno()) == writer.fileno(), number
        signal.set_wakeup_fd(-1)
    assert {type(error) for error in unraisable} <= {MemoryError}


@own_process
def test_earlier_wakeup_descriptor_is_restored_though_memory_ends_in_that(tcp: str) -> None:
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno())
    set_wakeup_fd = signal.set_wakeup_fd
    failures: list[int] = []

    def fail_once(fd: int, **options: Any) -> int:
        if fd == writer.fileno() and not failures:
            failures.append(fd)
            raise MemoryError
        return set_wakeup_fd(fd, **options)

    signal.set_wakeup_fd = fail_once
    with reader, writer:
        evio.serve(tcp, "127.0.0.1:0", ticker=lambda ctx: False)
        assert failures
        assert set_wakeup_fd(-1) == writer.fileno()
