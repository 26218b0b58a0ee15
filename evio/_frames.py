"""Framing: how a decoder says that the stream it is given is not what it should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


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
        self.messages = list(messages)
