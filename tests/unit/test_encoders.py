"""The encoders in C and in Python are one: whatever they are given, they return or raise the same."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import for_cpython, own_process
from hypothesis import given
from hypothesis import strategies as st
from unit.twins import CODECS, ENCODERS, Codec

PYTHON = Codec("Python")

Outcome = tuple[str, object]


def outcome(call: Callable[[], Any]) -> Outcome:
    """Return what a call returns or raises."""
    try:
        value = call()
    except Exception as error:
        return type(error).__name__, str(error)
    assert type(value) is bytes
    return "returned", value


def same(codec: Codec, encoder: str, make: Callable[[], tuple[Any, ...]], **keywords: Any) -> Outcome:
    """Call an encoder of both codecs, each with arguments of its own, and return what both return or raise."""
    ours, pythons = getattr(codec, encoder), getattr(PYTHON, encoder)
    found = outcome(lambda: ours(*make(), **keywords))
    assert found == outcome(lambda: pythons(*make(), **keywords))
    return found


class MyStr(str):
    pass


class Shouting(str):
    def encode(self, *args: Any, **keywords: Any) -> bytes:
        return self.upper().encode("utf-8", "replace")


class MyBytes(bytes):
    pass


class MyBytearray(bytearray):
    pass


class MyInt(int):
    def __repr__(self) -> str:
        return "mine"

    __str__ = __repr__


class MyFloat(float):
    def __repr__(self) -> str:
        return "mine"


class MyList(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([b"mine"])


class MyTuple(tuple[Any, ...]):
    def __iter__(self) -> Iterator[Any]:
        return iter([b"mine"])


class MyDict(dict[Any, Any]):
    def items(self) -> Any:
        return [(b"mine", 1)]


class MySet(set[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([b"mine"])


class MyError(Exception):
    def __str__(self) -> str:
        return "MINE is mine"


class BrokenError(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError("no text")


class Length:
    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"a", b"b", b"c"])

    def __len__(self) -> int:
        return self.length

    def __length_hint__(self) -> int:
        return self.length


class BrokenLength(Length):
    def __len__(self) -> int:
        raise ZeroDivisionError("no length")

    __length_hint__ = __len__


def released() -> memoryview:
    view = memoryview(b"gone")
    view.release()
    return view


text = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates too
ints = st.one_of(
    st.integers(),
    st.integers(-(2**63) - 2, -(2**63) + 2),
    st.integers(2**63 - 2, 2**63 + 2),
    st.integers(-12, 12),
    st.sampled_from([10**power for power in range(20)] + [-(10**power) for power in range(20)]),
    st.sampled_from([2**2000, -(2**2000)]),
)
BUFFERS: list[Callable[[bytes], Any]] = [
    bytes,
    MyBytes,
    bytearray,
    MyBytearray,
    memoryview,
    lambda data: memoryview(data)[::2],
    lambda data: memoryview(data)[::-1],
    lambda data: memoryview(bytearray(data)),
    lambda data: memoryview(data + b"x" * (-len(data) % 4)).cast("I"),
]
buffers = st.builds(lambda kind, data: kind(data), st.sampled_from(BUFFERS), st.binary(max_size=40))
leaves = st.one_of(
    st.none(),
    st.booleans(),
    ints,
    ints.map(MyInt),
    st.floats(),
    st.floats().map(MyFloat),
    text,
    text.map(MyStr),
    text.map(Shouting),
    buffers,
    st.builds(released),
    st.builds(
        lambda kind, texts: kind(*texts),
        st.sampled_from([ValueError, KeyError, MyError, BrokenError, KeyboardInterrupt]),
        st.lists(text, max_size=2),
    ),
    st.sampled_from([object(), 1j, ..., int, len, b"".join, range(3)]),
)
hashable = st.one_of(st.none(), st.booleans(), ints, st.floats(), text, st.binary(max_size=20), st.tuples(ints, text))
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.lists(inner, max_size=3).map(MyList),
        st.lists(inner, max_size=6).map(tuple),
        st.lists(inner, max_size=3).map(MyTuple),
        st.dictionaries(hashable, inner, max_size=6),
        st.dictionaries(hashable, inner, max_size=3).map(MyDict),
        st.sets(hashable, max_size=6),
        st.sets(hashable, max_size=3).map(MySet),
        st.frozensets(hashable, max_size=6),
    ),
    max_leaves=20,
)
protocols = st.sampled_from([2, 2, 2, 3, 3, 3, 2.0, 3.0, MyInt(2), MyInt(3), True, 0, 1, 4, -1, 2**70, None, "2", b"2"])


@given(values, protocols)
def test_encode(codec: Codec, value: Any, protocol: Any) -> None:
    same(codec, "encode", lambda: (value, protocol))
    same(codec, "encode", lambda: (value,))
    same(codec, "encode", lambda: (value,), protocol=protocol)


@given(leaves, protocols)
def test_encoders_of_one_value(codec: Codec, value: Any, protocol: Any) -> None:
    for encoder in ("simple", "error", "integer", "bulk"):
        same(codec, encoder, lambda: (value,))
    same(codec, "bulk", lambda: (value, protocol))
    same(codec, "null", lambda: (protocol,))
    same(codec, "null", lambda: (), protocol=protocol)


@given(st.one_of(text, st.binary(max_size=40)))
def test_encoders_of_text(codec: Codec, value: str | bytes) -> None:
    same(codec, "error", lambda: (value,))
    same(codec, "simple", lambda: (value,))


kinds = st.sampled_from([list, tuple, iter, MyList, MyTuple, lambda items: (item for item in items)])


@given(st.lists(st.one_of(st.none(), text, text.map(Shouting), buffers), max_size=20), kinds, protocols)
def test_bulks(codec: Codec, items: list[Any], kind: Callable[[Any], Any], protocol: Any) -> None:
    same(codec, "bulks", lambda: (kind(items), protocol))


@given(st.lists(leaves, max_size=6), kinds)
def test_columns_of_anything(codec: Codec, items: list[Any], kind: Callable[[Any], Any]) -> None:
    for encoder in ("bulks", "integers", "array"):
        same(codec, encoder, lambda: (kind(items),))


@given(st.lists(st.one_of(ints, ints.map(MyInt), st.booleans()), max_size=20), kinds)
def test_integers(codec: Codec, items: list[int], kind: Callable[[Any], Any]) -> None:
    same(codec, "integers", lambda: (kind(items),))
    assert same(codec, "integers", lambda: ([item % 2**63 for item in items],)) == (
        "returned",
        b"".join(b":%d\r\n" % (item % 2**63) for item in items),
    )


@given(st.lists(st.one_of(buffers, text, st.none()), max_size=8), kinds)
def test_array(codec: Codec, items: list[Any], kind: Callable[[Any], Any]) -> None:
    same(codec, "array", lambda: (kind(items),))


pair = st.one_of(st.tuples(buffers, buffers), st.lists(buffers, max_size=3), st.binary(max_size=3), st.none(), text)


@given(st.lists(pair, max_size=5), kinds, protocols)
def test_map(codec: Codec, pairs: list[Any], kind: Callable[[Any], Any], protocol: Any) -> None:
    same(codec, "map", lambda: (kind(pairs), protocol))


@given(st.dictionaries(st.binary(max_size=5), st.binary(max_size=5)), protocols)
def test_map_of_a_dict(codec: Codec, pairs: dict[bytes, bytes], protocol: Any) -> None:
    same(codec, "map", lambda: (pairs.items(), protocol))
    same(codec, "map", lambda: (), pairs=pairs.items(), protocol=protocol)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_wrong_calls_raise_the_same(codec: Codec, encoder: str) -> None:
    for arguments in ((), (b"a", 2, 3), (b"a", 2, 3, 4)):
        same(codec, encoder, lambda arguments=arguments: arguments)  # type: ignore[misc]
    wrong: list[dict[str, Any]] = [
        {"protocol": 2},
        {"nonsense": 1},
        {"data": b"a"},
        {"text": "a"},
        {"values": []},
        {"number": 1},
    ]
    for keywords in wrong:
        same(codec, encoder, lambda: (), **keywords)
        same(codec, encoder, lambda: ([],), **keywords)


# Iterables that do as they like


@pytest.mark.parametrize("encoder", ["array", "bulks", "integers", "map"])
def test_an_iterable_that_raises(codec: Codec, encoder: str) -> None:
    def failing() -> Iterator[Any]:
        yield (b"a", b"b") if encoder == "map" else 1 if encoder == "integers" else b"a"
        raise ZeroDivisionError("enough")

    assert same(codec, encoder, lambda: (failing(),)) == ("ZeroDivisionError", "enough")


@pytest.mark.parametrize("length", [0, 1, 3, 100, -1, 2**62])
@pytest.mark.parametrize("kind", [Length, BrokenLength])
@pytest.mark.parametrize("encoder", ["array", "bulks"])
def test_an_iterable_that_lies_about_its_length(codec: Codec, encoder: str, kind: type[Length], length: int) -> None:
    same(codec, encoder, lambda: (kind(length),))


class Changing(str):
    """Changes what it is in when it is encoded."""

    change: Callable[[], object]

    def encode(self, *args: Any, **keywords: Any) -> bytes:
        self.change()
        return b"changed"


class ChangingBytes(bytearray):
    change: Callable[[], object]

    def __bytes__(self) -> bytes:
        self.change()
        return b"changed"


class ChangingError(Exception):
    change: Callable[[], object]

    def __str__(self) -> str:
        self.change()
        return "changed"


CHANGES: dict[str, Callable[[list[Any]], object]] = {
    "cleared": lambda items: items.clear(),
    "shortened": lambda items: items.pop(),
    "grown": lambda items: items.append(b"more") if len(items) < 50 else None,
    "replaced": lambda items: items.__setitem__(slice(None), [b"x" * 100] * len(items)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", [Changing, ChangingBytes, ChangingError])
@pytest.mark.parametrize("encoder", ["bulks", "encode"])
def test_a_list_that_changes_while_it_is_read(codec: Codec, encoder: str, kind: Any, change: str) -> None:
    def arguments() -> tuple[Any]:
        changing = kind()
        items = [b"a" * 50, changing, bytes(50), None, b"b"]
        changing.change = lambda: CHANGES[change](items)
        return (items,)

    same(codec, encoder, arguments)


@pytest.mark.parametrize("kind", [Changing, ChangingBytes, ChangingError])
def test_a_dict_or_a_set_that_changes_while_it_is_read(codec: Codec, kind: Any) -> None:
    def dictionary(change: Callable[[dict[Any, Any]], object]) -> tuple[Any]:
        changing = kind()
        pairs = {1: b"a", 2: changing, 3: b"b", 4: [b"c"]}
        changing.change = lambda: change(pairs)
        return (pairs,)

    for change in (dict.clear, dict.popitem, lambda pairs: pairs.update({5: b"d"}), lambda pairs: pairs.update({2: 1})):
        same(codec, "encode", lambda change=change: dictionary(change))  # type: ignore[misc]
        same(codec, "encode", lambda change=change: (*dictionary(change), 3))  # type: ignore[misc]
    if kind is ChangingError:

        def group() -> tuple[Any]:
            changing = kind()
            items: set[Any] = {changing}
            changing.change = lambda: items.update(range(100))
            return (items,)

        same(codec, "encode", group)


@pytest.mark.parametrize("protocol", [2, 3])
def test_what_contains_itself(codec: Codec, protocol: int) -> None:
    _check_what_contains_itself(name=codec.name, protocol=protocol)


@own_process
def _check_what_contains_itself(name: str, protocol: int) -> None:
    codec = Codec(name)
    itself: list[Any] = []
    itself.append(itself)
    mapping: dict[Any, Any] = {}
    mapping[1] = (mapping,)
    deep: Any = b"a"
    for _ in range(200_000):
        deep = [deep]
    for value in (itself, mapping, deep):
        with pytest.raises(RecursionError):
            codec.encode(value, protocol)
    nested: Any = b"a"
    for _ in range(200):
        nested = [nested]
    assert codec.encode(nested, protocol) == b"*1\r\n" * 200 + b"$1\r\na\r\n"


def test_large_replies(codec: Codec) -> None:
    large = b"v" * 5_000_000
    assert codec.bulk(large) == codec.encode(large) == b"$5000000\r\n" + large + b"\r\n"
    assert codec.encode([large, 1]) == b"*2\r\n" + codec.bulk(large) + b":1\r\n"
    assert codec.bulks([large] * 3) == codec.bulk(large) * 3
    assert codec.array([large] * 2) == b"*2\r\n" + large * 2
    many = [b"%d" % number for number in range(100_000)]
    assert codec.bulks(many) == b"".join(b"$%d\r\n%b\r\n" % (len(item), item) for item in many)
    assert codec.integers(range(100_000)) == b"".join(b":%d\r\n" % number for number in range(100_000))
    assert codec.encode(many) == b"*100000\r\n" + codec.bulks(many)


@pytest.mark.measures
@for_cpython
@pytest.mark.parametrize("name", CODECS)
def test_encoding_leaves_nothing_behind(name: str) -> None:
    _check_leaks(name=name)


@own_process
def _check_leaks(name: str) -> None:
    codec = Codec(name)
    fine: list[Any] = [None, True, 7, 2**70, 1.5, "ä", b"a", bytearray(b"b"), memoryview(b"c"), ["d"], (1,), {"e": {2}}]
    fine += [frozenset([3]), ValueError("no"), MyInt(4), MyStr("f"), {"g": 1, 2: [b"h" * 1000]}]
    bad: list[tuple[str, tuple[Any, ...]]] = [
        ("encode", ([1, {"a": [object()]}],)),
        ("encode", ({1: "\ud800"}, 3)),
        ("encode", ([[BrokenError()]],)),
        ("encode", ([1], 4)),
        ("bulks", ([b"a", None, 1],)),
        ("bulks", ([None], 4)),
        ("bulks", (1,)),
        ("bulk", ("\ud800",)),
        ("bulk", (released(),)),
        ("integers", ([1, 2**70],)),
        ("integer", ("1",)),
        ("array", ([b"a", 1],)),
        ("map", ([(b"a",)],)),
        ("map", ([(b"a", b"b")], 4)),
        ("simple", ("\n",)),
        ("error", (1,)),
        ("null", (4,)),
    ]

    def encode(times: int) -> tuple[int, int]:
        for _ in range(times):
            for protocol in (2, 3):
                codec.encode(fine, protocol)
                codec.bulks([b"a", None, "b", memoryview(b"cd")[::2]], protocol)
                codec.map({b"a": b"b"}.items(), protocol)
                codec.bulk(None, protocol)
            codec.integers([1, 2**40, True, MyInt(3)])
            codec.array(iter([b"a", b"b"]))
            codec.error("ERR \ud800")
            codec.simple(b"OK")
            for encoder, arguments in bad:
                with contextlib.suppress(TypeError, ValueError, OverflowError, ZeroDivisionError):
                    getattr(codec, encoder)(*arguments)
        gc.collect()
        status = Path("/proc/self/statm")
        resident = int(status.read_text("ascii").split()[1]) * os.sysconf("SC_PAGESIZE") if status.exists() else 0
        return sys.getallocatedblocks(), resident

    blocks, size = encode(1000)
    blocks_after, size_after = encode(5000)
    assert blocks_after - blocks < 100
    assert size_after - size < 256 * 1024
