"""The decoders' verdicts are those of a live redis-server, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.test_resp import CASES, LINES, MAX_LINE
from unit.twins import cut, in_pieces, shown
from unit.verdicts import Redis, answered, redis_server


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with redis_server() as redis:
        yield redis


@pytest.mark.parametrize("data", [data for data, _, _ in CASES], ids=shown)
def test_verdict_is_that_of_redis(redis: Redis, data: bytes) -> None:
    assert redis.replies([data]) == answered([data])


@pytest.mark.parametrize("data", [data for data, _, _ in CASES if len(data) <= 200], ids=shown)
def test_verdict_is_that_of_redis_one_byte_at_a_time(redis: Redis, data: bytes) -> None:
    assert redis.replies(in_pieces(data, 1)) == answered([data])


@pytest.mark.parametrize("nul", [b"", b"\0"])
@pytest.mark.parametrize(("before", "begin", "end", "verdict", "too_big"), LINES)
def test_limit_of_a_line_is_that_of_redis(
    redis: Redis, before: bytes, begin: bytes, end: bytes, verdict: bytes | None, too_big: bytes, nul: bytes
) -> None:
    # redis looks once per read, and forgives a line that is too big where its end is in the same read.
    # The decoder's verdict, which no cut changes, is that of a redis that reads single bytes at the limit.
    longest = [*in_pieces(before + begin + nul + b"x" * (MAX_LINE - 1 - len(begin + nul)), 16384), b"x"]
    assert sum(len(piece) for piece in longest) == len(before) + MAX_LINE
    for rest in ([], [end[:1]], [end], [b"x"], [b"x", end]):
        pieces = [*longest, *rest]
        assert redis.replies(pieces) == answered(pieces)
    assert answered(pieces).endswith(b"-ERR Protocol error: " + too_big + b"\r\n")


@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from([*(bytes([byte]) for byte in b"*$-0123\r\n \t\v\0\"'\\xaf\xff"), b"\r\n"])), st.data())
def test_noise_is_read_as_redis_reads_it(redis: Redis, tokens: list[bytes], draw: st.DataObject) -> None:
    _compare(redis, b"".join(tokens), draw)


@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from([b"*1\r\n", b"*2\r\n", b"$1\r\n", b"$2\r\n", *b"*$-1\r\n\0x"]), max_size=20), st.data())
def test_headers_are_read_as_redis_reads_them(redis: Redis, tokens: list[bytes | int], draw: st.DataObject) -> None:
    _compare(redis, b"*2\r\n" + b"".join(bytes([t]) if isinstance(t, int) else t for t in tokens), draw)


@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from([*b" \t\v\f\r\"'\\xnrtbaqf40\xa0"]), max_size=40).map(bytes), st.data())
def test_quotes_are_read_as_redis_reads_them(redis: Redis, line: bytes, draw: st.DataObject) -> None:
    _compare(redis, b"EVAL 'return ARGV' 0 " + line + b"\r\n", draw)


def _compare(redis: Redis, data: bytes, draw: st.DataObject) -> None:
    pieces = cut(data, *draw.draw(st.lists(st.integers(0, len(data)), max_size=3)))
    assert redis.replies(pieces) == answered(pieces)
