"""Replies: every form that a callback may return, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness import echo, exchange, live, receive, receive_all
from replies import BAD, FORMS

ALLOWED = "; allowed: None, a bool, bytes, a list of bytes, or a pair (send, keepopen)"

SIZE = 16_000_000  #: more than the kernel takes at once


@pytest.mark.parametrize(("make", "sent", "stays_open"), [form[1:] for form in FORMS], ids=[form[0] for form in FORMS])
@pytest.mark.parametrize("callback", ["handle", "accept"])
def test_form(tcp: str, callback: str, make: Callable[[], Any], sent: bytes, stays_open: bool) -> None:
    def accept(id: int, *args: Any) -> Any:
        return make() if callback == "accept" and id == 2 else None

    asked: list[int] = []

    def handle(id: int, data: bytes, ctx: Any) -> Any:
        if data != b"?":
            return data
        asked.append(id)
        return make()

    with live(tcp, handle, accept) as server:
        other = server.connect()
        assert exchange(other, b"x") == b"x"
        client = server.connect()
        if callback == "handle":
            client.sendall(b"?")
            server.wait(lambda: asked)
        assert receive(client, len(sent)) == sent
        if stays_open:
            assert exchange(client, b"still here") == b"still here"
        else:
            assert client.recv(1) == b""
            client.close()
            assert server.wait_closed(2) is None
        assert exchange(other, b"y") == b"y"


@pytest.mark.parametrize(("make", "text"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
@pytest.mark.parametrize("callback", ["handle", "accept"])
def test_bad_reply_is_a_type_error_that_names_it(tcp: str, callback: str, make: Callable[[], Any], text: str) -> None:
    def accept(id: int, *args: Any) -> Any:
        return make() if callback == "accept" and id == 2 else None

    def handle(id: int, data: bytes, ctx: Any) -> Any:
        return make() if data == b"?" else data

    with live(tcp, handle, accept) as server:
        other = server.connect()
        assert exchange(other, b"x") == b"x"
        client = server.connect()
        if callback == "handle":
            client.sendall(b"?")
        error = server.wait_closed(2)
        assert type(error) is TypeError
        assert str(error) == f"{callback}() returned {text}{ALLOWED}"
        (record,) = server.take_records()
        assert record.levelname == "ERROR"
        assert record.getMessage() == f"{callback}() failed for connection 2"
        assert record.exc_info is not None
        assert record.exc_info[1] is error
        assert exchange(other, b"y") == b"y"


SHAPES: dict[str, Callable[[bytearray], Any]] = {
    "alone": lambda buffer: buffer,
    "view": memoryview,
    "list": lambda buffer: [b"", buffer],
    "pair": lambda buffer: (buffer, True),
    "pair of a tuple": lambda buffer: ((memoryview(buffer),), True),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_was_returned_is_sent_even_if_the_buffer_changes(net: str, shape: Callable[[bytearray], Any]) -> None:
    buffer = bytearray(b"a" * SIZE)

    def handle(id: int, data: bytes, ctx: Any) -> Any:
        if data:
            return shape(buffer)
        buffer[:] = bytes(len(buffer))
        return None

    with live(net, handle) as server:
        client = server.connect()
        client.sendall(b"?")
        assert receive(client, 1) == b"a"
        assert server.wakes[1]()
        server.wait(lambda: buffer[0] == 0)
        assert receive(client, SIZE - 1) == b"a" * (SIZE - 1)


@pytest.mark.threads
@pytest.mark.parametrize("shape", [SHAPES["alone"], SHAPES["list"]], ids=["alone", "list"])
def test_what_was_returned_is_sent_whatever_another_thread_does(net: str, shape: Callable[[bytearray], Any]) -> None:
    """A thread sees the first bytes arrive, and fills the buffer anew, while the rest is still being sent."""
    size = 2 * SIZE
    buffer, expected, others = bytearray(size), b"a" * size, bytes(size)
    with live(net, lambda id, data, ctx: shape(buffer)) as server:
        client = server.connect()
        for _ in range(5):
            buffer[:] = expected
            client.sendall(b"?")
            assert receive(client, 1) == b"a"
            buffer[:] = others
            assert receive(client, size - 1) == expected[1:]


def test_returned_list_may_change_afterwards(net: str) -> None:
    pieces = [b"%08d" % number * 1000 for number in range(SIZE // 8000)]
    expected = b"".join(pieces)

    def handle(id: int, data: bytes, ctx: Any) -> Any:
        if data:
            return pieces
        pieces.clear()
        return None

    with live(net, handle) as server:
        client = server.connect()
        client.sendall(b"?")
        assert receive(client, 1) == expected[:1]
        server.wakes[1]()
        server.wait(lambda: not pieces)
        assert receive(client, len(expected) - 1) == expected[1:]


def test_list_of_more_pieces_than_one_system_call_takes(net: str) -> None:
    pieces = [b"%d," % number * (number % 7) for number in range(10_000)]
    with live(net, lambda id, data, ctx: (pieces, False)) as server:
        client = server.connect()
        client.sendall(b"?")
        assert receive_all(client) == b"".join(pieces)


def test_accept_greets_first(net: str) -> None:
    with live(net, echo, lambda id, addr, wake, ctx: b"welcome\n") as server:
        client = server.connect()
        assert receive(client, 8) == b"welcome\n"
        assert exchange(client, b"x") == b"x"


def test_accept_that_turns_away_is_paired_with_one_closed(net: str) -> None:
    with live(net, echo, lambda id, addr, wake, ctx: ([b"too ", b"late"], False)) as server:
        for id in range(1, 4):
            client = server.connect()
            assert receive_all(client) == b"too late"
            client.close()
            assert server.wait_closed(id) is None
