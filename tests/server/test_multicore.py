"""The server on all cores, as a user sees it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import DEADLINE, eventually, exchange, receive
from server.redis_support import EXAMPLES, Running, running

WORKERS = 3


@pytest.fixture(params=["--with fork", "--with fork --shared", "--with spawn", "--with threads"])
def server(engine: str, request: pytest.FixtureRequest) -> Iterator[Running]:
    options = ["--workers", str(WORKERS), *request.param.split()]
    with running("multicore.py", engine, *options, ready="echo server started") as server:
        yield server


def connect(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), DEADLINE)


def workers(server: Running) -> list[int]:
    """Return the processes that serve: the parent's children, but for multiprocessing's helpers."""
    parent = server.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    helpers = (b"resource_tracker", b"forkserver")
    return [
        int(pid) for pid in children if not any(name in Path(f"/proc/{pid}/cmdline").read_bytes() for name in helpers)
    ]


def test_clients_are_served(server: Running) -> None:
    for number in range(50):
        with connect(server) as client:
            assert exchange(client, b"%d" % number) == b"%d" % number


def test_a_worker_that_dies_is_replaced_and_no_client_is_turned_away(engine: str) -> None:
    options = ("--workers", str(WORKERS), "--with", "fork")
    with running("multicore.py", engine, *options, ready="echo server started") as server:
        eventually(lambda: len(workers(server)) == WORKERS)
        for _ in range(2):
            died = workers(server)
            for pid in died:
                os.kill(pid, signal.SIGKILL)
            clients = [connect(server) for _ in range(20)]  # some while there is no worker at all
            told = sorted(server.line() for _ in died)
            assert told == [f"worker {pid} has ended with -9; starting another\n" for pid in sorted(died, key=str)], (
                round
            )
            for client in clients:
                with client:
                    assert exchange(client, b"hello") == b"hello"
            eventually(lambda: len(workers(server)) == WORKERS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_with_nothing_lost(server: Running, number: signal.Signals) -> None:
    """A request is answered whole or not at all, and every client is told."""

    answered = [0] * 8

    def talk(index: int) -> None:
        with connect(server) as client:
            while True:
                message = b"%d" % answered[index]
                try:
                    client.sendall(message)
                    answer = receive(client, len(message))
                except ConnectionResetError:  # it was sent to a server that had gone
                    return
                if not answer:
                    return
                assert answer == message
                answered[index] += 1

    with ThreadPoolExecutor(len(answered)) as pool:
        talks = [pool.submit(talk, index) for index in range(len(answered))]
        eventually(lambda: min(answered) > 50 or any(talk.done() for talk in talks))
        server.process.send_signal(number)
        assert server.wait() == (0, "")
        for done in talks:
            done.result(DEADLINE)
    assert min(answered) > 50


def test_workers_end_with_their_parent(engine: str) -> None:
    with running("multicore.py", engine, "--workers", "2", "--with", "fork", ready="echo server started") as server:
        eventually(lambda: len(workers(server)) == 2)
        left = workers(server)
        server.process.kill()
        server.process.wait(DEADLINE)
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))
        assert server.wait() == (-signal.SIGKILL, "")


def test_bad_arguments_are_told() -> None:
    for arguments, complaint in (
        (["--workers", "0"], "--workers must be 1 or more, not 0"),
        (["--with", "magic"], "invalid choice: 'magic'"),
    ):
        command = [sys.executable, str(EXAMPLES / "multicore.py"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert done.returncode == 2
        assert re.search(re.escape(complaint), done.stderr)
