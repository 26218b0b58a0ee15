"""The framings that come with evio: what a user sets, and which decoder that gives, in C or in Python."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Generic, Literal, Protocol, TypeVar

from ._decoders import LinesDecoder, PrefixedDecoder
from ._extension import native
from ._types import Decoder, Frame

Message = TypeVar("Message")


class MessageDecoder(Protocol[Message]):
    """A `Decoder` that says what its messages are."""

    def feed(self, data: bytes, /) -> list[Message]: ...


class Framing(Generic[Message]):
    """Settings, and a maker of decoders that work by them. Any number of servers may share one.

    Args:
        kind: the decoder's class in Python; the one in C has the same name.
        settings: the arguments of both.
    """

    def __init__(self, kind: Callable[..., MessageDecoder[Message]], *settings: Any) -> None:
        self._kind = kind
        self._settings = settings

    def decoder(self) -> MessageDecoder[Message]:
        """Return a new decoder, for one connection."""
        if native is None:
            return self.python_decoder()
        decoder: MessageDecoder[Message] = getattr(native, self._kind.__name__)(*self._settings)
        return decoder

    def python_decoder(self) -> MessageDecoder[Message]:
        """Return a new decoder in plain Python: what `decoder()` gives where there is no extension."""
        return self._kind(*self._settings)


def portable_decoder(frame: Frame) -> Decoder:
    """Return a new decoder as the portable engine wants it: of evio's own, the one in plain Python."""
    make = frame.decoder
    if isinstance(frame, Framing) and getattr(make, "__func__", None) is Framing.decoder:  # not a subclass' own
        make = frame.python_decoder
    return make()


def check_int(name: str, value: object) -> None:
    """Raise TypeError if `value` is not an int; a bool is not one."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")


def check_max_size(max_size: int) -> None:
    """Raise TypeError or ValueError if `max_size` is not what it may be."""
    check_int("max_size", max_size)
    if not 1 <= max_size <= sys.maxsize:
        raise ValueError(f"max_size must be from 1 to {sys.maxsize}, not {max_size}")


class Lines(Framing[bytes]):
    r"""Lines, for `frame=`: each message is one, bytes without its separator. An empty line is b"".

    Args:
        sep: what a line ends with, at least one byte. With b"\n" a "\r" before it is dropped too.
        max_size: the longest message in bytes. A longer one is a FrameError, at the latest
            once that many bytes, room for a separator and no separator have come.

    Raises:
        TypeError, ValueError: `sep` or `max_size` is not what it may be.
    """

    def __init__(self, sep: bytes = b"\n", max_size: int = 65536) -> None:
        if type(sep) is not bytes:
            raise TypeError(f"sep must be bytes, not {type(sep).__name__}")
        if not sep:
            raise ValueError("sep must be at least one byte")
        check_max_size(max_size)
        super().__init__(LinesDecoder, sep, max_size)


class Prefixed(Framing[bytes]):
    """Messages behind their length, for `frame=`: each message is bytes without it, b"" where that is 0.

    Args:
        width: of the length in bytes: 1, 2, 4 or 8. It is unsigned and does not count itself.
        byteorder: "big", as most protocols have it, or "little".
        max_size: the longest message in bytes, 16 MiB where none is given. A longer one is a
            FrameError as soon as its length has come.

    Raises:
        TypeError, ValueError: an argument is not what it may be.
    """

    def __init__(
        self, width: int, byteorder: Literal["big", "little"] = "big", max_size: int = 16 * 1024 * 1024
    ) -> None:
        check_int("width", width)
        if width not in (1, 2, 4, 8):
            raise ValueError(f"width must be 1, 2, 4 or 8, not {width}")
        if byteorder not in ("big", "little"):
            raise ValueError(f'byteorder must be "big" or "little", not {byteorder!r}')
        check_max_size(max_size)
        super().__init__(PrefixedDecoder, width, byteorder, max_size)
