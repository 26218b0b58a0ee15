"""Interpreter exit with wakes that are left: clean. Beside a server it is situation 14 of `make soak`."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from harness import connect, listener, own_process

import evio

pytestmark = pytest.mark.threads


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
