"""The two codecs, in C and in Python, as tests see them, and what tests of decoders share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import evio
from evio import _resp, resp
from evio._extension import native
from evio._frames import Framing, MessageDecoder
from evio._types import Decoder

#: The codecs that this build has.
CODECS = ("C", "Python") if native is not None else ("Python",)

#: The names of the encoders.
ENCODERS = ("array", "bulk", "bulks", "encode", "error", "integer", "integers", "map", "null", "simple")

MIB = 1024 * 1024

Message = TypeVar("Message")


class Codec:
    """One of the codecs. The encoders of replies are its attributes."""

    array: Callable[..., bytes]
    bulk: Callable[..., bytes]
    bulks: Callable[..., bytes]
    encode: Callable[..., bytes]
    error: Callable[..., bytes]
    integer: Callable[..., bytes]
    integers: Callable[..., bytes]
    map: Callable[..., bytes]
    null: Callable[..., bytes]
    simple: Callable[..., bytes]

    def __init__(self, name: str) -> None:
        self.name = name
        for encoder in ENCODERS:
            setattr(self, encoder, getattr(native if name == "C" else _resp, encoder))

    def decoder(self, frame: Framing[Message]) -> MessageDecoder[Message]:
        """Return a new decoder of this codec's."""
        return frame.decoder() if self.name == "C" else frame.python_decoder()


def decode(decoder: Decoder, pieces: Iterable[bytes]) -> tuple[list[Any], evio.FrameError | None]:
    """Return the messages in a stream and its error, checking that nothing comes after that."""
    messages: list[Any] = []
    error = None
    for piece in pieces:
        try:
            found = decoder.feed(piece)
        except evio.FrameError as raised:
            assert error is None
            error = raised
            found = raised.messages
        else:
            assert error is None or not found
        messages += found
    return messages, error


def flat(runs: Iterable[resp.Run]) -> list[list[bytes]]:
    """Return the requests that runs are made of."""
    requests = []
    for name, count, columns in runs:
        assert count >= 1
        assert all(len(column) == count for column in columns)
        rows: list[tuple[bytes, ...]] = [*zip(*columns, strict=True)] if columns else [()] * count
        requests += [[name, *row] for row in rows]
    return requests


def cut(data: bytes, *places: int) -> list[bytes]:
    """Return a stream in pieces, cut at these places."""
    return [data[start:end] for start, end in itertools.pairwise([0, *sorted(places), len(data)])]


def in_pieces(data: bytes, size: int) -> list[bytes]:
    """Return a stream in pieces of one size."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def every_cut(data: bytes) -> Iterable[list[bytes]]:
    """Return a stream whole, one byte at a time, and with every pair of cuts, so with every single one too."""
    yield [data]
    yield in_pieces(data, 1)
    for places in itertools.combinations_with_replacement(range(len(data) + 1), 2):
        yield cut(data, *places)


def shown(value: object) -> str:
    """Return the id of a test's parameter."""
    return repr(value)[:60] if isinstance(value, bytes) else ""
