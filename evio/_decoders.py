"""Lines and length-prefixed messages in plain Python, and how a decoder says that a stream is bad.

These are the definition of the decoders in C too, which come here for their errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal


class FrameError(ValueError):
    """A decoder's `feed` raises it on a bad or oversized message; the connection closes with it.

    Args:
        message: what was wrong.
        reply: sent to the peer before the connection closes; bytes or None.
        messages: the complete messages that the same `feed` found before the bad one. They are
            delivered first.
    """

    def __init__(self, message: str, *, reply: bytes | None = None, messages: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.reply = reply
        self.messages: list[Any] = list(messages)


def line_too_long(max_size: int) -> FrameError:
    """Return the error for a line of more than `max_size` bytes."""
    return FrameError(f"a line is longer than {max_size} bytes")


def message_too_long(size: int, max_size: int) -> FrameError:
    """Return the error for a message whose header says `size` bytes, more than `max_size`."""
    return FrameError(f"a message of {size} bytes is longer than {max_size}")


def check_fed(data: object) -> None:
    """Raise what `feed` raises where it is given anything but bytes."""
    if type(data) is not bytes:
        raise TypeError(f"feed() takes bytes, not {type(data).__name__}")


class LinesDecoder:
    """Finds the lines in one stream. However the stream is cut into pieces, they are the same."""

    __slots__ = ("_failed", "_held", "_hopeless", "_max_size", "_sep")

    def __init__(self, sep: bytes, max_size: int, /) -> None:
        self._sep = sep
        self._max_size = max_size
        # No separator saves a line that is this long without one: it would come too late.
        self._hopeless = max_size + len(sep) + (sep == b"\n")
        self._failed = False
        self._held = bytearray()  # the unfinished line, without a separator in it

    def feed(self, data: bytes, /) -> list[bytes]:
        """Return the lines that are complete now, in order, without their separators.

        Args:
            data: the next piece of the stream, of any length.

        Raises:
            FrameError: a line is too long. `messages` has those before it. Whatever is fed
                afterwards is ignored.
            TypeError: `data` is not bytes.
        """
        check_fed(data)
        if self._failed:
            return []
        held = self._held
        if held:
            unsearched = max(len(held) - len(self._sep) + 1, 0)
            held += data
            if held.find(self._sep, unsearched) < 0 and len(held) < self._hopeless:
                return []
            data = bytes(held)
            held.clear()
        *lines, rest = data.split(self._sep)
        if self._sep == b"\n":
            lines = [line.removesuffix(b"\r") for line in lines]
        too_long = next((index for index, line in enumerate(lines) if len(line) > self._max_size), -1)
        if too_long >= 0 or len(rest) >= self._hopeless:
            self._failed = True
            error = line_too_long(self._max_size)
            error.messages = lines if too_long < 0 else lines[:too_long]
            raise error
        held += rest
        return lines


class PrefixedDecoder:
    """Finds the messages in one stream. However the stream is cut into pieces, they are the same."""

    __slots__ = ("_byteorder", "_failed", "_held", "_max_size", "_needed", "_width")

    def __init__(self, width: int, byteorder: Literal["big", "little"], max_size: int, /) -> None:
        self._width = width
        self._byteorder: Literal["big", "little"] = byteorder
        self._max_size = max_size
        self._failed = False
        self._held = bytearray()  # the unfinished message with its header
        self._needed = 0  # how long that must be for the next step

    def feed(self, data: bytes, /) -> list[bytes]:
        """Return the messages that are complete now, in order, without their headers.

        Args:
            data: the next piece of the stream, of any length.

        Raises:
            FrameError: a header says more than the longest message has. `messages` has those
                before it. Whatever is fed afterwards is ignored.
            TypeError: `data` is not bytes.
        """
        check_fed(data)
        if self._failed:
            return []
        held, width = self._held, self._width
        if held:
            held += data
            if len(held) < self._needed:
                return []
            data = bytes(held)
            held.clear()
        messages: list[bytes] = []
        start, end = 0, len(data)
        self._needed = width
        while (body := start + width) <= end:
            size = int.from_bytes(data[start:body], self._byteorder)
            if size > self._max_size:
                self._failed = True
                error = message_too_long(size, self._max_size)
                error.messages = messages
                raise error
            if body + size > end:
                self._needed = width + size
                break
            start = body + size
            messages.append(data[body:start])
        held += data[start:]
        return messages
