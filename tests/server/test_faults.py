"""Faults: what a failing callback, a full server and a second serve do, and what they do not do."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from harness import echo, exchange, listener, live, receive, receive_all, reset

import evio


class Stop(BaseException):
    """Another non-Exception."""


def failing_in(callback: str, error: BaseException) -> dict[str, Any]:
    """Return callbacks of which one raises: accept for the third client, the others at its word."""
    asked = threading.Event()

    def accept(id: int, *args: Any) -> None:
        if callback == "accept" and id == 3:
            raise error

    def handle(id: int, data: bytes, ctx: Any) -> Any:
        if data != b"fail":
            return data
        if callback == "handle":
            raise error
        asked.set()
        return b"", callback != "closed"

    def closed(id: int, *args: Any) -> None:
        if callback == "closed" and id == 3:
            raise error

    def ticker(ctx: Any) -> None:
        if callback == "ticker" and asked.is_set():
            raise error

    return {"accept": accept, "handle": handle, "closed": closed, "ticker": ticker}


@pytest.mark.parametrize("callback", ["handle", "accept"])
def test_exception_in_handle_or_accept_closes_that_connection_alone(net: str, callback: str) -> None:
    error = ZeroDivisionError("on purpose")
    with live(net, **failing_in(callback, error)) as server:
        others = [server.connect() for _ in range(2)]
        for other in others:
            exchange(other, b"x")
        client = server.connect()
        if callback == "handle":
            client.sendall(b"fail")
        assert server.wait_closed(3) is error
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        (record,) = server.take_records()
        assert (record.name, record.levelname) == ("evio", "ERROR")
        assert record.getMessage() == f"{callback}() failed for connection 3"
        assert record.exc_info is not None
        assert record.exc_info[1] is error
        assert [frame.name for frame in traceback.extract_tb(record.exc_info[2])][-1] == callback
        for other in others:
            assert exchange(other, b"x") == b"x"


def test_exception_in_closed_is_logged_and_that_is_all(net: str) -> None:
    error = ZeroDivisionError("on purpose")
    with live(net, **failing_in("closed", error)) as server:
        others = [server.connect() for _ in range(2)]
        for other in others:
            exchange(other, b"x")
        server.connect().close()
        assert server.wait_closed(3) is None
        assert exchange(others[0], b"x") == b"x"
        (record,) = server.take_records()
        assert record.getMessage() == "closed() failed for connection 3"
        assert record.exc_info is not None
        assert record.exc_info[1] is error


def test_unsent_output_is_dropped_by_a_failure(net: str) -> None:
    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        return bytes(64_000_000) if data else data[5]  # type: ignore[return-value]

    with live(net, handle) as server:
        client = server.connect()
        client.sendall(b"?")
        assert receive(client, 1) == b"\0"
        server.wakes[1]()
        assert isinstance(server.wait_closed(1), IndexError)
        with contextlib.suppress(ConnectionResetError):
            assert len(receive_all(client)) < 63_999_999
        assert len(server.take_records()) == 1


@pytest.mark.parametrize("callback", ["handle", "accept", "ticker", "closed"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, Stop])
def test_non_exception_in_any_callback_stops_and_is_raised(tcp: str, callback: str, kind: type[BaseException]) -> None:
    error = kind("on purpose")
    with listener(tcp) as sock:
        with live(tcp, **failing_in(callback, error), addr=sock) as server:
            others = [server.connect() for _ in range(2)]
            for other in others:
                exchange(other, b"x")
            client = server.connect()
            if callback != "accept":
                client.sendall(b"fail")
            if callback == "closed":
                client.close()
            assert server.join() is error
            assert server.closed == {1: None, 2: None, 3: None}
            for other in others:
                assert other.recv(1) == b""
        with live(tcp, echo, addr=sock) as server:  # and it can serve again
            assert exchange(server.connect(), b"hello") == b"hello"


def test_exception_in_ticker_stops_and_is_raised(net: str) -> None:
    error = ZeroDivisionError("on purpose")
    with live(net, **failing_in("ticker", error)) as server:
        for _ in range(3):
            exchange(server.connect(), b"x")
        server.connect().sendall(b"fail")
        assert server.join() is error
        assert server.closed == dict.fromkeys(range(1, 5))


def test_non_exception_while_an_error_is_made_stops_and_is_raised(tcp: str, monkeypatch: pytest.MonkeyPatch) -> None:
    strerror, errors = os.strerror, [KeyboardInterrupt("on purpose")]

    def interrupted_once(number: int) -> str:
        if errors:
            raise errors.pop()
        return strerror(number)

    with live(tcp, echo) as server:
        client = server.connect()
        exchange(client, b"x")
        monkeypatch.setattr("os.strerror", interrupted_once)
        reset(client)
        assert isinstance(server.join(), KeyboardInterrupt)
        assert list(server.closed) == [1]


class Broken(logging.Handler):
    """A handler of log records that raises."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def emit(self, record: logging.LogRecord) -> None:
        raise self._error


@contextlib.contextmanager
def logging_to(handler: logging.Handler) -> Iterator[None]:
    logging.getLogger("evio").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("evio").removeHandler(handler)


def test_log_handler_that_raises_costs_nothing_else(tcp: str, capsys: pytest.CaptureFixture[str]) -> None:
    with live(tcp, lambda id, data, ctx: 1 // 0 if data == b"fail" else data) as server:
        other = server.connect()
        with logging_to(Broken(ZeroDivisionError("in the log handler"))):
            server.connect().sendall(b"fail")
            assert type(server.wait_closed(2)) is ZeroDivisionError
        assert exchange(other, b"hello") == b"hello"
        server.take_records()
    assert "in the log handler" in capsys.readouterr().err


@pytest.mark.parametrize("callback", ["handle", "accept", "closed"])
def test_log_handler_that_raises_where_there_is_no_stderr(
    tcp: str, callback: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.StringIO()
    stderr.close()  # as in a daemon
    with live(tcp, **failing_in(callback, ZeroDivisionError("on purpose"))) as server:
        others = [server.connect() for _ in range(2)]
        for other in others:
            exchange(other, b"x")
        with logging_to(Broken(OSError("in the log handler"))), monkeypatch.context() as patch:
            patch.setattr("sys.stderr", stderr)
            with server.connect() as client:
                if callback == "handle":
                    client.sendall(b"fail")
                elif callback == "closed":
                    client.close()
                server.wait_closed(3)
        for other in others:
            assert exchange(other, b"hello") == b"hello"
        assert len(server.take_records()) == 1


@pytest.mark.parametrize("callback", ["handle", "accept", "closed"])
def test_non_exception_in_a_log_handler_stops_and_is_raised(tcp: str, callback: str) -> None:
    error = KeyboardInterrupt("in the log handler")
    with live(tcp, **failing_in(callback, ZeroDivisionError("on purpose"))) as server:
        others = [server.connect() for _ in range(2)]
        for other in others:
            exchange(other, b"x")
        with logging_to(Broken(error)), server.connect() as client:
            if callback == "handle":
                client.sendall(b"fail")
            elif callback == "closed":
                client.close()
            assert server.join() is error
        assert server.closed == {1: None, 2: None, 3: None}
        assert len(server.take_records()) == 1


def test_pending_output_is_flushed_before_serve_raises(net: str) -> None:
    reply = random.Random(3).randbytes(8_000_000)

    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        if data:
            return reply
        raise KeyboardInterrupt

    with live(net, handle) as server:
        client = server.connect()
        client.sendall(b"?")
        assert receive(client, 1) == reply[:1]
        server.wakes[1]()
        assert receive_all(client) == reply[1:]
        assert isinstance(server.join(), KeyboardInterrupt)


def test_second_non_exception_ends_at_once_and_the_first_is_raised(net: str) -> None:
    raised: list[KeyboardInterrupt] = []

    def interrupt(*args: Any) -> Any:
        raised.append(KeyboardInterrupt(len(raised)))
        raise raised[-1]

    def handle(id: int, data: bytes, ctx: Any) -> Any:
        return bytes(64_000_000) if data == b"huge" else interrupt()

    with live(net, handle, closed=lambda id, *args: interrupt() if id == 2 else None, linger=60) as server:
        client, other = server.connect(), server.connect()
        client.sendall(b"huge")
        assert receive(client, 1) == b"\0"
        other.sendall(b"?")
        assert server.join() is raised[0]  # long before linger is over
        assert len(raised) == 2
        assert server.closed == {1: None, 2: None}


def test_serve_from_inside_a_callback_is_a_runtime_error(tcp: str) -> None:
    raised: dict[str, BaseException] = {}

    def nested(callback: str) -> None:
        try:
            evio.serve(tcp, "127.0.0.1:0", ticker=lambda ctx: False)
        except RuntimeError as error:
            raised[callback] = error

    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        nested("handle")
        return data

    with live(
        tcp, handle, lambda *args: nested("accept"), lambda *args: nested("closed"), lambda ctx: nested("ticker")
    ) as server:
        client = server.connect()
        assert exchange(client, b"hello") == b"hello"
        client.close()
        server.wait_closed(1)
        assert sorted(raised) == ["accept", "closed", "handle", "ticker"]
        assert {str(error) for error in raised.values()} == {
            "evio.serve was called from inside a callback; another thread can serve beside this one"
        }


@pytest.mark.threads
def test_serve_in_a_thread_that_a_callback_started(tcp: str) -> None:
    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        thread = threading.Thread(target=evio.serve, args=(tcp, "127.0.0.1:0"), kwargs={"ticker": lambda ctx: False})
        thread.start()
        thread.join()
        return data

    with live(tcp, handle) as server:
        assert exchange(server.connect(), b"hello") == b"hello"


def test_max_conns_lets_others_wait_in_the_backlog(net: str) -> None:
    with live(net, echo, max_conns=2) as server:
        one, two = server.connect(), server.connect()
        assert exchange(one, b"1") == b"1"
        assert exchange(two, b"2") == b"2"
        three, four = server.connect(), server.connect()
        three.sendall(b"3")
        four.sendall(b"4")
        for number in range(20):  # turns in which it could have been accepted
            exchange(one, b"%d" % number)
        assert len(server.accepted) == 2
        one.close()
        assert receive(three, 1) == b"3"
        two.close()
        assert receive(four, 1) == b"4"
        assert server.closed == {1: None, 2: None}


def test_max_conns_counts_a_connection_until_it_is_closed(net: str) -> None:
    with live(net, lambda id, data, ctx: (data, False), max_conns=1) as server:
        for number in range(100):
            client = server.connect()
            assert exchange(client, b"%03d" % number) == b"%03d" % number
            client.close()
        server.wait(lambda: len(server.closed) == 100)
