"""Interpreter exit beside a daemon thread that serves: clean, whatever wakes it."""

from __future__ import annotations

import sys
import threading
from types import ModuleType
from typing import Any

import pytest
from harness import connect, echo, listener, own_process

import evio


@pytest.mark.parametrize("run", range(10))
@own_process
def test_exit_beside_a_server_and_threads_that_wake_it(tcp: str, run: int) -> None:
    wakes: list[evio.Wake] = []

    def accept(id: int, addr: str, wake: evio.Wake, ctx: Any) -> None:
        wakes.append(wake)

    def keep_waking() -> None:
        while True:
            for wake in wakes:
                wake()
                wake(b"data")

    sys.setswitchinterval(1e-4)  # more races in less time
    with listener(tcp) as sock, connect(sock) as client:
        threading.Thread(target=evio.serve, args=(tcp, sock, echo, accept), daemon=True).start()
        for _ in range(8):
            threading.Thread(target=keep_waking, daemon=True).start()
        assert client.recv(4)[:1] == b"d"
        if run % 2:
            client.close()


@own_process
def test_exit_with_wakes_that_outlive_their_server(tcp: str) -> None:
    kept = ModuleType("kept")
    kept.wakes = []  # type: ignore[attr-defined]
    sys.modules["kept"] = kept
    with listener(tcp) as sock, connect(sock):
        evio.serve(
            tcp, sock, accept=lambda id, addr, wake, ctx: kept.wakes.append(wake), ticker=lambda ctx: not kept.wakes
        )
    assert [wake() for wake in kept.wakes] == [False]
