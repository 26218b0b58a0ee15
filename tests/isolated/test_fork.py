"""fork and exec: a child neither disturbs the parent's server nor is stopped from starting its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from harness import (
    DEADLINE,
    connect,
    echo,
    exchange,
    fork,
    in_child,
    listener,
    live,
    own_process,
    receive_all,
    serve_once,
)

import evio


@pytest.mark.parametrize("callback", ["accept", "handle", "closed", "ticker"])
@own_process
def test_fork_inside_a_callback(tcp: str, callback: str) -> None:
    statuses: list[int] = []
    wakes: list[evio.Wake] = []

    def fork(name: str) -> None:
        if name == callback and not statuses and len(wakes) == 2:
            statuses.append(in_child(child))

    def child() -> None:
        for wake in wakes:
            assert wake() is False
            assert wake(b"from the child") is False
        serve_once(tcp)

    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        fork("handle")
        return data

    def accept(id: int, addr: str, wake: evio.Wake, ctx: Any) -> None:
        if len(wakes) < 2:
            wakes.append(wake)
        fork("accept")

    with live(tcp, handle, accept, lambda *args: fork("closed"), lambda ctx: fork("ticker")) as server:
        one, two = server.connect(), server.connect()
        assert exchange(one, b"one") == b"one"
        assert exchange(two, b"two") == b"two"
        two.close()
        server.wait_closed(2)
        server.wait(lambda: statuses)
        assert statuses == [0]
        assert server.wakes[1](b"woken")
        assert exchange(one, b"still") == b"woken"
        assert exchange(server.connect(), b"new") == b"new"


@pytest.mark.threads
@own_process
def test_fork_beside_a_server(net: str) -> None:
    with live(net, echo) as server:
        client = server.connect()
        exchange(client, b"x")

        def child() -> None:
            assert server.wakes[1]() is False
            assert server.wakes[1](b"from the child") is False
            serve_once(net)

        for number in range(4):
            assert in_child(child) == 0
            assert exchange(client, b"%04d" % number) == b"%04d" % number
            assert exchange(server.connect(), b"new") == b"new"


@own_process
def test_child_that_goes_on_in_the_callback_gets_a_runtime_error(net: str) -> None:
    status = -1
    parent = os.getpid()

    def handle(id: int, data: bytes, ctx: Any) -> bytes | None:
        nonlocal status
        pid = fork()
        if pid == 0:
            return b"from the child"
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return data

    closed: list[int] = []
    with listener(net) as sock, connect(sock) as client:
        client.sendall(b"hello")
        thread = threading.Thread(target=lambda: received.append(receive_all(client)))
        received: list[bytes] = []
        thread.start()
        try:
            evio.serve(net, sock, handle, closed=lambda id, *args: closed.append(id), ticker=lambda ctx: status == -1)
        except RuntimeError:
            os._exit(7 if os.getpid() != parent and not closed else 1)
        thread.join(DEADLINE)
        assert status == 7
        assert received == [b"hello"]
        assert closed == [1]


@own_process
def test_child_does_not_unlink_the_parents_path(unix: str, folder: str) -> None:
    path = Path(folder) / "socket"
    parent = os.getpid()
    statuses: list[int] = []

    def ticker(ctx: Any) -> bool:
        if not statuses:
            pid = fork()
            if pid:
                statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                assert path.is_socket()
        return not statuses

    try:
        evio.serve(unix, str(path), ticker=ticker)
    except RuntimeError:
        assert os.getpid() != parent
        os._exit(0)
    assert statuses == [0]
    assert not path.exists()


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


@own_process
def test_connection_ends_although_a_child_lives_on(net: str) -> None:
    reader, writer = os.pipe()
    children: list[int] = []

    def handle(id: int, data: bytes, ctx: Any) -> tuple[bytes, bool]:
        pid = fork()
        if pid == 0:
            os.close(writer)
            os.read(reader, 1)  # until the parent has seen the end
            os._exit(0)
        children.append(pid)
        return data, False

    with live(net, handle, linger=2 * DEADLINE) as server:
        client = server.connect()
        assert exchange(client, b"hello") == b"hello"
        assert client.recv(1) == b""
        client.shutdown(socket.SHUT_WR)  # the child has a copy of this end too
        assert server.wait_closed(1) is None
        os.close(writer)
        os.waitpid(children[0], 0)
        os.close(reader)


@own_process
def test_program_that_is_run_sees_no_descriptor_of_the_server(tcp: str) -> None:
    list_them = [sys.executable, "-c", "import os; print(len(os.listdir('/dev/fd')))"]

    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        return subprocess.run(list_them, close_fds=False, capture_output=True, check=True).stdout

    before = subprocess.run(list_them, close_fds=False, capture_output=True, check=True).stdout
    with live(tcp, handle) as server:
        client = server.connect()
        client.sendall(b"?")
        assert client.recv(100) == before
