"""The Redis codec. What redis-server itself says to the same requests is in test_resp_redis.py."""

from __future__ import annotations

import enum
import inspect
import itertools
import math
import textwrap
import time
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import evio
from evio import resp

MAX_LINE = 65536
MIB = 1024 * 1024
PING = b"*1\r\n$4\r\nPING\r\n"
EVAL = b"EVAL 'return ARGV' 0 "

Requests = list[list[bytes]]


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


def shown(value: object) -> str:
    """Return the id of a test's parameter."""
    return repr(value)[:60] if isinstance(value, bytes) else ""


def request(*args: bytes) -> bytes:
    return resp.array([resp.bulk(arg) for arg in args])


def decode(pieces: Iterable[bytes], frame: resp.Commands | None = None) -> tuple[Requests, bytes | None]:
    """Return the requests in a stream and what a bad one is answered, checking that nothing comes after that."""
    decoder = (frame or resp.Commands()).decoder()
    requests: Requests = []
    reply = None
    for piece in pieces:
        try:
            found = decoder.feed(piece)
        except evio.FrameError as error:
            assert reply is None
            found, reply = error.messages, error.reply
        else:
            assert reply is None or not found
        requests += found
    return requests, reply


def cut(data: bytes, *places: int) -> list[bytes]:
    return [data[start:end] for start, end in itertools.pairwise([0, *sorted(places), len(data)])]


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


# Verdicts


@pytest.mark.parametrize(("data", "requests", "reply"), CASES, ids=shown)
def test_verdict(data: bytes, requests: Requests, reply: bytes | None) -> None:
    assert decode([data]) == (requests, reply)


@pytest.mark.parametrize(("data", "requests", "reply"), CASES, ids=shown)
def test_verdict_is_the_same_one_byte_at_a_time(data: bytes, requests: Requests, reply: bytes | None) -> None:
    assert decode(in_pieces(data, 1)) == (requests, reply)


@pytest.mark.parametrize(("data", "requests", "reply"), SHORT, ids=shown)
def test_verdict_is_the_same_for_every_pair_of_splits(data: bytes, requests: Requests, reply: bytes | None) -> None:
    for places in itertools.combinations_with_replacement(range(len(data) + 1), 2):
        assert decode(cut(data, *places)) == (requests, reply), places


def test_every_pair_of_splits_of_a_long_stream() -> None:
    data = PING + b"*0\r\n" + EVAL + b"'a' \"\\x41\"\r\n" + request(b"ECHO", b"*1\r\n$") + b"\n*1\rX$0\rYZZ"
    data += request(*b"MSET a 1 bb 22 ccc 333 dddd 4444".split(), b"") + b"*2\r\n$4\r\nECHO\r\n$-2\r\n"
    assert 190 <= len(data) <= 200
    verdict = decode([data])
    assert len(verdict[0]) == 5
    assert verdict[1] == SIZE
    for places in itertools.combinations_with_replacement(range(len(data) + 1), 2):
        assert decode(cut(data, *places)) == verdict, places


def test_an_error_names_itself_and_ends_the_stream() -> None:
    decoder = resp.Commands().decoder()
    with pytest.raises(evio.FrameError, match=r"^Protocol error: expected '\$', got '\\xff'$") as caught:
        decoder.feed(PING + b"*1\r\n\xff\r\n" + PING)
    assert caught.value.reply == b"-ERR Protocol error: expected '$', got '\xff'\r\n"
    assert caught.value.messages == [[b"PING"]]
    assert decoder.feed(PING) == []
    assert decoder.feed(b"") == []


def test_decoders_are_independent() -> None:
    frame = resp.Commands()
    first, second = frame.decoder(), frame.decoder()
    assert first.feed(PING[:9]) == []
    with pytest.raises(evio.FrameError):
        second.feed(b"*x\r\n")
    assert first.feed(PING[9:]) == [[b"PING"]]


def test_arguments_are_bytes_and_requests_the_callers_own() -> None:
    decoder = resp.Commands().decoder()
    found = decoder.feed(PING) + decoder.feed(PING[:7]) + decoder.feed(PING[7:] + b"PING\n")
    assert [type(arg) for args in found for arg in args] == [bytes] * 3
    found[0].append(b"changed")
    assert decoder.feed(PING) == [[b"PING"]]


@pytest.mark.parametrize("data", ["PING\n", bytearray(b"PING\n"), memoryview(b"PING\n"), None])
def test_only_bytes_are_decoded(data: Any) -> None:
    decoder = resp.Commands().decoder()
    decoder.feed(PING[:5])
    with pytest.raises(TypeError, match=rf"feed\(\) takes bytes, not {type(data).__name__}"):
        decoder.feed(data)
    assert decoder.feed(PING[5:]) == [[b"PING"]]


@given(
    st.lists(st.lists(st.binary(max_size=2000), min_size=1, max_size=20), max_size=10),
    st.lists(st.integers(0, 20000), max_size=10),
)
def test_what_was_encoded_is_decoded(requests: Requests, places: list[int]) -> None:
    data = b"".join(request(*args) for args in requests)
    assert decode(cut(data, *(min(place, len(data)) for place in places))) == (requests, None)


@given(st.lists(st.sampled_from([*b"*$-0123\r\n \t\0\"'\\xaf", b"\r\n", b"*1\r\n", b"$1\r\n"]), max_size=40), st.data())
def test_noise_is_the_same_however_it_is_cut(tokens: list[int | bytes], draw: st.DataObject) -> None:
    data = b"".join(bytes([token]) if isinstance(token, int) else token for token in tokens)
    places = draw.draw(st.lists(st.integers(0, len(data)), max_size=5))
    assert decode(cut(data, *places)) == decode([data]) == decode(in_pieces(data, 1))


@given(st.lists(st.binary(), min_size=1))
def test_quoted_arguments_are_decoded(args: list[bytes]) -> None:
    line = b" ".join(b'"%b"' % b"".join(b"\\x%02x" % byte for byte in arg) for arg in args)
    assert decode([line + b"\r\n"]) == ([args], None)


# Limits


@pytest.mark.parametrize("size", [MAX_LINE * 2, 1000, 1])
@pytest.mark.parametrize(("before", "begin", "end", "verdict", "too_big"), LINES)
def test_a_line_is_too_big_after_65536_bytes_without_its_end(
    before: bytes, begin: bytes, end: bytes, verdict: bytes | None, too_big: bytes, size: int
) -> None:
    longest = begin + b"x" * (MAX_LINE - len(begin))
    requests = [[longest]] if verdict is None else []
    assert decode(in_pieces(before + longest, size)) == ([], None)
    assert decode(in_pieces(before + longest + end, size)) == (requests, verdict)
    assert decode(in_pieces(before + longest + b"x", size)) == ([], refused(too_big))
    assert decode(in_pieces(before + longest + b"x" + end, size)) == ([], refused(too_big))


@pytest.mark.parametrize("size", [MAX_LINE * 2, 1000, 1])
@pytest.mark.parametrize(("before", "begin", "end", "verdict", "too_big"), LINES)
def test_a_line_with_a_nul_only_gets_too_big(
    before: bytes, begin: bytes, end: bytes, verdict: bytes | None, too_big: bytes, size: int
) -> None:
    line = begin + b"\0" + end
    longest = line + end * ((MAX_LINE - len(line)) // len(end)) + b"x" * ((MAX_LINE - len(line)) % len(end))
    assert decode(in_pieces(before + longest, size)) == ([], None)
    assert decode(in_pieces(before + longest + end, size)) == ([], refused(too_big))


@pytest.mark.parametrize("max_size", [1, 10, 5000])
def test_max_size(max_size: int) -> None:
    frame = resp.Commands(max_size=max_size)
    assert decode([request(b"v" * max_size)], frame) == ([[b"v" * max_size]], None)
    assert decode([request(b"v" * (max_size + 1))], frame) == ([], SIZE)


@pytest.mark.parametrize("max_size", ["1", 1.0, None, True])
def test_max_size_of_a_wrong_type(max_size: Any) -> None:
    with pytest.raises(TypeError, match=f"max_size must be an int, not {type(max_size).__name__}"):
        resp.Commands(max_size=max_size)


@pytest.mark.parametrize("max_size", [0, -1, 2**63])
def test_max_size_out_of_range(max_size: int) -> None:
    with pytest.raises(ValueError, match=f"max_size must be from 1 to .*, not {max_size}"):
        resp.Commands(max_size=max_size)


# Time and memory


def seconds(pieces: list[bytes]) -> float:
    """Return the processor time that decoding takes, the best of three."""
    times = []
    for _ in range(3):
        decoder = resp.Commands().decoder()
        before = time.process_time()
        for piece in pieces:
            decoder.feed(piece)
        times.append(time.process_time() - before)
    return min(times)


@pytest.mark.parametrize(
    ("large", "small", "times", "size"),
    [
        pytest.param(request(b"v" * (16 * MIB)), request(b"v" * MIB), 16, 1024, id="value"),
        pytest.param(request(b"\r\n" * (8 * MIB)), request(b"\r\n" * (MIB // 2)), 16, 1024, id="value of line breaks"),
        pytest.param(request(*[b"v"] * 200_000), request(*[b"v"] * 200), 1000, 1024, id="arguments"),
        pytest.param(b"x" * 65530 + b"\n", b"x" * 1023 + b"\n", 64, 1, id="inline"),
        pytest.param(b"\0" + b"\n" * 65535, b"\0" + b"x" * 65535, 1, 1, id="line feeds behind a NUL"),
        pytest.param(b"*16384\r\n" + b"$1\rXvv\r" * 16384, b"*1\r\n$1\rXvv\r", 16384, MIB, id="no line feeds"),
        pytest.param(b'"' + b"\\'" * 32000 + b'"\n', b'"' + b"\\'" * 500 + b'"\n', 64, 70000, id="quotes"),
        pytest.param(b"a'' " * 16000 + b"\n", b"a'' " * 250 + b"\n", 64, 70000, id="inline arguments"),
    ],
)
def test_time_is_linear(large: bytes, small: bytes, times: int, size: int) -> None:
    # As many bytes in as many pieces: in quadratic time the large one takes at least 16 times as long.
    assert seconds(in_pieces(large, size)) < 4 * seconds(in_pieces(small * times, size)) + 0.01


@pytest.mark.parametrize("promise", [b"*2147483647\r\n", b"*1\r\n$536870912\r\n", b"*1\r\n$536870912\r\nv"])
def test_a_promise_costs_nothing(promise: bytes) -> None:
    frame = resp.Commands()
    tracemalloc.start()
    decoders = [frame.decoder() for _ in range(100)]
    for decoder in decoders:
        assert decoder.feed(promise) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * 1024


def test_memory_follows_the_bytes_received() -> None:
    decoder = resp.Commands().decoder()
    value = b"v" * (64 * MIB)
    piece = value[:1024]
    tracemalloc.start()
    decoder.feed(b"*2\r\n$4\r\nECHO\r\n$%d\r\n" % len(value))
    for received in range(0, len(value), len(piece)):
        if received in (MIB, 16 * MIB):
            current, peak = tracemalloc.get_traced_memory()
            assert current < 1.25 * received + 64 * 1024
            assert peak < 2.5 * received + 64 * 1024
        decoder.feed(piece)
    found = decoder.feed(b"\r\n")
    _, peak = tracemalloc.get_traced_memory()
    assert found == [[b"ECHO", value]]
    assert peak < 2.5 * len(value)
    # What has been delivered is no longer the decoder's.
    del found
    current, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert current < 64 * 1024


# Replies


@pytest.mark.parametrize(
    ("reply", "encoded"),
    [
        (resp.simple("OK"), b"+OK\r\n"),
        (resp.simple(b"OK"), b"+OK\r\n"),
        (resp.simple("ä"), b"+\xc3\xa4\r\n"),
        (resp.simple(""), b"+\r\n"),
        (resp.error("ERR no such key"), b"-ERR no such key\r\n"),
        (resp.error(b"ERR \xff"), b"-ERR \xff\r\n"),
        (resp.error("ERR 'a\r\nb\nc'\r\n"), b"-ERR 'a  b c'\r\n"),
        (resp.error("ERR ä \ud800"), b"-ERR \xc3\xa4 \\ud800\r\n"),
        (resp.integer(0), b":0\r\n"),
        (resp.integer(-7), b":-7\r\n"),
        (resp.integer(True), b":1\r\n"),
        (resp.integer(2**63 - 1), b":9223372036854775807\r\n"),
        (resp.integer(-(2**63)), b":-9223372036854775808\r\n"),
        (resp.bulk(b""), b"$0\r\n\r\n"),
        (resp.bulk(b"a\r\n\0"), b"$4\r\na\r\n\0\r\n"),
        (resp.bulk("ä"), b"$2\r\n\xc3\xa4\r\n"),
        (resp.bulk(bytearray(b"ab")), b"$2\r\nab\r\n"),
        (resp.bulk(memoryview(b"abcd")[::2]), b"$2\r\nac\r\n"),
        (resp.bulk(memoryview(b"abcd").cast("H")), b"$4\r\nabcd\r\n"),
        (resp.bulk(None), b"$-1\r\n"),
        (resp.bulk(None, 2), b"$-1\r\n"),
        (resp.bulk(None, protocol=3), b"_\r\n"),
        (resp.null(), b"$-1\r\n"),
        (resp.null(2), b"$-1\r\n"),
        (resp.null(protocol=3), b"_\r\n"),
        (resp.array([]), b"*0\r\n"),
        (resp.array([resp.integer(1), resp.bulk(b"a")]), b"*2\r\n:1\r\n$1\r\na\r\n"),
        (resp.array(resp.integer(n) for n in (1, 2)), b"*2\r\n:1\r\n:2\r\n"),
        (resp.map([]), b"*0\r\n"),
        (resp.map([], protocol=3), b"%0\r\n"),
        (resp.map([(resp.simple("a"), resp.integer(1))]), b"*2\r\n+a\r\n:1\r\n"),
        (resp.map({resp.simple("a"): resp.integer(1)}.items(), 3), b"%1\r\n+a\r\n:1\r\n"),
    ],
)
def test_reply(reply: bytes, encoded: bytes) -> None:
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
def test_encode(value: object, resp2: bytes, resp3: bytes) -> None:
    assert resp.encode(value) == resp.encode(value, 2) == resp2
    assert resp.encode(value, protocol=3) == resp3


@pytest.mark.parametrize("text", ["a\nb", "\r", b"OK\r\n"])
def test_a_simple_string_is_one_line(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"cannot have a line break.*bulk\(\)"):
        resp.simple(text)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, pytest.param(10**5000, id="huge")])
def test_an_integer_has_64_bits(number: int) -> None:
    with pytest.raises(OverflowError, match=r"from -2\*\*63 to 2\*\*63 - 1"):
        resp.integer(number)


@pytest.mark.parametrize(
    ("encoder", "value", "message"),
    [
        (resp.simple, 1, "simple() takes str or bytes, not int"),
        (resp.error, None, "error() takes str or bytes, not NoneType"),
        (resp.integer, "1", "integer() takes an int, not str"),
        (resp.integer, 1.5, "integer() takes an int, not float"),
        (resp.bulk, 1, "bulk() takes bytes, bytearray, memoryview, str or None, not int"),
        (resp.encode, object(), "cannot encode object; allowed: None, bool, int, float, str, bytes, "),
        (resp.encode, [1, {"a": 1j}], "cannot encode complex; allowed: "),
        (resp.encode, ValueError, "cannot encode type; allowed: "),
    ],
)
def test_a_wrong_type_is_named(encoder: Any, value: Any, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        encoder(value)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("protocol", [0, 1, 4, "3", None])
def test_an_unknown_protocol_is_refused(protocol: Any) -> None:
    encoders: list[tuple[Any, Any]] = [(resp.bulk, None), (resp.map, []), (resp.encode, b"a")]
    for encoder, value in encoders:
        with pytest.raises(ValueError, match=f"protocol must be 2 or 3, not {protocol!r}"):
            encoder(value, protocol)
    with pytest.raises(ValueError, match=f"protocol must be 2 or 3, not {protocol!r}"):
        resp.null(protocol)


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
    public = [name for name, value in vars(resp).items() if getattr(value, "__module__", None) == resp.__name__]
    assert sorted(resp.__all__) == sorted(name for name in public if not name.startswith("_"))
    assert all(inspect.getdoc(getattr(resp, name)) for name in resp.__all__)
