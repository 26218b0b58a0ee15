"""No descriptors left: no spin, existing clients unaffected, and accepting goes on when there is room."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import select
import signal
import socket
import time
from typing import Any

from harness import DEADLINE, connect, exchange, listener, own_process, receive

import evio

CLIENTS = 200
LIMIT = 64


def be_the_clients(sock: socket.socket) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(sock)) for _ in range(CLIENTS)]
        served: list[socket.socket] = []
        for client in clients:  # those for which there is room are greeted
            if not select.select([client], [], [], 0.5 if served else DEADLINE)[0]:
                break
            assert receive(client, 5) == b"hello"
            served.append(client)
        assert 40 <= len(served) < LIMIT
        exchange(served[0], b"measure")
        until = time.monotonic() + 1
        while time.monotonic() < until:
            for client in served:
                assert exchange(client, b"still here") == b"still here"
            time.sleep(0.1)
        exchange(served[0], b"measure")
        for index, client in enumerate(clients):  # each that leaves makes room for another
            if client not in served:
                assert receive(client, 5) == b"hello"
            assert exchange(client, b"%04d" % index) == b"%04d" % index
            client.close()


@own_process
def test_more_clients_than_descriptors(tcp: str) -> None:
    cpu: list[float] = []
    records: list[logging.LogRecord] = []
    closed: list[BaseException | None] = []
    statuses: list[int] = []

    class Records(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        if data == b"measure":
            cpu.append(time.process_time())
        return data

    def ticker(ctx: Any) -> bool:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            statuses.append(os.waitstatus_to_exitcode(status))
        return not ended

    logging.getLogger("evio").addHandler(Records())
    with listener(tcp) as sock:
        pid = os.fork()
        if pid == 0:
            signal.alarm(50)
            be_the_clients(sock)
            os._exit(0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
        evio.serve(
            tcp,
            sock,
            handle,
            lambda *args: b"hello",
            lambda id, err, ctx: closed.append(err),
            ticker,
        )
    assert statuses == [0]
    assert closed == [None] * CLIENTS
    assert cpu[1] - cpu[0] < 0.2
    (record,) = records
    assert record.getMessage() == "accepting is paused, clients wait in the backlog: Too many open files"
