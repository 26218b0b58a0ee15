"""Leaks: memory and objects stay where they were, however many connections come and go."""

from __future__ import annotations

import gc
import resource
import sys
import threading
from typing import Any

from harness import DEADLINE, connect, exchange, listener, own_process

import evio


@own_process
def test_connections_leave_no_memory_behind(unix: str) -> None:
    stopping = False

    def handle(id: int, data: bytes, ctx: Any) -> Any:
        return [data[:4], data[4:]], id % 2 == 0

    def accept(id: int, addr: str, wake: evio.Wake, ctx: Any) -> None:
        wake()
        wake(b"hello")

    def measure(connections: int) -> tuple[int, int]:
        for _ in range(connections):
            with connect(sock) as client:
                assert exchange(client, b"exchange")[:5] == b"hello"
        gc.collect()
        return sys.getallocatedblocks(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    with listener(unix) as sock:
        thread = threading.Thread(
            target=evio.serve,
            args=(unix, sock, handle, accept, lambda *args: None, lambda ctx: not stopping),
            kwargs={"idle_timeout": 60},
        )
        thread.start()
        blocks, nbytes = measure(5_000)
        blocks_after, nbytes_after = measure(15_000)
        stopping = True
        thread.join(DEADLINE)
    assert blocks_after - blocks < 300
    assert nbytes_after - nbytes < 15_000 * 32
