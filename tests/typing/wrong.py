"""Uses of the interface that a type checker must refuse. `make lint` checks this file, where an
ignored error that is none is an error itself; nothing runs it."""

from __future__ import annotations

import evio
from evio import resp

evio.serve("tcp")  # type: ignore[call-arg]
evio.serve("tcp", 9999)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", None, None, None, None, None, None)  # type: ignore[call-arg]
evio.serve("tcp", ":9999", port=9999)  # type: ignore[call-arg]
evio.serve("tcp", ":9999", max_pending=None)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", idle_timeout="5")  # type: ignore[arg-type]
evio.serve("tcp", ":9999", frame=object())  # type: ignore[arg-type]


def text(id: int, data: bytes, ctx: None) -> str:
    return "text"


def number(id: int, data: bytes, ctx: None) -> int:
    return len(data)


def pair_of_pieces(id: int, data: bytes, ctx: None) -> tuple[bytes, bytes]:
    return data, data


def without_ctx(id: int, data: bytes) -> bytes:
    return data


def tick(ctx: None) -> str:
    return "on"


evio.serve("tcp", ":9999", text)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", number)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", pair_of_pieces)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", without_ctx)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", accept=text)  # type: ignore[arg-type]
evio.serve("tcp", ":9999", ticker=tick)  # type: ignore[arg-type]


evio.Wake()  # type: ignore[call-overload]
evio.Wake(1)  # type: ignore[call-overload]


def woken(wake: evio.Wake) -> None:
    wake("text")  # type: ignore[arg-type]
    wake.id = 2  # type: ignore[misc]


evio.serve("tcp", ":9999", frame=evio.Lines)  # type: ignore[arg-type]
evio.Lines("\n")  # type: ignore[arg-type]
evio.Lines(max_size="1000")  # type: ignore[arg-type]
evio.Prefixed()  # type: ignore[call-arg]
evio.Prefixed(4, "network")  # type: ignore[arg-type]
evio.Lines().decoder().feed("text")  # type: ignore[arg-type]
evio.Lines().decoder().feed(bytearray())  # type: ignore[arg-type]
resp.Commands(1000)  # type: ignore[call-arg]
resp.Runs(["GET"])  # type: ignore[list-item]
resp.bulk(1)  # type: ignore[arg-type]
resp.bulks([1])  # type: ignore[list-item]
resp.integers(["1"])  # type: ignore[list-item]
resp.array(["text"])  # type: ignore[list-item]
