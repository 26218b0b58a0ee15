"""Uses of the interface that a type checker must accept. `make lint` checks this file; nothing runs it."""

from __future__ import annotations

import socket
import threading
from array import array
from functools import partial
from pathlib import Path
from typing import Any, assert_type

import evio
from evio import resp


class Server:
    """A ctx."""

    stop = False


class Decoder:
    def feed(self, data: bytes) -> list[bytes]:
        return [data]


class Framing:
    def decoder(self) -> Decoder:
        return Decoder()


# Each kind of reply.


def nothing(id: int, data: bytes, ctx: None) -> None: ...


def keepopen(id: int, data: bytes, ctx: None) -> bool:
    return True


def piece(id: int, data: bytes, ctx: None) -> bytes:
    return data


def buffer(id: int, data: bytes, ctx: None) -> bytearray | memoryview | None:
    return memoryview(data)


def pieces(id: int, data: bytes, ctx: None) -> list[bytes]:
    return [data, data]


def pair(id: int, data: bytes, ctx: None) -> tuple[bytes | None, bool]:
    return None, False


def pair_of_pieces(id: int, data: bytes, ctx: None) -> tuple[list[bytes], bool]:
    return [data], True


def pair_of_tuple(id: int, data: bytes, ctx: None) -> tuple[tuple[bytes, bytearray], bool]:
    return (data, bytearray(data)), True


for handle in (nothing, keepopen, piece, buffer, pieces, pair, pair_of_pieces, pair_of_tuple):
    evio.serve("tcp", ":9999", handle)

evio.serve("tcp", ":9999", lambda id, data, ctx: [data, bytearray(data), memoryview(data), array("B", data)])
evio.serve("tcp", ":9999", lambda id, data, ctx: (data, False) if data == b"quit" else None)
evio.serve("tcp", ":9999", lambda id, data, ctx: ([], True) if ctx is None else ctx.answer(data))


# Each callback, with a ctx of one's own.


def messages(id: int, data: list[bytes], server: Server) -> list[bytes]:
    return data


def accept(id: int, addr: str, wake: evio.Wake, server: Server) -> bytes:
    assert_type(wake.id, int)
    assert_type(wake(), bool)
    assert_type(wake(b"data"), bool)
    assert_type(wake(memoryview(b"data")), bool)
    return addr.encode()


def closed(id: int, err: BaseException | None, server: Server) -> None: ...


def closed_by(id: int, err: Exception | None, server: Server) -> None: ...


def ticker(server: Server) -> bool | None:
    return False if server.stop else None


evio.serve("tcp", "localhost:9999", messages, accept, closed, ticker, Server(), frame=Framing())
evio.serve("unix", Path("socket"), lambda id, data, ctx: data, closed=closed_by)
evio.serve("tcp4-compat", socket.create_server(("", 0)), idle_timeout=0.5, max_conns=None, linger=1, keepalive=None)
evio.serve("tcp6", ":9999", None, None, None, None, None, frame=None, max_conns=1, max_pending=1, nodelay=False)
evio.serve(net="tcp", addr=":9999", handle=None, accept=None, closed=print, ticker=lambda ctx: False, ctx=[1])


# Whatever can be called is a callback, and whatever there is a ctx.


class Chat:
    def __init__(self) -> None:
        self.wakes: dict[int, evio.Wake] = {}

    def accept(self, id: int, addr: str, wake: evio.Wake, ctx: object) -> tuple[list[bytes], bool]:
        self.wakes[id] = wake
        return [b"welcome, ", addr.encode()], len(self.wakes) < 10

    def handle(self, id: int, data: bytes, ctx: object) -> None:
        for wake in self.wakes.values():
            assert_type(wake(data), bool)
        threading.Thread(target=self.wakes[id], args=(b"later",)).start()

    def closed(self, id: int, err: BaseException | None, ctx: object) -> evio.Wake:
        return self.wakes.pop(id)

    def __call__(self, ctx: object) -> bool:
        return True


def shared(chat: Chat, id: int, data: bytes, ctx: Any) -> bytes:
    return data


chat = Chat()
evio.serve("tcp", ":9999", chat.handle, chat.accept, chat.closed, chat, {"key": "value"})
evio.serve("tcp", ":9999", partial(shared, chat), ctx=chat)
evio.serve("tcp", ":9999", accept=lambda id, addr, wake, wakes: wakes.update({id: wake}), ctx=chat.wakes)


# What is not a function.

assert_type(evio.engine, str)
assert_type(evio.__version__, str)
assert_type(evio.resp.OK, bytes)

error = evio.FrameError("bad", reply=b"-ERR\r\n", messages=[b"good"])
assert_type(error.reply, bytes | None)
assert_type(error.messages, list[Any])
error.reply = None
error.messages = [b"good"]
failed: ValueError = evio.FrameError("bad")


# The framings that come with evio, in a server and by themselves.


def lines(id: int, data: list[bytes], ctx: None) -> list[bytes]:
    return [line + b"\n" for line in data]


def commands(id: int, data: list[list[bytes]], ctx: None) -> list[bytes]:
    return [resp.bulks(command) for command in data]


def runs(id: int, data: list[resp.Run], ctx: None) -> list[bytes]:
    replies = []
    for name, count, columns in data:
        assert_type(name, bytes)
        assert_type(count, int)
        assert_type(columns, tuple[list[bytes], ...])
        replies.append(resp.OK * count)
    return replies


evio.serve("tcp", ":9999", lines, frame=evio.Lines())
evio.serve("tcp", ":9999", lines, frame=evio.Lines(b"\r\n", max_size=1000))
evio.serve("tcp", ":9999", lines, frame=evio.Prefixed(4, "little", max_size=1000))
evio.serve("tcp", ":9999", commands, frame=resp.Commands(max_size=1000))
evio.serve("tcp", ":9999", runs, frame=resp.Runs([b"GET", b"SET"], max_size=1000))

assert_type(evio.Lines().decoder().feed(b""), list[bytes])
assert_type(evio.Prefixed(4).decoder().feed(b""), list[bytes])
assert_type(resp.Commands().decoder().feed(b""), list[list[bytes]])
assert_type(resp.Runs().decoder().feed(b""), list[resp.Run])
assert_type(evio.Lines(sep=b";").python_decoder().feed(b""), list[bytes])


class Overriding(evio.Lines):
    def decoder(self) -> Decoder:
        return Decoder()


evio.serve("tcp", ":9999", lines, frame=Overriding())


# Replies.

assert_type(resp.simple("OK") + resp.error(b"ERR no") + resp.null(3) + resp.OK, bytes)
assert_type(resp.bulk(None, 3) + resp.bulk("text") + resp.bulk(memoryview(b"data")), bytes)
assert_type(resp.bulks([b"a", None, "b", bytearray(b"c")], protocol=3) + resp.bulks({b"a": 1}), bytes)
assert_type(resp.integer(1) + resp.integers(range(3)) + resp.integers([True]), bytes)
assert_type(resp.array([resp.OK]) + resp.map({resp.OK: resp.OK}.items()) + resp.encode([{1: "a"}], 3), bytes)
