"""One server in each of four threads, all on one port: what a program does to use all cores where there is no GIL."""

from __future__ import annotations

import contextlib
import socket
import sys
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness import DEADLINE, Live, connect, echo, exchange, listener, live, own_process, receive, serve_once

import evio

SERVERS = 4
CLIENTS = 12
EXCHANGES = 150

free_threaded = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python cannot do without its GIL"
)


@pytest.fixture(params=["reuseport", "shared"])
def sockets(request: pytest.FixtureRequest) -> Iterator[list[socket.socket]]:
    """A listening socket for each server: one of its own on the same port, or the same for all."""
    with contextlib.ExitStack() as stack:
        if request.param == "shared":
            yield [stack.enter_context(listener("tcp"))] * SERVERS
            return
        if not hasattr(socket, "SO_REUSEPORT"):
            pytest.skip("this system has no SO_REUSEPORT")
        address = "127.0.0.1", 0
        socks = []
        for _ in range(SERVERS):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(address)
            address = sock.getsockname()
            socks.append(sock)
        for sock in socks:
            sock.listen(socket.SOMAXCONN)
        yield socks


@pytest.mark.threads
def test_four_serves_on_one_port(tcp: str, sockets: list[socket.socket]) -> None:
    """Every client is answered by the server that has it, every byte is right, and other threads' wakes arrive."""
    servers: list[Live] = []
    pushed = Counter[bytes]()  # how often each connection's wake has taken data: a key has one thread that counts
    over = threading.Event()

    def accept(id: int, addr: str, wake: evio.Wake, number: int) -> bytes:
        return b"%d/%d hello\n" % (number, id)

    def handle(id: int, lines: list[bytes], number: int) -> list[bytes]:
        return [b"%d/%d %s\n" % (number, id, line) for line in lines or [b"woken"]]

    def talk(number: int) -> tuple[bytes, Counter[bytes]]:
        """Be a client. Return the name that it was given, and what it was told without having asked."""
        seen = Counter[bytes]()
        with connect(sockets[0]) as client, client.makefile("rb") as stream:
            names = set[bytes]()

            def read_until(text: bytes) -> None:
                while True:
                    name, what = stream.readline().split()
                    names.add(name)
                    if what == text:
                        return
                    seen[what] += 1

            read_until(b"hello")
            for count in range(EXCHANGES):
                client.sendall(b"%d.%d\n" % (number, count))
                read_until(b"%d.%d" % (number, count))
            told.wait(DEADLINE)  # all have said what they have to, and nobody wakes any more
            client.sendall(b"last\n")
            read_until(b"last")
        (name,) = names
        return name, seen

    def push(first: int) -> None:
        while not over.is_set():
            for number, server in enumerate(servers):
                for id, wake in list(server.wakes.items()):
                    if id % 2 == first:
                        name = b"%d/%d" % (number, id)
                        pushed[name] += wake(name + b" pushed\n")
                        wake()
            time.sleep(0.001)

    told = threading.Barrier(CLIENTS + 1)
    with contextlib.ExitStack() as stack:
        for number, sock in enumerate(sockets):
            server = live(tcp, handle, accept, ctx=number, addr=sock, frame=evio.Lines())
            servers.append(stack.enter_context(server))
        pool = stack.enter_context(ThreadPoolExecutor(CLIENTS + 2))
        pushing = [pool.submit(push, first) for first in range(2)]
        talking = [pool.submit(talk, number) for number in range(CLIENTS)]
        while told.n_waiting < CLIENTS and not any(done.done() for done in talking):
            time.sleep(0.005)
        over.set()
        for done in pushing:
            done.result(DEADLINE)
        if told.n_waiting < CLIENTS:
            told.abort()  # a client has failed, and will say so
        else:
            told.wait(DEADLINE)
        results = dict(done.result(DEADLINE) for done in talking)
        assert len(results) == CLIENTS
        for name, seen in results.items():
            assert seen.pop(b"pushed") == pushed[name] > 0
            assert seen.pop(b"woken") > 0
            assert not seen
        if sockets[0] is not sockets[1]:  # the kernel shares the clients out: sooner or later each server has one
            for _ in range(1000):
                if all(server.accepted for server in servers):
                    break
                with connect(sockets[0]) as client, client.makefile("rb") as stream:
                    assert stream.readline()
            assert all(server.accepted for server in servers)
    assert sum(len(server.closed) for server in servers) >= CLIENTS


@free_threaded
@own_process
def test_the_gil_stays_off(tcp: str) -> None:
    """Importing a module that needs it would switch it on, with a warning, which is an error here."""
    serve_once(tcp)
    assert not getattr(sys, "_is_gil_enabled")()  # noqa: B009  # older ones have none


@free_threaded
@pytest.mark.threads
def test_two_threads_run_at_once(tcp: str) -> None:
    """One server answers while the other is inside a call into C, which would keep a GIL for as long as it takes."""
    began, ended = threading.Event(), threading.Event()

    def compute(id: int, data: bytes, ctx: Any) -> bytes:
        began.set()
        answer = b"%d" % sum(range(20_000_000))
        ended.set()
        return answer

    with live(tcp, compute) as busy:
        client = busy.connect()
        client.sendall(b"?")
        assert began.wait(DEADLINE)
        with live(tcp, echo) as other, connect(other.addr) as beside:
            for number in range(100):
                assert exchange(beside, b"%04d" % number) == b"%04d" % number
            assert not ended.is_set()
        assert receive(client, 15) == b"199999990000000"
