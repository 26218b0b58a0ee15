"""What a callback may return. This is the definition; the native engine knows the common shapes by
itself and comes here for the rest, so that both engines say the same of a bad one."""

from __future__ import annotations

from typing import Any

from ._wake import BytesLike

_NO_BUFFER = (TypeError, ValueError, BufferError)  # ValueError: it has been released or closed
_ALLOWED = "None, a bool, bytes, a list of bytes, or a pair (send, keepopen)"


def parse(callback: str, reply: Any) -> tuple[list[bytes | memoryview], bool]:
    """Return the pieces to send, each bytes or a view of octets, and whether the connection stays open.

    Args:
        callback: the callback's name, for the error.
        reply: what it returned.

    Raises:
        TypeError: `reply` is nothing that a callback may return. It names the callback and what
            it returned.
    """
    # Types are asked, not objects: isinstance believes what an object says of its class, a subclass may have
    # methods of its own, and a buffer need not be the same when it is asked for again.
    if type(reply) is bool:
        return [], reply
    if not issubclass(type(reply), tuple):
        return _pieces(callback, reply, "", (list,)), True
    length = tuple.__len__(reply)
    if length != 2:
        raise _bad(callback, f"a tuple of {length}: a tuple is always (send, keepopen), pieces go in a list")
    send, keepopen = tuple.__iter__(reply)
    if type(keepopen) is not bool:
        raise _bad(callback, f"a pair whose keepopen is {_name(keepopen)}, not a bool: pieces go in a list")
    return _pieces(callback, send, "a pair whose send is ", (list, tuple)), keepopen


def _pieces(callback: str, send: Any, where: str, sequences: tuple[type, ...]) -> list[bytes | memoryview]:
    if send is None:
        return []
    if not issubclass(type(send), sequences):
        return [_octets(callback, send, where)]
    if issubclass(type(send), tuple):
        kind, items = "tuple", tuple.__iter__(send)
    else:
        kind, items = "list", iter(list.copy(send))  # it may change while it is read
    return [
        item if type(item) is bytes else _octets(callback, item, f"{where}a {kind} whose item {index} is ")
        for index, item in enumerate(items)
    ]


def _octets(callback: str, piece: Any, where: str) -> bytes | memoryview:
    if type(piece) is bytes:
        return piece
    try:
        view = memoryview(piece)
    except _NO_BUFFER:
        raise _bad(callback, where + _name(piece)) from None
    if not view.c_contiguous:
        raise _bad(callback, f"{where}{_name(piece)} that is not contiguous")
    return view if view.format == "B" and view.ndim == 1 else view.tobytes()


def octets(data: BytesLike) -> bytes:
    """Return a copy of what `wake(data)` is to send.

    Raises:
        TypeError: `data` is not bytes-like and contiguous.
    """
    try:
        view = memoryview(data)
    except _NO_BUFFER:
        pass
    else:
        with view:
            if view.c_contiguous:
                return view.tobytes()
    raise bad_wake(data)


def parse_tick(reply: Any) -> bool:
    """Return whether the server goes on after a ticker returned `reply`.

    Raises:
        TypeError: `reply` is neither a bool nor None.
    """
    if reply is None:
        return True
    if type(reply) is not bool:
        raise TypeError(f"ticker() returned {_name(reply)}; allowed: True or None to go on, False to stop")
    return reply


def parse_messages(messages: Any) -> list[Any]:
    """Return what a decoder's `feed` returned.

    Raises:
        TypeError: `messages` is not a list.
    """
    if not issubclass(type(messages), list):
        raise TypeError(f"feed() returned {_name(messages)}; it must return the list of complete messages")
    checked: list[Any] = messages
    return checked


def bad_wake(data: object) -> TypeError:
    """Return the error for a `wake(data)` whose data cannot be sent."""
    try:
        memoryview(data).release()  # type: ignore[arg-type]
    except _NO_BUFFER:
        return TypeError(f"wake() takes a bytes-like object or nothing, not {_name(data)}")
    return TypeError(f"wake() takes a contiguous bytes-like object or nothing, not a strided {_name(data)}")


def _bad(callback: str, what: str) -> TypeError:
    return TypeError(f"{callback}() returned {what}; allowed: {_ALLOWED}")


def _name(value: object) -> str:
    return type(value).__name__
