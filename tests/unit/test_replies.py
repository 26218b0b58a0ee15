"""What a callback may return, read apart from any server."""

from __future__ import annotations

from typing import Any

import pytest
from harness import shown

from evio._replies import parse, parse_tick


@pytest.mark.parametrize(
    ("reply", "pieces", "keepopen"),
    [
        (None, [], True),
        (True, [], True),
        (False, [], False),
        (b"x", [b"x"], True),
        (b"", [b""], True),
        ([], [], True),
        ([b"x", bytearray(b"y"), memoryview(b"z")], [b"x", b"y", b"z"], True),
        ((None, True), [], True),
        ((None, False), [], False),
        ((b"x", False), [b"x"], False),
        (([b"x", b"y"], False), [b"x", b"y"], False),
        (((b"x", b"y"), True), [b"x", b"y"], True),
    ],
    ids=shown,
)
def test_reply(reply: Any, pieces: list[bytes], keepopen: bool) -> None:
    assert parse("handle", reply) == (pieces, keepopen)


@pytest.mark.parametrize("callback", ["handle", "accept"])
@pytest.mark.parametrize(
    ("reply", "what"),
    [
        ("x", "str"),
        (1, "int"),
        ((), "a tuple of 0: a tuple is always (send, keepopen), pieces go in a list"),
        ((b"x",), "a tuple of 1: a tuple is always (send, keepopen), pieces go in a list"),
        ((b"x", b"y"), "a pair whose keepopen is bytes, not a bool: pieces go in a list"),
        ((b"x", 1), "a pair whose keepopen is int, not a bool: pieces go in a list"),
        (("x", True), "a pair whose send is str"),
        ((False, True), "a pair whose send is bool"),
        ([b"x", None], "a list whose item 1 is NoneType"),
        ([[b"x"]], "a list whose item 0 is list"),
        (((b"x", 2), True), "a pair whose send is a tuple whose item 1 is int"),
        (memoryview(b"abcd")[::2], "memoryview that is not contiguous"),
        ([memoryview(b"abcd")[::-1]], "a list whose item 0 is memoryview that is not contiguous"),
    ],
    ids=shown,
)
def test_bad_reply(callback: str, reply: Any, what: str) -> None:
    with pytest.raises(TypeError) as caught:
        parse(callback, reply)
    allowed = "allowed: None, a bool, bytes, a list of bytes, or a pair (send, keepopen)"
    assert str(caught.value) == f"{callback}() returned {what}; {allowed}"


def test_released_memoryview_is_a_bad_reply() -> None:
    view = memoryview(b"x")
    view.release()
    with pytest.raises(TypeError, match="handle"):
        parse("handle", view)


def test_pieces_are_not_copied() -> None:
    fixed, mutable = bytes(bytearray(b"x")), bytearray(b"x")
    ((bytes_, view), _) = parse("handle", [fixed, mutable])
    assert bytes_ is fixed
    assert isinstance(view, memoryview)
    assert view.obj is mutable


@pytest.mark.parametrize(("reply", "goes_on"), [(None, True), (True, True), (False, False)])
def test_tick(reply: bool | None, goes_on: bool) -> None:
    assert parse_tick(reply) is goes_on


@pytest.mark.parametrize("reply", [0, 1, "", b"", (None, True)], ids=shown)
def test_bad_tick(reply: Any) -> None:
    with pytest.raises(TypeError) as caught:
        parse_tick(reply)
    kind = type(reply).__name__
    assert str(caught.value) == f"ticker() returned {kind}; allowed: True or None to go on, False to stop"
