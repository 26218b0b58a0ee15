"""The Redis codec, in C and in Python. What redis-server itself says to the same requests is in test_resp_redis.py."""

from __future__ import annotations

import enum
import inspect
import math
import textwrap
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.twins import ENCODERS, MIB, Codec, cut, every_cut, in_pieces, shown
from unit.verdicts import COMMANDS, RUNS, Requests, decode

import evio
from evio import _resp, resp
from evio._extension import native
from evio._frames import Framing

MAX_LINE = 65536
PING = b"*1\r\n$4\r\nPING\r\n"
EVAL = b"EVAL 'return ARGV' 0 "


def returned(*args: bytes) -> list[bytes]:
    """Return the request that redis-server answers with its own arguments."""
    return [b"EVAL", b"return ARGV", b"0", *args]


def refused(why: bytes) -> bytes:
    return b"-ERR Protocol error: " + why + b"\r\n"


COUNT = refused(b"invalid multibulk length")
SIZE = refused(b"invalid bulk length")
QUOTES = refused(b"unbalanced quotes in request")

#: What is sent, the requests in it, and what a bad one is answered.
CASES: list[tuple[bytes, Requests, bytes | None]] = [
    (b"", [], None),
    (PING, [[b"PING"]], None),
    (PING * 3, [[b"PING"]] * 3, None),
    (b"*2\r\n$4\r\nECHO\r\n$5\r\nhello\r\n", [[b"ECHO", b"hello"]], None),
    (b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n", [[b"ECHO", b""]], None),
    (b"*1\r\n$0\r\n\r\n" + PING, [[b""], [b"PING"]], None),
    (b"*2\r\n$4\r\nECHO\r\n$12\r\n\r\n$3\r\n*1\0\r\n\xff\r\n", [[b"ECHO", b"\r\n$3\r\n*1\0\r\n\xff"]], None),
    (b"*2\r\n$4\r\nECHO\r\n$1024\r\n" + b"v" * 1024 + b"\r\n" + PING, [[b"ECHO", b"v" * 1024], [b"PING"]], None),
    (b"*300\r\n" + b"$1\r\nf\r\n" * 300 + PING, [[b"f"] * 300, [b"PING"]], None),
    (PING + b"PING\r\n" + PING + b"ECHO a\n", [[b"PING"]] * 3 + [[b"ECHO", b"a"]], None),
    # unfinished
    (PING + b"*", [[b"PING"]], None),
    (PING + b"*2\r\n$4\r\nECHO\r\n$5\r\nhel", [[b"PING"]], None),
    (b"*2\r\n$4\r\nECHO\r\n$5\r\nhello\r", [], None),
    (b"*x\r", [], None),
    (b"*1\r\n$-1\r", [], None),
    (b"*1\r\nf", [], None),
    (b"PING\r", [], None),
    (b"*2147483647\r\n$4\r\nPING\r\n", [], None),
    # counts
    (b"*0\r\n" + PING, [[b"PING"]], None),
    (b"*-1\r\n" + PING, [[b"PING"]], None),
    (b"*-10\r\n*0\r\n*-2147483649\r\n" + PING, [[b"PING"]], None),
    (b"*-9223372036854775808\r\n" + PING, [[b"PING"]], None),
    (b"*-9223372036854775809\r\n" + PING, [], COUNT),
    (b"*9223372036854775808\r\n", [], COUNT),
    (b"*2147483648\r\n", [], COUNT),
    (b"*" + b"9" * 5000 + b"\r\n", [], COUNT),
    (b"*\r\n", [], COUNT),
    (b"*+1\r\n$4\r\nPING\r\n", [], COUNT),
    (b"*01\r\n$4\r\nPING\r\n", [], COUNT),
    (b"* 1\r\n$4\r\nPING\r\n", [], COUNT),
    (b"*1 \r\n$4\r\nPING\r\n", [], COUNT),
    (b"*-0\r\n", [], COUNT),
    (b"*-01\r\n", [], COUNT),
    (b"*-\r\n", [], COUNT),
    (b"*00\r\n", [], COUNT),
    (b"*1_0\r\n", [], COUNT),
    (b"*\xd9\xa1\r\n", [], COUNT),
    (b"*one\r\n", [], COUNT),
    (b"**1\r\n", [], COUNT),
    (b"*1\n$4\nPING\n\r\n", [], COUNT),
    (PING * 2 + b"*x\r\n" + PING, [[b"PING"]] * 2, COUNT),
    # sizes
    (b"*1\r\n$536870912\r\nPING\r\n", [], None),
    (b"*1\r\n$536870913\r\n", [], SIZE),
    (b"*1\r\n$9223372036854775808\r\n", [], SIZE),
    (b"*1\r\n$" + b"9" * 5000 + b"\r\n", [], SIZE),
    (b"*1\r\n$-1\r\n", [], SIZE),
    (b"*1\r\n$04\r\nPING\r\n", [], SIZE),
    (b"*1\r\n$+4\r\nPING\r\n", [], SIZE),
    (b"*1\r\n$ 4\r\nPING\r\n", [], SIZE),
    (b"*1\r\n$4 \r\nPING\r\n", [], SIZE),
    (b"*1\r\n$-0\r\n\r\n", [], SIZE),
    (b"*1\r\n$\r\nPING\r\n", [], SIZE),
    (b"*1\r\n$abc\r\n", [], SIZE),
    (b"*1\r\n$4\nPING\n\r\n", [], SIZE),
    (PING + b"*2\r\n$4\r\nECHO\r\n$x\r\n" + PING, [[b"PING"]], SIZE),
    # no size at all
    (b"*1\r\nfoo\r\n", [], refused(b"expected '$', got 'f'")),
    (b"*1\r\n\r\n", [], refused(b"expected '$', got ' '")),
    (b"*1\r\n\n\r\n", [], refused(b"expected '$', got ' '")),
    (b"*1\r\n\xffx\r\n", [], refused(b"expected '$', got '\xff'")),
    (b"*1\r\n'\r\n", [], refused(b"expected '$', got '''")),
    (b"*2\r\n$4\r\nECHO\r\n*1\r\n", [], refused(b"expected '$', got '*'")),
    # a \r and any other byte end a header, any two bytes a bulk
    (b"*1\rX$4\rYPINGZZ" + PING, [[b"PING"]] * 2, None),
    (b"*1\r\r$4\r\rPING\r\r" + PING, [[b"PING"]] * 2, None),
    (b"*1\r\0$4\r\0PING\0\0" + PING, [[b"PING"]] * 2, None),
    (b"*2\r\n$4\r\nECHO\r\n$2\r\na\r\n\n" + PING, [[b"ECHO", b"a\r"], [b"PING"]], None),
    # a NUL hides the end of the line that it is in
    (PING + b"*1\0\r\n$4\r\nPING\r\n", [[b"PING"]], None),
    (PING + b"*1\r\n\0\r\n$4\r\nPING\r\n", [[b"PING"]], None),
    (b"*1\r\n$4\0\r\nPING\r\n", [], None),
    (b"PI\0NG\r\nPING\r\n", [], None),
    # inline
    (b"PING\r\n", [[b"PING"]], None),
    (b"PING\n", [[b"PING"]], None),
    (b"\r\n\n  \r\n\t\n\rPING\r\r\n", [[b"PING"]], None),
    (b" \t PING \t \r\n", [[b"PING"]], None),
    (b"$4\r\nPING\r\n", [[b"$4"], [b"PING"]], None),
    (b" *1\r\n", [[b"*1"]], None),
    (EVAL + b"a  b\tc\rd\x0be \x0bf \x0cg\n", [returned(b"a", b"b", b"c", b"d\x0be", b"f", b"g")], None),
    (EVAL + b"\x0b a\x0b\r\n", [returned(b"a\x0b")], None),
    (EVAL + b"\x80\xff \xc3\xa4\xa0\x85\n", [returned(b"\x80\xff", b"\xc3\xa4\xa0\x85")], None),
    (EVAL + b"\"\" '' \"a b\" 'c  d'\r\n", [returned(b"", b"", b"a b", b"c  d")], None),
    (EVAL + rb'"\n\r\t\b\a\q\"\\\x41\xfF\x00"' + b"\n", [returned(b'\n\r\t\b\aq"\\A\xff\0')], None),
    (EVAL + rb'"\x4g\x\X41"' + b"\n", [returned(b"x4gxX41")], None),
    (EVAL + rb"'\'\n\\' '\\''" + b"\n", [], QUOTES),
    (EVAL + rb"'\'\n\\ \' ' '" + b'"' + rb"'" + b"\n", [returned(rb"'\n\\ ' ", b'"')], None),
    (EVAL + b"a\"b c\" d'e f' \\x41\n", [returned(b"ab c", b"de f", b"\\x41")], None),
    (EVAL + b'"a"\x0b"b"\x0c\'c\'\x0b\n', [returned(b"a", b"b", b"c")], None),
    (EVAL + b'"a\rb"\r\n', [returned(b"a\rb")], None),
    (PING + b'ECHO "foo\r\n' + PING, [[b"PING"]], QUOTES),
    (b"ECHO 'foo\n", [], QUOTES),
    (b"ECHO 'foo\\'\n", [], QUOTES),
    (b'ECHO "foo\\"\n', [], QUOTES),
    (b'ECHO "foo\\\n', [], QUOTES),
    (b'ECHO "foo"bar\n', [], QUOTES),
    (b"ECHO 'foo''bar'\n", [], QUOTES),
    (b'ECHO foo"\n', [], QUOTES),
]
SHORT = [case for case in CASES if len(case[0]) <= 200]

#: For each kind of line: what comes before it, how it begins, its end, what is in it, what a long one is answered.
LINES = [
    pytest.param(b"", b"", b"\n", None, b"too big inline request", id="inline"),
    pytest.param(b"", b"*", b"\r\n", COUNT, b"too big mbulk count string", id="count"),
    pytest.param(b"*2\r\n$4\r\nECHO\r\n", b"$", b"\r\n", SIZE, b"too big bulk count string", id="size"),
]


def request(*args: bytes) -> bytes:
    return resp.array([resp.bulk(arg) for arg in args])


each_frame = pytest.mark.parametrize("frame", [COMMANDS, RUNS], ids=["Commands", "Runs"])


# Verdicts


@each_frame
@pytest.mark.parametrize(("data", "requests", "reply"), CASES, ids=shown)
def test_verdict(codec: Codec, frame: Framing[Any], data: bytes, requests: Requests, reply: bytes | None) -> None:
    assert decode(codec, [data], frame) == (requests, reply)
    assert decode(codec, in_pieces(data, 1), frame) == (requests, reply)


@each_frame
@pytest.mark.parametrize(("data", "requests", "reply"), SHORT, ids=shown)
def test_verdict_is_the_same_however_the_stream_is_cut(
    codec: Codec, frame: Framing[Any], data: bytes, requests: Requests, reply: bytes | None
) -> None:
    for pieces in every_cut(data):
        assert decode(codec, pieces, frame) == (requests, reply), pieces


@each_frame
def test_every_pair_of_cuts_of_a_long_stream(codec: Codec, frame: Framing[Any]) -> None:
    data = PING + b"*0\r\n" + EVAL + b"'a' \"\\x41\"\r\n" + request(b"ECHO", b"*1\r\n$") + b"\n*1\rX$0\rYZZ"
    data += request(*b"MSET a 1 bb 22 ccc 333 dddd 4444".split(), b"") + b"*2\r\n$4\r\nECHO\r\n$-2\r\n"
    assert 190 <= len(data) <= 200
    verdict = decode(codec, [data], frame)
    assert len(verdict[0]) == 5
    assert verdict[1] == SIZE
    for pieces in every_cut(data):
        assert decode(codec, pieces, frame) == verdict, pieces


@each_frame
def test_an_error_names_itself(codec: Codec, frame: Framing[Any]) -> None:
    decoder = codec.decoder(frame)
    with pytest.raises(evio.FrameError, match=r"^Protocol error: expected '\$', got '\\xff'$") as caught:
        decoder.feed(PING + b"*1\r\n\xff\r\n" + PING)
    assert caught.value.reply == b"-ERR Protocol error: expected '$', got '\xff'\r\n"
    assert len(caught.value.messages) == 1


def test_arguments_are_bytes_and_requests_the_callers_own(codec: Codec) -> None:
    decoder = codec.decoder(COMMANDS)
    found = decoder.feed(PING) + decoder.feed(PING[:7]) + decoder.feed(PING[7:] + b"PING\n")
    assert [type(arg) for args in found for arg in args] == [bytes] * 3
    found[0].append(b"changed")
    assert decoder.feed(PING) == [[b"PING"]]


@given(
    st.lists(st.lists(st.binary(max_size=2000), min_size=1, max_size=20), max_size=10),
    st.lists(st.integers(0, 20000), max_size=10),
)
def test_what_was_encoded_is_decoded(codec: Codec, requests: Requests, places: list[int]) -> None:
    data = b"".join(request(*args) for args in requests)
    pieces = cut(data, *(min(place, len(data)) for place in places))
    assert decode(codec, pieces) == decode(codec, pieces, RUNS) == (requests, None)


@given(st.lists(st.sampled_from([*b"*$-0123\r\n \t\0\"'\\xaf", b"\r\n", b"*1\r\n", b"$1\r\n"]), max_size=40), st.data())
def test_noise_is_the_same_however_it_is_cut(codec: Codec, tokens: list[int | bytes], draw: st.DataObject) -> None:
    data = b"".join(bytes([token]) if isinstance(token, int) else token for token in tokens)
    places = draw.draw(st.lists(st.integers(0, len(data)), max_size=5))
    verdict = decode(Codec("Python"), [data])
    for pieces in ([data], cut(data, *places), in_pieces(data, 1)):
        assert decode(codec, pieces) == decode(codec, pieces, RUNS) == verdict


@given(st.lists(st.binary(), min_size=1))
def test_quoted_arguments_are_decoded(codec: Codec, args: list[bytes]) -> None:
    line = b" ".join(b'"%b"' % b"".join(b"\\x%02x" % byte for byte in arg) for arg in args)
    assert decode(codec, [line + b"\r\n"]) == ([args], None)


# Limits


@pytest.mark.parametrize("size", [MAX_LINE * 2, 1000, 1])
@pytest.mark.parametrize(("before", "begin", "end", "verdict", "too_big"), LINES)
def test_a_line_is_too_big_after_65536_bytes_without_its_end(
    codec: Codec, before: bytes, begin: bytes, end: bytes, verdict: bytes | None, too_big: bytes, size: int
) -> None:
    longest = begin + b"x" * (MAX_LINE - len(begin))
    requests = [[longest]] if verdict is None else []
    assert decode(codec, in_pieces(before + longest, size)) == ([], None)
    assert decode(codec, in_pieces(before + longest + end, size)) == (requests, verdict)
    assert decode(codec, in_pieces(before + longest + b"x", size)) == ([], refused(too_big))
    assert decode(codec, in_pieces(before + longest + b"x" + end, size)) == ([], refused(too_big))


@pytest.mark.parametrize("size", [MAX_LINE * 2, 1000, 1])
@pytest.mark.parametrize(("before", "begin", "end", "verdict", "too_big"), LINES)
def test_a_line_with_a_nul_only_gets_too_big(
    codec: Codec, before: bytes, begin: bytes, end: bytes, verdict: bytes | None, too_big: bytes, size: int
) -> None:
    line = begin + b"\0" + end
    longest = line + end * ((MAX_LINE - len(line)) // len(end)) + b"x" * ((MAX_LINE - len(line)) % len(end))
    assert decode(codec, in_pieces(before + longest, size)) == ([], None)
    assert decode(codec, in_pieces(before + longest + end, size)) == ([], refused(too_big))


each_kind = pytest.mark.parametrize("kind", [resp.Commands, resp.Runs])


@pytest.mark.parametrize("max_size", [1, 10, 5000])
@each_kind
def test_max_size(codec: Codec, kind: Any, max_size: int) -> None:
    frame = kind(max_size=max_size)
    assert decode(codec, [request(b"1" * max_size)], frame) == ([[b"1" * max_size]], None)
    assert decode(codec, [request(b"1" * (max_size + 1))], frame) == ([], SIZE)


@pytest.mark.parametrize("max_size", ["1", 1.0, None, True])
@each_kind
def test_max_size_of_a_wrong_type(kind: Any, max_size: Any) -> None:
    with pytest.raises(TypeError, match=f"max_size must be an int, not {type(max_size).__name__}"):
        kind(max_size=max_size)


@pytest.mark.parametrize("max_size", [0, -1, 2**63])
@each_kind
def test_max_size_out_of_range(kind: Any, max_size: int) -> None:
    with pytest.raises(ValueError, match=f"max_size must be from 1 to .*, not {max_size}"):
        kind(max_size=max_size)


# Time; memory is in test_frames.py


def seconds(codec: Codec, pieces: list[bytes], frame: Framing[Any]) -> float:
    """Return the processor time that decoding takes, the best of three."""
    times = []
    for _ in range(3):
        decoder = codec.decoder(frame)
        before = time.process_time()
        for piece in pieces:
            decoder.feed(piece)
        times.append(time.process_time() - before)
    return min(times)


@pytest.mark.measures
@pytest.mark.parametrize(
    ("large", "small", "times", "size"),
    [
        pytest.param(request(b"v" * (16 * MIB)), request(b"v" * MIB), 16, 1024, id="value"),
        pytest.param(request(b"\r\n" * (8 * MIB)), request(b"\r\n" * (MIB // 2)), 16, 1024, id="value of line breaks"),
        pytest.param(request(*[b"v"] * 200_000), request(*[b"v"] * 10_000), 20, 1024, id="arguments"),
        pytest.param(b"x" * 65530 + b"\n", b"x" * 1023 + b"\n", 64, 1, id="inline"),
        pytest.param(b"\0" + b"\n" * 65535, b"\0" + b"x" * 65535, 1, 1, id="line feeds behind a NUL"),
        pytest.param(b"*16384\r\n" + b"$1\rXvv\r" * 16384, b"*1\r\n$1\rXvv\r", 16384, MIB, id="no line feeds"),
        pytest.param(b'"' + b"\\'" * 32000 + b'"\n', b'"' + b"\\'" * 500 + b'"\n', 64, 70000, id="quotes"),
        pytest.param(b"a'' " * 16000 + b"\n", b"a'' " * 250 + b"\n", 64, 70000, id="inline arguments"),
    ],
)
@each_frame
def test_time_is_linear(codec: Codec, frame: Framing[Any], large: bytes, small: bytes, times: int, size: int) -> None:
    # As many bytes in as many pieces: in quadratic time the large one takes at least 16 times as long.
    expected = seconds(codec, in_pieces(small * times, size), frame)
    assert seconds(codec, in_pieces(large, size), frame) < 4 * expected + 0.1


# Replies


@pytest.mark.parametrize(
    ("encode", "encoded"),
    [
        (lambda codec: codec.simple("OK"), b"+OK\r\n"),
        (lambda codec: codec.simple(b"OK"), b"+OK\r\n"),
        (lambda codec: codec.simple("ä"), b"+\xc3\xa4\r\n"),
        (lambda codec: codec.simple(""), b"+\r\n"),
        (lambda codec: codec.error("ERR no such key"), b"-ERR no such key\r\n"),
        (lambda codec: codec.error(b"ERR \xff"), b"-ERR \xff\r\n"),
        (lambda codec: codec.error("ERR 'a\r\nb\nc'\r\n"), b"-ERR 'a  b c'\r\n"),
        (lambda codec: codec.error("ERR ä \ud800"), b"-ERR \xc3\xa4 \\ud800\r\n"),
        (lambda codec: codec.integer(0), b":0\r\n"),
        (lambda codec: codec.integer(-7), b":-7\r\n"),
        (lambda codec: codec.integer(True), b":1\r\n"),
        (lambda codec: codec.integer(2**63 - 1), b":9223372036854775807\r\n"),
        (lambda codec: codec.integer(-(2**63)), b":-9223372036854775808\r\n"),
        (lambda codec: codec.bulk(b""), b"$0\r\n\r\n"),
        (lambda codec: codec.bulk(b"a\r\n\0"), b"$4\r\na\r\n\0\r\n"),
        (lambda codec: codec.bulk("ä"), b"$2\r\n\xc3\xa4\r\n"),
        (lambda codec: codec.bulk(bytearray(b"ab")), b"$2\r\nab\r\n"),
        (lambda codec: codec.bulk(memoryview(b"abcd")[::2]), b"$2\r\nac\r\n"),
        (lambda codec: codec.bulk(memoryview(b"abcd").cast("H")), b"$4\r\nabcd\r\n"),
        (lambda codec: codec.bulk(None), b"$-1\r\n"),
        (lambda codec: codec.bulk(None, 2), b"$-1\r\n"),
        (lambda codec: codec.bulk(None, protocol=3), b"_\r\n"),
        (lambda codec: codec.null(), b"$-1\r\n"),
        (lambda codec: codec.null(2), b"$-1\r\n"),
        (lambda codec: codec.null(protocol=3), b"_\r\n"),
        (lambda codec: codec.array([]), b"*0\r\n"),
        (lambda codec: codec.array([codec.integer(1), codec.bulk(b"a")]), b"*2\r\n:1\r\n$1\r\na\r\n"),
        (lambda codec: codec.array(codec.integer(n) for n in (1, 2)), b"*2\r\n:1\r\n:2\r\n"),
        (lambda codec: codec.bulks([]), b""),
        (
            lambda codec: codec.bulks([b"a", "ä", None, bytearray(b"b")]),
            b"$1\r\na\r\n$2\r\n\xc3\xa4\r\n$-1\r\n$1\r\nb\r\n",
        ),
        (lambda codec: codec.bulks((b"a", None), 3), b"$1\r\na\r\n_\r\n"),
        (lambda codec: codec.bulks(values=iter([None]), protocol=3), b"_\r\n"),
        (lambda codec: codec.bulks({b"a": 1}), b"$1\r\na\r\n"),
        (lambda codec: codec.bulks([b"v" * 100_000] * 3), (b"$100000\r\n" + b"v" * 100_000 + b"\r\n") * 3),
        (lambda codec: codec.integers([]), b""),
        (lambda codec: codec.integers([0, -1, True, 2**63 - 1]), b":0\r\n:-1\r\n:1\r\n:9223372036854775807\r\n"),
        (lambda codec: codec.integers(range(3)), b":0\r\n:1\r\n:2\r\n"),
        (lambda codec: codec.integers(values=iter((1, -(2**63)))), b":1\r\n:-9223372036854775808\r\n"),
        (lambda codec: codec.map([]), b"*0\r\n"),
        (lambda codec: codec.map([], protocol=3), b"%0\r\n"),
        (lambda codec: codec.map([(codec.simple("a"), codec.integer(1))]), b"*2\r\n+a\r\n:1\r\n"),
        (lambda codec: codec.map({codec.simple("a"): codec.integer(1)}.items(), 3), b"%1\r\n+a\r\n:1\r\n"),
    ],
)
def test_reply(codec: Codec, encode: Callable[[Codec], bytes], encoded: bytes) -> None:
    reply = encode(codec)
    assert reply == encoded
    assert type(reply) is bytes


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "resp2", "resp3"),
    [
        (None, b"$-1\r\n", b"_\r\n"),
        (True, b":1\r\n", b"#t\r\n"),
        (False, b":0\r\n", b"#f\r\n"),
        (-3, b":-3\r\n", b":-3\r\n"),
        (Colour.RED, b":1\r\n", b":1\r\n"),
        (2**63 - 1, b":9223372036854775807\r\n", b":9223372036854775807\r\n"),
        (2**63, b"$19\r\n9223372036854775808\r\n", b"(9223372036854775808\r\n"),
        (-(2**63) - 1, b"$20\r\n-9223372036854775809\r\n", b"(-9223372036854775809\r\n"),
        (1.5, b"$3\r\n1.5\r\n", b",1.5\r\n"),
        (3.0, b"$1\r\n3\r\n", b",3\r\n"),
        (-0.1, b"$4\r\n-0.1\r\n", b",-0.1\r\n"),
        (1e300, b"$6\r\n1e+300\r\n", b",1e+300\r\n"),
        (math.inf, b"$3\r\ninf\r\n", b",inf\r\n"),
        (-math.inf, b"$4\r\n-inf\r\n", b",-inf\r\n"),
        (math.nan, b"$3\r\nnan\r\n", b",nan\r\n"),
        (b"a\r\n", b"$3\r\na\r\n\r\n", b"$3\r\na\r\n\r\n"),
        ("ä", b"$2\r\n\xc3\xa4\r\n", b"$2\r\n\xc3\xa4\r\n"),
        (bytearray(b"a"), b"$1\r\na\r\n", b"$1\r\na\r\n"),
        (memoryview(b"a"), b"$1\r\na\r\n", b"$1\r\na\r\n"),
        ([], b"*0\r\n", b"*0\r\n"),
        ([1, [None, "a"]], b"*2\r\n:1\r\n*2\r\n$-1\r\n$1\r\na\r\n", b"*2\r\n:1\r\n*2\r\n_\r\n$1\r\na\r\n"),
        ((1, True), b"*2\r\n:1\r\n:1\r\n", b"*2\r\n:1\r\n#t\r\n"),
        ({"a": None, 2: {}}, b"*4\r\n$1\r\na\r\n$-1\r\n:2\r\n*0\r\n", b"%2\r\n$1\r\na\r\n_\r\n:2\r\n%0\r\n"),
        ({1.5}, b"*1\r\n$3\r\n1.5\r\n", b"~1\r\n,1.5\r\n"),
        (frozenset([None]), b"*1\r\n$-1\r\n", b"~1\r\n_\r\n"),
        (ValueError("WRONGTYPE of value"), b"-WRONGTYPE of value\r\n", b"-WRONGTYPE of value\r\n"),
        (ValueError("no\r\nsuch key"), b"-ERR no  such key\r\n", b"-ERR no  such key\r\n"),
        (ValueError("Expected"), b"-ERR Expected\r\n", b"-ERR Expected\r\n"),
        ([KeyError()], b"*1\r\n-ERR KeyError\r\n", b"*1\r\n-ERR KeyError\r\n"),
    ],
)
def test_encode(codec: Codec, value: object, resp2: bytes, resp3: bytes) -> None:
    assert codec.encode(value) == codec.encode(value, 2) == resp2
    assert codec.encode(value, protocol=3) == resp3


@pytest.mark.parametrize("text", ["a\nb", "\r", b"OK\r\n"])
def test_a_simple_string_is_one_line(codec: Codec, text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"cannot have a line break.*bulk\(\)"):
        codec.simple(text)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, pytest.param(10**5000, id="huge")])
def test_an_integer_has_64_bits(codec: Codec, number: int) -> None:
    with pytest.raises(OverflowError, match=r"from -2\*\*63 to 2\*\*63 - 1"):
        codec.integer(number)
    with pytest.raises(OverflowError, match=r"from -2\*\*63 to 2\*\*63 - 1"):
        codec.integers([1, number, "no"])


@pytest.mark.parametrize(
    ("encoder", "value", "message"),
    [
        ("simple", 1, "simple() takes str or bytes, not int"),
        ("error", None, "error() takes str or bytes, not NoneType"),
        ("integer", "1", "integer() takes an int, not str"),
        ("integer", 1.5, "integer() takes an int, not float"),
        ("bulk", 1, "bulk() takes bytes, bytearray, memoryview, str or None, not int"),
        ("bulks", [b"a", 1, None, 1.5], "bulk() takes bytes, bytearray, memoryview, str or None, not int"),
        ("bulks", b"a", "bulk() takes bytes, bytearray, memoryview, str or None, not int"),
        ("bulks", None, "'NoneType' object is not iterable"),
        ("integers", [1, "1", 2**63], "integer() takes an int, not str"),
        ("integers", 1, "'int' object is not iterable"),
        ("array", None, ""),
        ("array", [b"a", 1], ""),
        ("map", None, ""),
        ("map", [1], ""),
        ("encode", object(), "cannot encode object; allowed: None, bool, int, float, str, bytes, "),
        ("encode", [1, {"a": 1j}], "cannot encode complex; allowed: "),
        ("encode", ValueError, "cannot encode type; allowed: "),
    ],
)
def test_a_wrong_type_is_named(codec: Codec, encoder: str, value: Any, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        getattr(codec, encoder)(value)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("protocol", [0, 1, 4, "3", None])
def test_an_unknown_protocol_is_refused(codec: Codec, protocol: Any) -> None:
    encoders: list[tuple[Any, Any]] = [
        (codec.bulk, None),
        (codec.bulks, [b"a", None]),
        (codec.map, []),
        (codec.encode, b"a"),
    ]
    for encoder, value in encoders:
        with pytest.raises(ValueError, match=f"protocol must be 2 or 3, not {protocol!r}"):
            encoder(value, protocol)
    with pytest.raises(ValueError, match=f"protocol must be 2 or 3, not {protocol!r}"):
        codec.null(protocol)
    # Where there is no null there is no question.
    assert codec.bulk(b"a", protocol) == codec.bulks([b"a"], protocol) == b"$1\r\na\r\n"


# Documentation


def test_the_example_of_the_module_works(monkeypatch: pytest.MonkeyPatch) -> None:
    served: dict[str, Any] = {}
    monkeypatch.setattr(evio, "serve", lambda net, addr, handle, *, frame: served.update(handle=handle, frame=frame))
    assert resp.__doc__ is not None
    example = textwrap.dedent("\n".join(line for line in resp.__doc__.splitlines() if line.startswith("    ")))
    exec(example, {})
    requests = served["frame"].decoder().feed(b"SET a 1\r\nGET a\r\nget b\r\nNO 'a\"' b\n")
    assert served["handle"](1, requests, None) == [
        b"+OK\r\n",
        b"$1\r\n1\r\n",
        b"$-1\r\n",
        b"-ERR cannot NO with 2 arguments\r\n",
    ]
    assert served["handle"](1, [], None) == []


def test_all_is_all() -> None:
    settings = {name for name, value in vars(resp).items() if getattr(value, "__module__", None) == resp.__name__}
    settings = {name for name in settings if not name.startswith("_")}
    assert settings == {"Commands", "Runs"}
    assert sorted(resp.__all__) == sorted({*settings, *ENCODERS, "OK", "Run"})
    assert all(inspect.getdoc(getattr(resp, name)) for name in resp.__all__)
    assert resp.simple("OK") == resp.OK


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_are_those_in_c_where_there_is_an_extension(name: str) -> None:
    assert getattr(resp, name) is getattr(_resp if native is None else native, name)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_in_c_and_in_python_have_the_same_signature(codec: Codec, name: str) -> None:
    def essence(encoder: Any) -> list[tuple[object, ...]]:
        return [(each.name, each.kind, each.default) for each in inspect.signature(encoder).parameters.values()]

    assert essence(getattr(codec, name)) == essence(getattr(_resp, name))
