"""Servers in threads of one process share the GIL: none may sit on it while it waits."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from harness import DEADLINE, connect, echo, exchange, live

import evio


def exchanges(net: str, seconds: float) -> int:
    """Return how many exchanges the clients of six servers had, each a thread of this process."""
    count = 0
    until = time.monotonic() + seconds

    def talk(addr: object) -> None:
        nonlocal count
        with connect(addr) as client:
            while time.monotonic() < until:
                assert exchange(client, b"hello") == b"hello"
                count += 1

    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(live(net, echo)) for _ in range(6)]
        clients = [threading.Thread(target=talk, args=(server.addr,)) for server in servers]
        for client in clients:
            client.start()
        for client in clients:
            client.join(DEADLINE)
            assert not client.is_alive()
    return count


@pytest.mark.measures
@pytest.mark.skipif(evio.engine == "selectors", reason="there is one engine")
def test_the_native_engine_is_not_behind_the_portable_one() -> None:
    rounds = [(exchanges("tcp-compat", 0.5), exchanges("tcp", 0.5)) for _ in range(3)]
    portable, native = map(max, zip(*rounds, strict=True))  # the best of each, as something else may take the machine
    assert native > portable * 0.7, f"{native:,} exchanges; {portable:,} on the portable engine"
