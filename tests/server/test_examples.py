"""The echo server, as a user sees it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest
from harness import DEADLINE, exchange, receive, receive_all
from server.redis_support import Running, run_example, running

GREETING = b"Welcome to the echo server!\nEnter 'quit' to close your connection or 'shutdown' to close the server.\n"


@pytest.fixture
def echo_server(engine: str) -> Iterator[Running]:
    with running("echo_server.py", engine, ready="echo server started", code=-signal.SIGTERM) as server:
        yield server


def connect(server: Running) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), DEADLINE)
    assert receive(client, len(GREETING)) == GREETING
    return client


def test_it_says_on_which_port_it_started(echo_server: Running) -> None:
    assert echo_server.output == [f"echo server started on port {echo_server.port}\n"]


def test_it_greets_and_echoes(echo_server: Running) -> None:
    with connect(echo_server) as client, connect(echo_server) as another:
        assert exchange(client, b"hello\r\n") == b"hello\r\n"
        assert exchange(another, b"other\n") == b"other\n"


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
def test_quit_closes_the_connection_and_no_other(echo_server: Running, line_end: bytes) -> None:
    with connect(echo_server) as client, connect(echo_server) as another:
        client.sendall(b"quit" + line_end)
        assert receive_all(client) == b"quit" + line_end
        assert exchange(another, b"hello") == b"hello"


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
def test_shutdown_closes_the_server(echo_server: Running, line_end: bytes) -> None:
    with connect(echo_server) as client, connect(echo_server) as another:
        client.sendall(b"shutdown" + line_end)
        assert receive_all(client) == b"shutdown" + line_end
        assert receive_all(another) == b""
    assert echo_server.wait() == (0, "")


def test_ctrl_c_leaves_no_traceback(echo_server: Running) -> None:
    with connect(echo_server) as client:
        echo_server.process.send_signal(signal.SIGINT)
        assert receive_all(client) == b""
    assert echo_server.wait() == (0, "")


@pytest.mark.parametrize("script", ["echo_server.py", "redis_server.py"])
def test_a_port_in_use_is_an_error_that_names_it(echo_server: Running, script: str) -> None:
    ended = run_example(script, "--port", str(echo_server.port))
    assert ended.returncode == 1
    assert ended.stderr.endswith(f"cannot listen on tcp address ':{echo_server.port}': Address already in use\n")
    assert ended.stderr.count("\n") == 1
