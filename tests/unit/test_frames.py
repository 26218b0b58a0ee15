"""The framings that come with evio, in C and in Python: the same messages and errors, however a stream is cut."""

from __future__ import annotations

import contextlib
import copy
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import WITHOUT_GIL, for_cpython, own_process
from hypothesis import given
from hypothesis import strategies as st
from unit.twins import MIB, Codec, cut, decode, every_cut, flat, in_pieces

import evio
from evio import _frames, resp
from evio._extension import native
from evio._frames import Framing, portable_decoder

Verdict = tuple[list[bytes], str | None]

LINE_3 = "a line is longer than 3 bytes"


def longer(size: int, max_size: int = 16 * MIB) -> str:
    return f"a message of {size} bytes is longer than {max_size}"


#: A framing, what is sent, the messages in it, and the error behind them.
CASES: list[tuple[str, Framing[bytes], bytes, list[bytes], str | None]] = [
    ("nothing", evio.Lines(), b"", [], None),
    ("lines", evio.Lines(), b"one\ntwo\r\n\n\r\nfive", [b"one", b"two", b"", b""], None),
    ("one \\r is dropped", evio.Lines(), b"\r\r\na\rb\n\r", [b"\r", b"a\rb"], None),
    ("any byte", evio.Lines(), bytes(range(256)) * 2, [bytes(range(10)), bytes([*range(11, 256), *range(10)])], None),
    ("longest", evio.Lines(max_size=3), b"abc\nabc\r\nabc\r", [b"abc", b"abc"], None),
    ("too long", evio.Lines(max_size=3), b"a\nbb\nabcd\nb\n", [b"a", b"bb"], LINE_3),
    ("too long with \\r\\n", evio.Lines(max_size=3), b"abcd\r\n", [], LINE_3),
    ("too long with \\r", evio.Lines(max_size=3), b"ab\r\r\nab\r\r\r\n", [b"ab\r"], LINE_3),
    ("not yet too long", evio.Lines(max_size=3), b"a\nabcd", [b"a"], None),
    ("too long, no end", evio.Lines(max_size=3), b"a\nabcde", [b"a"], LINE_3),
    ("one byte", evio.Lines(max_size=1), b"a\n\nb\r\n\r\n\r", [b"a", b"", b"b", b""], None),
    ("\\r\\n only", evio.Lines(b"\r\n"), b"a\nb\r\nc\rd\r\r\n\r", [b"a\nb", b"c\rd\r"], None),
    ("\\0", evio.Lines(b"\0"), b"a\r\0\0b\n\0c", [b"a\r", b"", b"b\n"], None),
    ("three of a kind", evio.Lines(b"---"), b"a--b---c-----d----", [b"a--b", b"c", b"--d"], None),
    ("half alike", evio.Lines(b"aab"), b"aaab.aaaab..aab", [b"a", b".aa", b".."], None),
    ("long end", evio.Lines(b"<end>", 3), b"<en<end>abc<end>ab<e<end>", [b"<en", b"abc"], LINE_3),
    ("long end, saved", evio.Lines(b"<end>", 3), b"abc<end", [], None),
    ("long end, not saved", evio.Lines(b"<end>", 3), b"abc<enden", [], LINE_3),
    ("long", evio.Lines(max_size=300), b"x" * 120 + b"\n" + b"y" * 70 + b"\r\n", [b"x" * 120, b"y" * 70], None),
    ("no message", evio.Prefixed(4), b"", [], None),
    ("1 byte", evio.Prefixed(1), b"\1a\0\3\0\xff\n", [b"a", b"", b"\0\xff\n"], None),
    ("2 bytes", evio.Prefixed(2), b"\0\1a\0\0\0\2bc\0", [b"a", b"", b"bc"], None),
    ("4 bytes", evio.Prefixed(4), b"\0\0\0\1a\0\0\0\0\0\0\0\2bc\0\0\0\1", [b"a", b"", b"bc"], None),
    ("8 bytes", evio.Prefixed(8), b"\0\0\0\0\0\0\0\1a" + bytes(8) + b"\0\0\0\0\0\0\0\2b", [b"a", b""], None),
    ("little 2", evio.Prefixed(2, "little"), b"\1\0a\0\0\2\0bc", [b"a", b"", b"bc"], None),
    ("little 4", evio.Prefixed(4, "little"), b"\1\0\0\0a\0\0\0\0", [b"a", b""], None),
    ("little 8", evio.Prefixed(8, "little"), b"\1\0\0\0\0\0\0\0a\0", [b"a"], None),
    ("longest message", evio.Prefixed(1, max_size=3), b"\3abc\2ab", [b"abc", b"ab"], None),
    ("too long a message", evio.Prefixed(1, max_size=3), b"\1a\4abcd", [b"a"], longer(4, 3)),
    ("255", evio.Prefixed(1, max_size=254), b"\xff", [], longer(255, 254)),
    ("65535", evio.Prefixed(2, max_size=9), b"\xff\xff", [], longer(65535, 9)),
    ("unsigned", evio.Prefixed(4), b"\xff" * 4, [], longer(2**32 - 1)),
    ("16 MiB", evio.Prefixed(4), b"\1\0\0\0", [], None),
    ("16 MiB and 1", evio.Prefixed(4), b"\1\0\0\1", [], longer(16 * MIB + 1)),
    ("2**64 - 1", evio.Prefixed(8), b"\0" * 8 + b"\xff" * 8, [b""], longer(2**64 - 1)),
    ("2**63", evio.Prefixed(8, max_size=sys.maxsize), (2**63).to_bytes(8, "big"), [], longer(2**63, sys.maxsize)),
    ("maxsize", evio.Prefixed(8, max_size=sys.maxsize), sys.maxsize.to_bytes(8, "big") + b"abc", [], None),
    ("little 2**63", evio.Prefixed(8, "little"), b"\0" * 7 + b"\x80", [], longer(2**63)),
    ("narrow", evio.Prefixed(2, max_size=sys.maxsize), b"\0\xc0" + b"m" * 192 + b"\0", [b"m" * 192], None),
]  # fmt: skip


def verdict(codec: Codec, frame: Framing[bytes], pieces: list[bytes]) -> Verdict:
    messages, error = decode(codec.decoder(frame), pieces)
    assert all(type(message) is bytes for message in messages)
    assert error is None or error.reply is None
    return messages, None if error is None else str(error)


@pytest.mark.parametrize(
    ("frame", "data", "messages", "error"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_verdict(codec: Codec, frame: Framing[bytes], data: bytes, messages: list[bytes], error: str | None) -> None:
    assert verdict(codec, frame, [data]) == (messages, error)


@pytest.mark.parametrize(
    ("frame", "data", "messages", "error"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_verdict_is_the_same_however_the_stream_is_cut(
    codec: Codec, frame: Framing[bytes], data: bytes, messages: list[bytes], error: str | None
) -> None:
    for pieces in every_cut(data):
        assert verdict(codec, frame, pieces) == (messages, error), pieces


def test_every_pair_of_cuts_of_a_long_stream(codec: Codec) -> None:
    lines = [b"line %d" % number + b"\r" * (number % 3) for number in range(19)]
    data = b"\n".join(lines) + b"\n" + b"x" * 25
    assert 170 <= len(data) <= 200
    for pieces in every_cut(data):
        assert verdict(codec, evio.Lines(max_size=23), pieces) == (
            [line.removesuffix(b"\r") for line in lines],
            "a line is longer than 23 bytes",
        )
    data = b"".join(len(line).to_bytes(4, "big") + line for line in lines[:14]) + b"\0\0\1\0"
    assert 150 <= len(data) <= 200
    for pieces in every_cut(data):
        assert verdict(codec, evio.Prefixed(4, max_size=255), pieces) == (
            lines[:14],
            "a message of 256 bytes is longer than 255",
        )


# Limits


@pytest.mark.parametrize(("sep", "room"), [(b"\n", 2), (b"\r\n", 2), (b"\0", 1), (b"<end>", 5)])
@pytest.mark.parametrize("max_size", [1, 2, 10, 65536])
def test_a_line_is_too_long_once_no_end_can_save_it(codec: Codec, sep: bytes, room: int, max_size: int) -> None:
    frame = evio.Lines(sep, max_size)
    longest = b"x" * max_size
    assert verdict(codec, frame, [longest + sep]) == ([longest], None)
    error = f"a line is longer than {max_size} bytes"
    assert verdict(codec, frame, [longest + b"x" + sep]) == ([], error)
    hopeless = b"x" * (max_size + room)
    for pieces in ([hopeless], in_pieces(hopeless, 1), in_pieces(hopeless, 7)):
        decoder = codec.decoder(frame)
        *early, last = pieces
        early.append(last[:-1])
        assert decode(decoder, early) == ([], None)
        with pytest.raises(evio.FrameError, match=error):
            decoder.feed(last[-1:])


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("byteorder", ["big", "little"])
def test_a_message_is_too_long_as_soon_as_its_length_has_come(codec: Codec, width: int, byteorder: Any) -> None:
    decoder = codec.decoder(evio.Prefixed(width, byteorder, max_size=100))
    header = (101).to_bytes(width, byteorder)
    assert decode(decoder, [(100).to_bytes(width, byteorder) + b"m" * 100, *in_pieces(header[:-1], 1)]) == (
        [b"m" * 100],
        None,
    )
    with pytest.raises(evio.FrameError, match="a message of 101 bytes is longer than 100"):
        decoder.feed(header[-1:])


def test_the_usual_limits(codec: Codec) -> None:
    assert verdict(codec, evio.Lines(), [b"x" * 65536 + b"\r\n"]) == ([b"x" * 65536], None)
    assert verdict(codec, evio.Lines(), [b"x" * 65537 + b"\n"]) == ([], "a line is longer than 65536 bytes")
    assert verdict(codec, evio.Prefixed(4), [b"\1\0\0\0", bytes(16 * MIB)]) == ([bytes(16 * MIB)], None)


# What a decoder is

FRAMES: list[tuple[Framing[Any], bytes, Any, bytes]] = [
    (evio.Lines(max_size=9), b"one\n", b"one", b"0123456789\n"),
    (evio.Lines(b"<end>", max_size=9), b"one<end>", b"one", b"0123456789<end>"),
    (evio.Prefixed(4, max_size=9), b"\0\0\0\3one", b"one", b"\0\0\0\x0a"),
    (resp.Commands(), b"*2\r\n$3\r\nGET\r\n$3\r\none\r\n", [b"GET", b"one"], b"*x\r\n"),
    (resp.Runs(), b"*2\r\n$3\r\nGET\r\n$3\r\none\r\n", (b"GET", 1, ([b"one"],)), b"*x\r\n"),
    (resp.Runs([b"GET"]), b"*2\r\n$3\r\nget\r\n$3\r\none\r\n", (b"GET", 1, ([b"one"],)), b"*x\r\n"),
]
each_frame = pytest.mark.parametrize(
    ("frame", "data", "message", "bad"),
    FRAMES,
    ids=["Lines", "Lines of <end>", "Prefixed", "Commands", "Runs", "Runs of names"],
)


@each_frame
def test_an_error_ends_the_stream(codec: Codec, frame: Framing[Any], data: bytes, message: Any, bad: bytes) -> None:
    decoder = codec.decoder(frame)
    assert decoder.feed(data) == [message]
    with pytest.raises(evio.FrameError) as caught:
        decoder.feed(data + bad + data)
    assert type(caught.value) is evio.FrameError
    assert caught.value.messages == [message]
    for later in (data, b"", bad):
        assert decoder.feed(later) == []


@each_frame
def test_decoders_are_independent(codec: Codec, frame: Framing[Any], data: bytes, message: Any, bad: bytes) -> None:
    first, second = codec.decoder(frame), codec.decoder(frame)
    assert first.feed(data[:-1]) == []
    with pytest.raises(evio.FrameError):
        second.feed(bad)
    assert first.feed(data[-1:]) == [message]


@each_frame
def test_what_is_returned_is_the_callers_own(
    codec: Codec, frame: Framing[Any], data: bytes, message: Any, bad: bytes
) -> None:
    decoder = codec.decoder(frame)
    found = [decoder.feed(b""), decoder.feed(b""), decoder.feed(data), decoder.feed(data[:-1]), decoder.feed(data[-1:])]
    assert found == [[], [], [message], [], [message]]
    assert len({id(messages) for messages in found}) == len(found)
    for messages in found:
        messages.append(b"changed")
    assert decoder.feed(data) == [message]


class MyBytes(bytes):
    pass


@each_frame
@pytest.mark.parametrize("make", [bytes.decode, bytearray, memoryview, MyBytes, len, lambda data: None])
def test_only_bytes_are_decoded(
    codec: Codec, frame: Framing[Any], data: bytes, message: Any, bad: bytes, make: Callable[[bytes], Any]
) -> None:
    decoder: Any = codec.decoder(frame)
    decoder.feed(data[:2])
    wrong = make(data)
    with pytest.raises(TypeError) as caught:
        decoder.feed(wrong)
    assert str(caught.value) == f"feed() takes bytes, not {type(wrong).__name__}"
    assert decode(decoder, [data[2:]]) == ([message], None)
    for arguments in ((), (data, data)):
        with pytest.raises(TypeError):
            decoder.feed(*arguments)
    with pytest.raises(TypeError):
        decoder.feed(data=data)


@each_frame
def test_decoders_of_both_codecs_look_alike(frame: Framing[Any], data: bytes, message: Any, bad: bytes) -> None:
    fast, python = frame.decoder(), frame.python_decoder()
    assert type(fast).__name__ == type(python).__name__
    assert [name for name in dir(fast) if not name.startswith("_")] == ["feed"]
    assert [name for name in dir(python) if not name.startswith("_")] == ["feed"]
    if native is not None:
        assert type(fast).__module__ == "evio._native"
        assert not hasattr(fast, "__dict__")


@each_frame
def test_without_an_extension_decoders_are_those_in_python(
    frame: Framing[Any], data: bytes, message: Any, bad: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_frames, "native", None)
    assert type(frame.decoder()) is type(frame.python_decoder())
    assert frame.decoder().feed(data) == [message]


@each_frame
def test_the_portable_engines_decoders_are_those_in_python(
    frame: Framing[Any], data: bytes, message: Any, bad: bytes
) -> None:
    assert type(portable_decoder(frame)) is type(frame.python_decoder())


def test_the_portable_engine_takes_a_decoder_of_the_users_own() -> None:
    class Decoder:
        def feed(self, data: bytes) -> list[bytes]:
            return [data]

    class Frame:
        def decoder(self) -> Decoder:
            return Decoder()

    class Overriding(evio.Lines):
        def decoder(self) -> Decoder:
            return Decoder()

    class Inheriting(evio.Lines):
        pass

    replaced = evio.Lines()
    replaced.decoder = Frame().decoder  # type: ignore[method-assign]
    for frame in (Frame(), Overriding(), replaced):
        assert type(portable_decoder(frame)) is Decoder
    inherited = portable_decoder(Inheriting())
    assert type(inherited) is type(evio.Lines().python_decoder())
    assert inherited.feed(b"a\n") == [b"a"]


@each_frame
def test_a_framing_can_be_copied(frame: Framing[Any], data: bytes, message: Any, bad: bytes) -> None:
    assert copy.deepcopy(frame).decoder().feed(data) == [message]


# Arguments


@pytest.mark.parametrize("sep", ["\n", bytearray(b"\n"), memoryview(b"\n"), MyBytes(b"\n"), None, 10])
def test_sep_of_a_wrong_type(sep: Any) -> None:
    with pytest.raises(TypeError, match=f"^sep must be bytes, not {type(sep).__name__}$"):
        evio.Lines(sep)


def test_sep_of_no_bytes() -> None:
    with pytest.raises(ValueError, match=r"^sep must be at least one byte$"):
        evio.Lines(b"")


@pytest.mark.parametrize("width", ["4", 4.0, None, True])
def test_width_of_a_wrong_type(width: Any) -> None:
    with pytest.raises(TypeError, match=f"^width must be an int, not {type(width).__name__}$"):
        evio.Prefixed(width)


@pytest.mark.parametrize("width", [0, 3, -1, 16, 2**70])
def test_width_out_of_range(width: int) -> None:
    with pytest.raises(ValueError, match=f"^width must be 1, 2, 4 or 8, not {width}$"):
        evio.Prefixed(width)


@pytest.mark.parametrize("byteorder", ["BIG", "", None, 1])
def test_byteorder_that_is_none(byteorder: Any) -> None:
    with pytest.raises(ValueError, match=f'^byteorder must be "big" or "little", not {byteorder!r}$'):
        evio.Prefixed(4, byteorder)


@pytest.mark.parametrize("make", [evio.Lines, lambda max_size: evio.Prefixed(4, max_size=max_size)])
def test_max_size_of_a_wrong_type_or_out_of_range(make: Any) -> None:
    make(max_size=1)
    make(max_size=sys.maxsize)
    for max_size in ("1", 1.0, None, True):
        with pytest.raises(TypeError, match=f"^max_size must be an int, not {type(max_size).__name__}$"):
            make(max_size=max_size)
    for number in (0, -1, sys.maxsize + 1):
        with pytest.raises(ValueError, match=f"^max_size must be from 1 to {sys.maxsize}, not {number}$"):
            make(max_size=number)


# Any stream

separators = st.sampled_from([b"\n", b"\r\n", b"\0", b"aab", b"--"])
places = st.lists(st.integers(0, 20000), max_size=8)


def cut_anywhere(data: bytes, places: list[int]) -> list[bytes]:
    return cut(data, *(min(place, len(data)) for place in places))


@given(separators, st.lists(st.binary(max_size=2000), max_size=10), places)
def test_lines_that_were_joined_are_found(codec: Codec, sep: bytes, lines: list[bytes], places: list[int]) -> None:
    lines = [line.replace(sep, b"").removesuffix(b"\r") for line in lines]
    lines = [line for line in lines if (line + sep).find(sep) == len(line)]
    data = b"".join(line + sep for line in lines)
    assert verdict(codec, evio.Lines(sep), cut_anywhere(data, places)) == (lines, None)


@given(st.sampled_from([2, 4, 8]), st.sampled_from(["big", "little"]), st.lists(st.binary(max_size=2000)), places)
def test_messages_that_were_prefixed_are_found(
    codec: Codec, width: int, byteorder: Any, messages: list[bytes], places: list[int]
) -> None:
    data = b"".join(len(message).to_bytes(width, byteorder) + message for message in messages)
    assert verdict(codec, evio.Prefixed(width, byteorder), cut_anywhere(data, places)) == (messages, None)


@given(separators, st.integers(1, 12), st.lists(st.sampled_from([*b"\r\n\0ab-", b"\r\n", b"aab", b"xxxx"])), places)
def test_both_codecs_find_the_same_lines_in_noise(
    codec: Codec, sep: bytes, max_size: int, tokens: list[int | bytes], places: list[int]
) -> None:
    data = b"".join(bytes([token]) if isinstance(token, int) else token for token in tokens)
    frame = evio.Lines(sep, max_size)
    expected = verdict(Codec("Python"), frame, [data])
    for pieces in ([data], cut_anywhere(data, [place % (len(data) + 1) for place in places]), in_pieces(data, 1)):
        assert verdict(codec, frame, pieces) == expected


@given(
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(["big", "little"]),
    st.integers(1, 300),
    st.lists(st.sampled_from([0] * 9 + [1, 2, 3, 255])),
    places,
)
def test_both_codecs_find_the_same_messages_in_noise(
    codec: Codec, width: int, byteorder: Any, max_size: int, data: list[int], places: list[int]
) -> None:
    stream = bytes(data)
    frame = evio.Prefixed(width, byteorder, max_size)
    expected = verdict(Codec("Python"), frame, [stream])
    for pieces in (
        [stream],
        cut_anywhere(stream, [place % (len(stream) + 1) for place in places]),
        in_pieces(stream, 1),
    ):
        assert verdict(codec, frame, pieces) == expected


# Time and memory


def seconds(codec: Codec, frame: Framing[Any], pieces: list[bytes]) -> float:
    """Return the processor time that decoding takes, the best of three."""
    times = []
    for _ in range(3):
        decoder = codec.decoder(frame)
        before = time.process_time()
        for piece in pieces:
            decoder.feed(piece)
        times.append(time.process_time() - before)
    return min(times)


def prefixed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


LONG_LINES = evio.Lines(max_size=64 * MIB)
LONG_ENDS = evio.Lines(b"<end>", max_size=64 * MIB)
LONG_MESSAGES = evio.Prefixed(4, max_size=65 * MIB)


@pytest.mark.measures
@pytest.mark.parametrize(
    ("frame", "large", "small", "size"),
    [
        pytest.param(LONG_LINES, b"x" * (16 * MIB) + b"\n", b"x" * MIB + b"\n", 1024, id="line"),
        pytest.param(LONG_LINES, b"\r" * (16 * MIB) + b"\n", b"\r" * MIB + b"\n", 1024, id="line of \\r"),
        pytest.param(LONG_LINES, b"x" * (MIB // 4) + b"\n", b"x" * (MIB // 64) + b"\n", 1, id="line, bytes"),
        pytest.param(LONG_ENDS, b"<end" * (4 * MIB) + b"<end>", b"<end" * (MIB // 4) + b"<end>", 1023, id="long end"),
        pytest.param(LONG_ENDS, b"<" * (MIB // 4) + b"<end>", b"<" * (MIB // 64) + b"<end>", 1, id="long end, bytes"),
        pytest.param(LONG_MESSAGES, prefixed(bytes(16 * MIB)), prefixed(bytes(MIB)), 1024, id="message"),
        pytest.param(LONG_MESSAGES, prefixed(bytes(MIB // 4)), prefixed(bytes(MIB // 64)), 1, id="message, bytes"),
    ],
)  # fmt: skip
def test_time_is_linear(codec: Codec, frame: Framing[bytes], large: bytes, small: bytes, size: int) -> None:
    # As many bytes in as many pieces: in quadratic time the large one takes 16 times as long.
    assert seconds(codec, frame, in_pieces(large, size)) < 4 * seconds(codec, frame, in_pieces(small * 16, size)) + 0.1


@pytest.mark.measures
def test_time_is_linear_in_the_number_of_messages(codec: Codec) -> None:
    for frame, data in ((evio.Lines(), b"x\r\n" * 1000), (evio.Prefixed(2), b"\0\1x" * 1000)):
        assert seconds(codec, frame, [data * 64]) < 4 * seconds(codec, frame, [data] * 64) + 0.1


def nbytes(name: str) -> int:
    """Return what Linux says of this process' memory: VmSize, VmPeak, VmRSS or VmHWM, in bytes."""
    status = Path("/proc/self/status").read_text("ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:")) * 1024


on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what memory a process has")

PROMISES: dict[str, tuple[Framing[Any], bytes]] = {
    "count": (resp.Commands(), b"*2147483647\r\n"),
    "count, begun": (resp.Commands(), b"*2147483647\r\n$4\r\nMSET\r\n"),
    "size": (resp.Commands(), b"*1\r\n$536870912\r\n"),
    "size, begun": (resp.Commands(), b"*1\r\n$536870912\r\nv"),
    "runs, count": (resp.Runs([b"MSET"]), b"*2147483647\r\n$4\r\nMSET\r\n"),
    "runs, size": (resp.Runs(), b"*1\r\n$536870912\r\nv"),
    "message": (evio.Prefixed(8, max_size=sys.maxsize), sys.maxsize.to_bytes(8, "big")),
    "message, begun": (evio.Prefixed(4, max_size=2**31), b"\x80\0\0\0m"),
    "line": (evio.Lines(max_size=2**40), b"x"),
}


@pytest.mark.measures
@on_linux
@for_cpython
def test_a_promise_costs_nothing(codec: Codec) -> None:
    _check_promises(name=codec.name)


@own_process
def _check_promises(name: str) -> None:
    codec = Codec(name)
    kept = []
    for promise, (frame, data) in PROMISES.items():
        before = nbytes("VmSize")  # not only what is touched
        decoders = [codec.decoder(frame) for _ in range(1000)]
        for decoder in decoders:
            assert decoder.feed(data) == []
        assert nbytes("VmSize") - before < 1000 * 4096, promise
        kept.append(decoders)


LARGE: dict[str, tuple[Framing[Any], bytes, bytes]] = {
    "line": (LONG_LINES, b"", b"\r\n"),
    "long end": (LONG_ENDS, b"", b"<end>"),
    "message": (LONG_MESSAGES, b"\4\0\0\1", b"v"),
    "argument": (resp.Commands(), b"*2\r\n$4\r\nECHO\r\n$67108864\r\n", b"\r\n"),
    "argument of a run": (resp.Runs([b"ECHO"]), b"*2\r\n$4\r\nECHO\r\n$67108864\r\n", b"\r\n"),
}


@pytest.mark.measures
@on_linux
@for_cpython
@pytest.mark.parametrize("large", LARGE)
def test_memory_follows_the_bytes_received(codec: Codec, large: str) -> None:
    _check_large(name=codec.name, large=large)


@own_process
def _check_large(name: str, large: str) -> None:
    frame, header, end = LARGE[large]
    decoder = Codec(name).decoder(frame)
    piece = b"v" * 1024
    spare = 2 * MIB  # what the allocators keep
    size, peak = nbytes("VmSize"), nbytes("VmPeak")
    decoder.feed(header)
    for received in range(0, 64 * MIB, 1024):
        if received in (0, MIB, 16 * MIB):
            assert nbytes("VmSize") - size < 1.6 * received + spare
            assert nbytes("VmPeak") - peak < 3.5 * received + spare
        assert decoder.feed(piece) == []
    found = decoder.feed(end)
    assert len(found) == 1
    assert nbytes("VmPeak") - peak < 3.5 * 64 * MIB
    # What has been delivered is no longer the decoder's.
    del found
    gc.collect()
    assert nbytes("VmSize") - size < spare


# Whatever happens meanwhile


class Meddler:
    """Garbage that feeds a decoder when it is collected, and leaves more of its kind behind."""

    def __init__(self, feed: Callable[[bytes], Any], data: bytes, left: list[int]) -> None:
        self.cycle = self
        self.arguments = feed, data, left

    def __del__(self) -> None:
        feed, data, left = self.arguments
        if left[0]:
            left[0] -= 1
            Meddler(*self.arguments)
            try:
                feed(data)
            except evio.FrameError:
                pass
            except RuntimeError as error:
                if str(error) != "feed() was called inside feed()":
                    raise


@for_cpython
def test_feed_inside_feed(codec: Codec) -> None:
    _check_feed_inside_feed(name=codec.name)


@own_process
def _check_feed_inside_feed(name: str) -> None:
    thresholds = gc.get_threshold()
    for frame, data, _, bad in FRAMES:
        for meddling in (data, data[:-1], data[-1:], bad, data * 100):
            for stream in ([data * 100], [data * 10 + data[:-1], data[-1:] + data * 10], [data * 10 + bad]):
                left = [50]
                decoder = Codec(name).decoder(frame)
                Meddler(decoder.feed, meddling, left)
                gc.set_threshold(1)
                # What a meddled stream becomes is nobody's business, but it must not crash.
                with contextlib.suppress(AssertionError, RuntimeError):
                    decode(decoder, stream)
                gc.set_threshold(*thresholds)
                left[0] = 0
                gc.collect()


@pytest.mark.measures
@for_cpython
def test_feeding_leaves_nothing_behind(codec: Codec) -> None:
    _check_leaks(name=codec.name)


@own_process
def _check_leaks(name: str) -> None:
    codec = Codec(name)
    wrong: Any = "wrong"

    def feed(times: int) -> tuple[int, int]:
        for frame, data, _, bad in FRAMES:
            for _ in range(times // 5 // len(FRAMES)):
                decoder = codec.decoder(frame)
                assert decoder.feed(data * 3 + data[:-1]) != []
                assert len(decoder.feed(data[-1:])) == 1
                with contextlib.suppress(TypeError):
                    decoder.feed(wrong)
                with contextlib.suppress(evio.FrameError):
                    decoder.feed(data + bad)
                assert decoder.feed(data) == []
                codec.decoder(frame).feed(data + data[:-1])  # gone with a part of a message in it
        gc.collect()
        return sys.getallocatedblocks(), nbytes("VmRSS") if Path("/proc/self/status").exists() else 0

    for _ in range(2):
        feed(1_000)  # warms up
    blocks, size = feed(100_000)
    blocks_after, size_after = feed(100_000)  # 20,000 decoders
    more, larger = (10_000, 4 * MIB) if WITHOUT_GIL else (100, MIB / 4)  # without a GIL some is freed later
    assert blocks_after - blocks < more
    assert size_after - size < larger


# Runs


def runs(requests: list[list[bytes]], names: list[bytes] | None = None) -> list[resp.Run]:
    """Return the runs in the requests of one read, found step by step."""
    found: list[tuple[bytes, int, list[list[bytes]]]] = []
    for name, *args in requests:
        shown = name.upper() if names is None or name.upper() in names else name
        if found and found[-1][0] == shown and len(found[-1][2]) == len(args):
            _, count, columns = found.pop()
        else:
            count, columns = 0, [[] for _ in args]
        for column, arg in zip(columns, args, strict=True):
            column.append(arg)
        found.append((shown, count + 1, columns))
    return [(name, count, tuple(columns)) for name, count, columns in found]


def encoded(*requests: list[bytes]) -> bytes:
    return b"".join(resp.array([resp.bulk(arg) for arg in request]) for request in requests)


def test_a_pipeline_is_one_run(codec: Codec) -> None:
    keys, values = [b"key:%d" % n for n in range(128)], [b"value:%d" % n for n in range(128)]
    data = encoded(*[[b"SET", key, value] for key, value in zip(keys, values, strict=True)])
    ((name, count, columns),) = codec.decoder(resp.Runs()).feed(data)
    assert (name, count, columns) == (b"SET", 128, (keys, values))
    assert (type(name), type(count), type(columns)) == (bytes, int, tuple)
    assert [type(column) for column in columns] == [list, list]


def test_a_run_of_requests_without_arguments(codec: Codec) -> None:
    assert codec.decoder(resp.Runs()).feed(b"PING\r\n" * 5) == [(b"PING", 5, ())]


def test_another_name_or_number_of_arguments_begins_a_run(codec: Codec) -> None:
    data = b"GET a\r\nGET b\r\nSET a 1\r\nGET a\r\nGET\r\nGET a b\r\nGET c d\r\n"
    assert codec.decoder(resp.Runs()).feed(data) == [
        (b"GET", 2, ([b"a", b"b"],)),
        (b"SET", 1, ([b"a"], [b"1"])),
        (b"GET", 1, ([b"a"],)),
        (b"GET", 1, ()),
        (b"GET", 2, ([b"a", b"c"], [b"b", b"d"])),
    ]


def test_a_run_does_not_go_across_reads(codec: Codec) -> None:
    decoder = codec.decoder(resp.Runs())
    assert decoder.feed(b"GET a\r\nGET b\r\nGE") == [(b"GET", 2, ([b"a", b"b"],))]
    assert decoder.feed(b"T c\r\nGET d\r\n") == [(b"GET", 2, ([b"c", b"d"],))]
    assert decoder.feed(b"GET e\r\n") == [(b"GET", 1, ([b"e"],))]


def test_names_come_in_upper_case(codec: Codec) -> None:
    decoder = codec.decoder(resp.Runs())
    assert decoder.feed(b"get a\r\nGet b\r\nGET c\r\n") == [(b"GET", 3, ([b"a", b"b", b"c"],))]
    # Letters of ASCII only, and nothing but letters: "{" is 32 behind "[" as "a" is behind "A".
    every = bytes(range(256))
    assert decoder.feed(encoded([every])) == [(every.upper(), 1, ())]
    assert decoder.feed(encoded([b""], [b""])) == [(b"", 2, ())]
    long = b"long-name" * 1000
    assert decoder.feed(encoded([long], [long.upper()])) == [(long.upper(), 2, ())]


def test_unknown_names_come_as_they_were_spelt(codec: Codec) -> None:
    decoder = codec.decoder(resp.Runs([b"GET", b"set"]))
    data = b"get a\r\nGeT b\r\nSet a 1\r\nfoo\r\nFoo\r\nFoo\r\nfOO\r\nGETS\r\nGE\r\n"
    assert decoder.feed(data) == [
        (b"GET", 2, ([b"a", b"b"],)),
        (b"SET", 1, ([b"a"], [b"1"])),
        (b"foo", 1, ()),
        (b"Foo", 2, ()),
        (b"fOO", 1, ()),
        (b"GETS", 1, ()),
        (b"GE", 1, ()),
    ]


@pytest.mark.parametrize("names", [[b"GET"], (b"GET",), {b"GET"}, {b"GET": 1}], ids=repr)
def test_names_are_any_iterable(codec: Codec, names: Any) -> None:
    assert codec.decoder(resp.Runs(iter(names))).feed(b"get a\r\nget b\r\n") == [(b"GET", 2, ([b"a", b"b"],))]
    frame = resp.Runs(names)
    for _ in range(2):
        assert codec.decoder(frame).feed(b"get a\r\nset\r\n") == [(b"GET", 1, ([b"a"],)), (b"set", 1, ())]


@pytest.mark.parametrize(
    ("names", "kind"), [("GET", "str"), ([b"GET", None], "NoneType"), ([MyBytes(b"GET")], "MyBytes"), (b"GET", "int")]
)
def test_names_of_a_wrong_type(names: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"^names must be bytes, not {kind}$"):
        resp.Runs(names)


def test_names_that_are_no_iterable() -> None:
    names: Any = 5
    with pytest.raises(TypeError):
        resp.Runs(names)
    with pytest.raises(TypeError):
        resp.Runs(None, 5)  # type: ignore[call-arg]


def test_runs_before_an_error(codec: Codec) -> None:
    decoder = codec.decoder(resp.Runs())
    with pytest.raises(evio.FrameError, match="invalid multibulk length") as caught:
        decoder.feed(b"GET a\r\nGET b\r\nPING\r\n*x\r\nPING\r\n")
    assert caught.value.messages == [(b"GET", 2, ([b"a", b"b"],)), (b"PING", 1, ())]
    assert caught.value.reply == b"-ERR Protocol error: invalid multibulk length\r\n"


requests = st.lists(
    st.one_of(
        st.lists(st.sampled_from([b"GET", b"get", b"SET", b"Foo", b"FOO", b"", b"a", b"\xe4"]), min_size=1, max_size=4),
        st.lists(st.binary(max_size=20), min_size=1, max_size=4),
    ),
    max_size=30,
)


@given(requests, st.sampled_from([None, [], [b"GET"], [b"GET", b"FOO", b""]]), st.integers(0, 2000), st.data())
def test_runs_are_those_of_each_read(
    codec: Codec, requests: list[list[bytes]], names: list[bytes] | None, place: int, draw: st.DataObject
) -> None:
    if requests:  # so that there are runs
        requests = [each for each in requests for _ in range(draw.draw(st.integers(1, 3)))]
    data = encoded(*requests)
    decoder, commands = codec.decoder(resp.Runs(names)), codec.decoder(resp.Commands())
    for piece in cut_anywhere(data, [place]):
        found = decoder.feed(piece)
        assert found == runs(commands.feed(piece), names)
    if names == []:
        assert flat(codec.decoder(resp.Runs(names)).feed(data)) == requests
