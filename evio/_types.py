"""The types that callers write: what goes into `serve` and what callbacks return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from ._wake import BytesLike, Wake

# list[Any]: a list[bytes] is no list[BytesLike], and [bytes(), bytearray()] is a list[Sequence[int]] to mypy.
Send: TypeAlias = BytesLike | list[Any] | tuple[BytesLike, ...] | None
Reply: TypeAlias = BytesLike | list[Any] | bool | tuple[Send, bool] | None


class Decoder(Protocol):
    """Turns the pieces of one connection's stream into messages."""

    def feed(self, data: bytes, /) -> list[Any]: ...


class Frame(Protocol):
    """What `frame=` takes: a maker of decoders, one for each connection."""

    def decoder(self) -> Decoder: ...


Handle: TypeAlias = Callable[[int, Any, Any], Reply]
Accept: TypeAlias = Callable[[int, str, Wake, Any], Reply]
Closed: TypeAlias = Callable[[int, Exception | None, Any], object]
Ticker: TypeAlias = Callable[[Any], bool | None]
