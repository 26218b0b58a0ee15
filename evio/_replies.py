"""What a callback may return. This is the definition; the native engine knows the common shapes by
itself and comes here for the rest, so that both engines say the same of a bad one."""

from __future__ import annotations

from typing import Any

from ._types import BytesLike

_ALLOWED = "None, a bool, bytes, a list of bytes, or a pair (send, keepopen)"


def parse(callback: str, reply: Any) -> tuple[list[BytesLike], bool]:
    """Return the pieces to send and whether the connection stays open.

    Args:
        callback: the callback's name, for the error.
        reply: what it returned.

    Raises:
        TypeError: `reply` is nothing that a callback may return. It names the callback and what
            it returned.
    """
    if isinstance(reply, bool):
        return [], reply
    if not isinstance(reply, tuple):
        return _pieces(callback, reply, "", (list,)), True
    if len(reply) != 2:
        raise _bad(callback, f"a tuple of {len(reply)}: a tuple is always (send, keepopen), pieces go in a list")
    send, keepopen = reply
    if not isinstance(keepopen, bool):
        raise _bad(callback, f"a pair whose keepopen is {_name(keepopen)}, not a bool: pieces go in a list")
    return _pieces(callback, send, "a pair whose send is ", (list, tuple)), keepopen


def _pieces(callback: str, send: Any, where: str, sequences: tuple[type, ...]) -> list[BytesLike]:
    if send is None:
        return []
    if not isinstance(send, sequences):
        return [_check(callback, send, where)]
    kind = "tuple" if isinstance(send, tuple) else "list"
    items: Any = list.copy(send) if isinstance(send, list) else send  # a list may change while it is read
    return [_check(callback, item, f"{where}a {kind} whose item {index} is ") for index, item in enumerate(items)]


def _check(callback: str, piece: Any, where: str) -> BytesLike:
    try:
        contiguous = memoryview(piece).c_contiguous
    except (TypeError, ValueError):  # no buffer, or a released one
        raise _bad(callback, where + _name(piece)) from None
    if not contiguous:
        raise _bad(callback, f"{where}{_name(piece)} that is not contiguous")
    buffer: BytesLike = piece
    return buffer


def parse_tick(reply: Any) -> bool:
    """Return whether the server goes on after a ticker returned `reply`.

    Raises:
        TypeError: `reply` is neither a bool nor None.
    """
    if reply is None:
        return True
    if not isinstance(reply, bool):
        raise TypeError(f"ticker() returned {_name(reply)}; allowed: True or None to go on, False to stop")
    return reply


def parse_messages(messages: Any) -> list[Any]:
    """Return what a decoder's `feed` returned.

    Raises:
        TypeError: `messages` is not a list.
    """
    if not isinstance(messages, list):
        raise TypeError(f"feed() returned {_name(messages)}; it must return the list of complete messages")
    return messages


def bad_wake(data: object) -> TypeError:
    """Return the error for a `wake(data)` whose data cannot be sent."""
    try:
        memoryview(data).release()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return TypeError(f"wake() takes a bytes-like object or nothing, not {_name(data)}")
    return TypeError(f"wake() takes a contiguous bytes-like object or nothing, not a strided {_name(data)}")


def _bad(callback: str, what: str) -> TypeError:
    return TypeError(f"{callback}() returned {what}; allowed: {_ALLOWED}")


def _name(value: object) -> str:
    return type(value).__name__
