"""Uses of the interface that a type checker must refuse. `make lint` checks this file, where an
ignored error that is none is an error itself; nothing runs it."""

from __future__ import annotations

from collections.abc import Iterator

import evio
from evio import resp

evio.serve("tcp")  # type: ignore[call-arg]
evio.serve("tcp", 9999)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", None, None, None, None, None, None)  # type: ignore[call-arg]
evio.serve("tcp", ":9999", port=9999)  # type: ignore[call-arg]
evio.serve(4, ":9999")  # type: ignore[arg-type]
evio.serve("tcp", ("", 9999))  # type: ignore[arg-type]
evio.serve("tcp", ":9999", handle=b"data")  # type: ignore[arg-type]
evio.serve("tcp", ":9999", closed=True)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", max_conns=0.5)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", max_pending=None)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", idle_timeout="5")  # type: ignore[arg-type]
evio.serve("tcp", ":9999", linger=None)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", nodelay=None)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", keepalive=0.5)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", frame=object())  # type: ignore[arg-type]
evio.serve("tcp", ":9999").close()  # type: ignore[attr-defined, func-returns-value]


def text(id: int, data: bytes, ctx: None) -> str:
    return "text"


def number(id: int, data: bytes, ctx: None) -> int:
    return len(data)


def pair_of_pieces(id: int, data: bytes, ctx: None) -> tuple[bytes, bytes]:
    return data, data


def pair_of_texts(id: int, data: bytes, ctx: None) -> tuple[tuple[str, str], bool]:
    return ("text", "text"), True


def without_ctx(id: int, data: bytes) -> bytes:
    return data


async def promise(id: int, data: bytes, ctx: None) -> bytes:
    return data


def tick(ctx: None) -> str:
    return "on"


evio.serve("tcp", ":9999", text)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", number)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", pair_of_pieces)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", pair_of_texts)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", without_ctx)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", promise)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", lambda id, data, ctx: "text")  # type: ignore[arg-type, return-value]
evio.serve("tcp", ":9999", lambda id, data: data)  # type: ignore[arg-type, misc]
evio.serve("tcp", ":9999", accept=text)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", closed=text)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", ticker=tick)  # type: ignore[arg-type]


evio.Wake()  # type: ignore[call-overload]
evio.Wake(1)  # type: ignore[call-overload]


def woken(wake: evio.Wake) -> None:
    wake("text")  # type: ignore[arg-type]
    wake.id = 2  # type: ignore[misc]


evio.engine()  # type: ignore[operator]
evio.__version__.index(0)  # type: ignore[arg-type]
evio.resp()  # type: ignore[operator]
evio.Server()  # type: ignore[attr-defined]

evio.FrameError()  # type: ignore[call-arg]
evio.FrameError("bad", b"reply")  # type: ignore[call-arg]
evio.FrameError("bad", reply="reply")  # type: ignore[arg-type]
evio.FrameError("bad", messages=None)  # type: ignore[arg-type]
evio.FrameError("bad").reply = "reply"  # type: ignore[assignment]
evio.FrameError("bad").messages = (b"good",)  # type: ignore[assignment]


class Feedless:
    def decoder(self) -> object:
        return self


class Yielding:
    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data


class Framing:
    def decoder(self) -> Yielding:
        return Yielding()


evio.serve("tcp", ":9999", frame=Feedless())  # type: ignore[arg-type]
evio.serve("tcp", ":9999", frame=Framing())  # type: ignore[arg-type]
evio.serve("tcp", ":9999", frame=evio.Lines)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", frame=evio.Lines().decoder())  # type: ignore[arg-type]
evio.Lines("\n")  # type: ignore[arg-type]
evio.Lines(max_size="1000")  # type: ignore[arg-type]
evio.Lines().decoder(b"data")  # type: ignore[call-arg]
evio.Lines().python_decoder(b"data")  # type: ignore[call-arg]
evio.Lines().decoder().feed("text")  # type: ignore[arg-type]
evio.Lines().decoder().feed(bytearray())  # type: ignore[arg-type]
evio.Prefixed()  # type: ignore[call-arg]
evio.Prefixed("4")  # type: ignore[arg-type]
evio.Prefixed(4, "network")  # type: ignore[arg-type]
resp.Commands(1000)  # type: ignore[call-arg]
resp.Runs(["GET"])  # type: ignore[list-item]
resp.Runs(max_size=None)  # type: ignore[arg-type]
run: resp.Run = (b"GET", 1, [b"key"])  # type: ignore[assignment]

resp.OK.encode()  # type: ignore[attr-defined]
resp.simple(1)  # type: ignore[arg-type]
resp.error(ValueError())  # type: ignore[arg-type]
resp.integer("1")  # type: ignore[arg-type]
resp.integers(1)  # type: ignore[arg-type]
resp.integers(["1"])  # type: ignore[list-item]
resp.bulk(1)  # type: ignore[arg-type]
resp.bulk(b"data", "3")  # type: ignore[arg-type]
resp.bulks([1])  # type: ignore[list-item]
resp.null(None)  # type: ignore[arg-type]
resp.array(["text"])  # type: ignore[list-item]
resp.map({b"key": b"value"})  # type: ignore[dict-item]
resp.map([(b"key", "value")])  # type: ignore[list-item]
resp.encode()  # type: ignore[call-arg]
resp.encode("text", protocol="3")  # type: ignore[arg-type]
