"""What a callback may return, and much that it may not, well meant and hostile.

Each is made anew for every call, of `PIECE` wherever it can be: what is leaked of it, or kept, shows in the
reference count of `PIECE` or of one of `CLASSES`.
"""

from __future__ import annotations

import array
import mmap
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

PIECE = bytes(bytearray(b"x"))  #: one byte, but no object that others have too

_PAIR = "a tuple is always (send, keepopen), pieces go in a list"


class Form(NamedTuple):
    """A reply that is right."""

    name: str
    make: Callable[[], Any]
    sent: bytes
    stays_open: bool


class Bad(NamedTuple):
    """A reply that is a TypeError."""

    name: str
    make: Callable[[], Any]
    text: str  #: what the error says was returned


def _raise(*args: Any) -> NoReturn:
    raise ZeroDivisionError


class ClearsItself(list[bytes]):
    """A list that is empty once whoever iterates over it has seen its first item."""

    def __iter__(self) -> Iterator[bytes]:
        for item in super().__iter__():
            yield item
            self.clear()


class BadBool:
    __bool__ = _raise


def lying(kind: type[Any]) -> type[Any]:
    """Return a subclass whose own methods do not give what is in it."""
    methods = dict.fromkeys(("__iter__", "__getitem__", "__bool__"), _raise)
    return type(f"Lying{kind.__name__.title()}", (kind,), {**methods, "__len__": lambda self: 2})


LyingList, LyingTuple, LyingBytes, LyingByteArray = map(lying, (list, tuple, bytes, bytearray))


class SaysItIsABool:
    """As mocks with a specification do."""

    __class__ = bool  # type: ignore[assignment]
    __bool__ = _raise


class SaysItIsATuple:
    __class__ = tuple  # type: ignore[assignment]

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[object]:
        return iter((PIECE, True))


class SaysItIsAList:
    __class__ = list  # type: ignore[assignment]


class HasNoClass:
    __class__ = property(_raise)


CLASSES = [
    ClearsItself,
    BadBool,
    LyingList,
    LyingTuple,
    LyingBytes,
    LyingByteArray,
    SaysItIsABool,
    SaysItIsATuple,
    SaysItIsAList,
    HasNoClass,
]


def released() -> memoryview:
    view = memoryview(PIECE)
    view.release()
    return view


def released_pickle_buffer() -> pickle.PickleBuffer:
    buffer = pickle.PickleBuffer(PIECE)
    buffer.release()
    return buffer


def closed_map() -> mmap.mmap:
    memory = mmap.mmap(-1, 1)
    memory.close()
    return memory


def holds_itself() -> list[Any]:
    pieces: list[Any] = [PIECE]
    pieces.append(pieces)
    return pieces


FORMS = [
    Form("None", lambda: None, b"", True),
    Form("True", lambda: True, b"", True),
    Form("False", lambda: False, b"", False),
    Form("bytes", lambda: b"data", b"data", True),
    Form("no bytes", lambda: b"", b"", True),
    Form("bytearray", lambda: bytearray(b"data"), b"data", True),
    Form("memoryview", lambda: memoryview(b"a piece of data")[11:], b"data", True),
    Form("memoryview of two dimensions", lambda: memoryview(b"data").cast("B", (2, 2)), b"data", True),
    Form("array of two-byte items", lambda: array.array("H", [1, 1]), array.array("H", [1, 1]).tobytes(), True),
    Form("list", lambda: [b"da", b"", bytearray(b"t"), memoryview(b"a")], b"data", True),
    Form("empty list", list, b"", True),
    Form("list that changes while it is read", lambda: ClearsItself([b"da", b"ta"]), b"data", True),
    Form("pair (None, True)", lambda: (None, True), b"", True),
    Form("pair (None, False)", lambda: (None, False), b"", False),
    Form("pair (bytes, True)", lambda: (b"data", True), b"data", True),
    Form("pair (bytes, False)", lambda: (b"data", False), b"data", False),
    Form("pair (bytearray, False)", lambda: (bytearray(b"data"), False), b"data", False),
    Form("pair (list, True)", lambda: ([b"da", b"ta"], True), b"data", True),
    Form("pair (list, False)", lambda: ([b"da", b"ta"], False), b"data", False),
    Form("pair (tuple, True)", lambda: ((b"da", b"ta"), True), b"data", True),
    Form("pair (tuple, False)", lambda: ((b"da", b"ta"), False), b"data", False),
    Form("pair (empty tuple, False)", lambda: ((), False), b"", False),
    # What counts is what they are, not what their methods say.
    Form("list with methods of its own", lambda: LyingList([PIECE, PIECE]), b"xx", True),
    Form("pair with methods of its own", lambda: LyingTuple((PIECE, False)), b"x", False),
    Form("tuple with methods of its own in a pair", lambda: (LyingTuple((PIECE,) * 3), True), b"xxx", True),
    Form("bytes with methods of its own", lambda: LyingBytes(PIECE), b"x", True),
    Form("bytearray with methods of its own", lambda: LyingByteArray(PIECE), b"x", True),
    Form("many views", lambda: [memoryview(PIECE) for _ in range(1000)], b"x" * 1000, True),
]

BAD = [
    Bad("empty tuple", lambda: (), f"a tuple of 0: {_PAIR}"),
    Bad("1-tuple", lambda: (PIECE,), f"a tuple of 1: {_PAIR}"),
    Bad("3-tuple", lambda: (PIECE, True, None), f"a tuple of 3: {_PAIR}"),
    Bad("1-tuple that says it is a pair", lambda: LyingTuple((PIECE,)), f"a tuple of 1: {_PAIR}"),
    Bad(
        "two pieces in a tuple",
        lambda: (PIECE, PIECE),
        "a pair whose keepopen is bytes, not a bool: pieces go in a list",
    ),
    Bad(
        "keepopen is None",
        lambda: (PIECE, None),
        "a pair whose keepopen is NoneType, not a bool: pieces go in a list",
    ),
    Bad("keepopen is 1", lambda: (PIECE, 1), "a pair whose keepopen is int, not a bool: pieces go in a list"),
    Bad(
        "keepopen has no truth",
        lambda: (PIECE, BadBool()),
        "a pair whose keepopen is BadBool, not a bool: pieces go in a list",
    ),
    Bad(
        "keepopen says it is a bool",
        lambda: (PIECE, SaysItIsABool()),
        "a pair whose keepopen is SaysItIsABool, not a bool: pieces go in a list",
    ),
    Bad("object without truth", BadBool, "BadBool"),
    Bad("object that says it is a bool", SaysItIsABool, "SaysItIsABool"),
    Bad("object that says it is a tuple", SaysItIsATuple, "SaysItIsATuple"),
    Bad("object that says it is a list", SaysItIsAList, "SaysItIsAList"),
    Bad("object that does not say what it is", HasNoClass, "HasNoClass"),
    Bad("str", lambda: "x", "str"),
    Bad("int", lambda: 5, "int"),
    Bad("dict", dict, "dict"),
    Bad("iterator", lambda: iter([PIECE]), type(iter([])).__name__),
    Bad("memoryview with holes", lambda: memoryview(b"abcdef")[::2], "memoryview that is not contiguous"),
    Bad("released memoryview", released, "memoryview"),
    Bad("released buffer", released_pickle_buffer, "PickleBuffer"),
    Bad("closed map", closed_map, "mmap"),
    Bad("str in a pair", lambda: ("x", True), "a pair whose send is str"),
    Bad("bool in a pair", lambda: (True, True), "a pair whose send is bool"),
    Bad("str in a list", lambda: [PIECE, "y"], "a list whose item 1 is str"),
    Bad("None in a list", lambda: [PIECE, None], "a list whose item 1 is NoneType"),
    Bad("bool in a list", lambda: [False], "a list whose item 0 is bool"),
    Bad("int in a list", lambda: [7], "a list whose item 0 is int"),
    Bad("list in a list", lambda: [[PIECE]], "a list whose item 0 is list"),
    Bad("list in itself", holds_itself, "a list whose item 1 is list"),
    Bad("pair in a list", lambda: [(PIECE, True)], "a list whose item 0 is tuple"),
    Bad(
        "holes in a list",
        lambda: [memoryview(b"abcd")[::2]],
        "a list whose item 0 is memoryview that is not contiguous",
    ),
    Bad(
        "released memoryview behind others",
        lambda: [memoryview(PIECE), bytearray(PIECE), released()],
        "a list whose item 2 is memoryview",
    ),
    Bad("str at a long list's end", lambda: [*[PIECE] * 5000, "y"], "a list whose item 5000 is str"),
    Bad("str in a list with methods of its own", lambda: LyingList([PIECE, "y"]), "a list whose item 1 is str"),
    Bad("None in a pair's list", lambda: ([None], True), "a pair whose send is a list whose item 0 is NoneType"),
    Bad("str in a pair's tuple", lambda: ((PIECE, "y"), False), "a pair whose send is a tuple whose item 1 is str"),
    Bad(
        "int in a pair's tuple with methods of its own",
        lambda: (LyingTuple((PIECE, 1)), True),
        "a pair whose send is a tuple whose item 1 is int",
    ),
]

if sys.version_info >= (3, 12):  # from here on a class in Python can export a buffer

    class NoBuffer:
        """Raises when it is asked for its buffer."""

        def __init__(self, kind: type[Exception]) -> None:
            self._kind = kind

        def __buffer__(self, flags: int) -> memoryview:
            raise self._kind

    class ChangingBuffer:
        """Has another buffer each time: a right one, then one with holes."""

        def __init__(self) -> None:
            self._views = [memoryview(PIECE), memoryview(b"abcdef")[::2]]

        def __buffer__(self, flags: int) -> memoryview:
            return self._views.pop(0)

    CLASSES += [NoBuffer, ChangingBuffer]
    FORMS += [Form("buffer that changes", ChangingBuffer, b"x", True)]
    BAD += [
        Bad("buffer that raises TypeError", lambda: NoBuffer(TypeError), "NoBuffer"),
        Bad("buffer that raises BufferError", lambda: NoBuffer(BufferError), "NoBuffer"),
        Bad("buffers that raise in a list", lambda: [PIECE, NoBuffer(ValueError)], "a list whose item 1 is NoBuffer"),
    ]
