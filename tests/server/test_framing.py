"""`frame=`: a decoder, evio's or a user's own, turns pieces into messages."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from harness import echo, exchange, live, receive, receive_all, shown
from replies import BadBool, SaysItIsAList
from unit.twins import flat

import evio
from evio._frames import Framing

Messages = list[bytes]


class Words:
    """Messages that end in a space. "bad" is an error with a reply, "rude" one without, "bug" a failure."""

    def decoder(self) -> WordDecoder:
        return WordDecoder()


class WordDecoder:
    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Messages:
        *words, self._rest = (self._rest + data).split(b" ")
        for index, word in enumerate(words):
            if word == b"bad":
                raise evio.FrameError("a bad word", reply=b"-bad ", messages=words[:index])
            if word == b"rude":
                raise evio.FrameError("a rude word")
            if word == b"bug":
                raise ZeroDivisionError
        return words


def upper(id: int, words: Messages, ctx: Any) -> Messages:
    return [word.upper() + b" " for word in words]


def test_handle_is_given_the_messages_of_one_read(net: str) -> None:
    calls = []

    def handle(id: int, words: Messages, ctx: Any) -> Messages:
        calls.append(words)
        return upper(id, words, ctx)

    with live(net, handle, frame=Words()) as server:
        client = server.connect()
        client.sendall(b"one two three ")
        assert receive(client, 14) == b"ONE TWO THREE "
        assert calls == [[b"one", b"two", b"three"]]


def test_no_call_for_a_part_of_a_message(net: str) -> None:
    calls = []

    def handle(id: int, words: Messages, ctx: Any) -> Messages:
        calls.append((id, words))
        return upper(id, words, ctx)

    with live(net, handle, frame=Words()) as server:
        client, other = server.connect(), server.connect()
        for letter in b"word":
            client.sendall(bytes([letter]))
            assert exchange(other, b"x ") == b"X "  # a turn of the loop later
        client.sendall(b" ")
        assert receive(client, 5) == b"WORD "
        assert [words for id, words in calls if id == 1] == [[b"word"]]
        assert [] not in [words for _, words in calls]


def test_each_connection_has_its_own_decoder(net: str) -> None:
    with live(net, upper, frame=Words()) as server:
        one, two = server.connect(), server.connect()
        one.sendall(b"on")
        assert exchange(two, b"two ") == b"TWO "
        one.sendall(b"e ")
        assert receive(one, 4) == b"ONE "


def test_wake_gives_an_empty_list(net: str) -> None:
    calls = []

    def handle(id: int, words: Messages, ctx: Any) -> bytes:
        calls.append(words)
        return b"woken"

    with live(net, handle, frame=Words()) as server:
        client = server.connect()
        server.wait(lambda: server.wakes)
        assert server.wakes[1]()
        assert receive(client, 5) == b"woken"
        assert calls == [[]]


def test_frame_error_comes_after_the_messages_before_it(net: str) -> None:
    with live(net, upper, frame=Words()) as server:
        other, client = server.connect(), server.connect()
        client.sendall(b"one two bad three ")
        assert receive_all(client) == b"ONE TWO -bad "
        client.close()
        error = server.wait_closed(2)
        assert type(error) is evio.FrameError
        assert str(error) == "a bad word"
        assert exchange(other, b"x ") == b"X "


def test_frame_error_at_once(net: str) -> None:
    with live(net, upper, frame=Words()) as server:
        client = server.connect()
        client.sendall(b"bad ")
        assert receive_all(client) == b"-bad "
        client.close()
        assert isinstance(server.wait_closed(1), evio.FrameError)


def test_frame_error_without_a_reply(net: str) -> None:
    with live(net, upper, frame=Words()) as server:
        client = server.connect()
        client.sendall(b"one ")
        assert receive(client, 4) == b"ONE "
        client.sendall(b"rude ")
        assert receive_all(client) == b""
        client.close()
        assert isinstance(server.wait_closed(1), evio.FrameError)


def test_nothing_is_decoded_after_a_frame_error(net: str) -> None:
    with live(net, upper, frame=Words()) as server:
        client = server.connect()
        client.sendall(b"bad ")
        assert receive(client, 5) == b"-bad "
        client.sendall(b"one two ")
        assert receive_all(client) == b""
        client.close()
        assert isinstance(server.wait_closed(1), evio.FrameError)


def test_frame_error_reply_arrives_whole_beside_unread_input(net: str) -> None:
    class Refusing:
        def decoder(self) -> Refusing:
            return self

        def feed(self, data: bytes) -> Messages:
            raise evio.FrameError("no", reply=bytes(8_000_000))

    with live(net, upper, frame=Refusing()) as server:
        client = server.connect()
        client.sendall(bytes(100_000))
        assert receive_all(client) == bytes(8_000_000)
        client.close()
        assert isinstance(server.wait_closed(1), evio.FrameError)


def test_decoder_that_raises_has_failed_as_handle_has(net: str) -> None:
    with live(net, upper, frame=Words()) as server:
        other, client = server.connect(), server.connect()
        client.sendall(b"one bug two ")
        assert receive_all(client) == b""
        error = server.wait_closed(2)
        assert isinstance(error, ZeroDivisionError)
        (record,) = server.take_records()
        assert record.getMessage() == "handle() failed for connection 2"
        assert record.exc_info is not None
        assert record.exc_info[1] is error
        assert exchange(other, b"x ") == b"X "


@pytest.mark.parametrize("messages", ["text", 5, None, {}, iter([b"x"]), SaysItIsAList()], ids=shown)
def test_decoder_that_returns_no_list_has_failed_as_handle_has(tcp: str, messages: Any) -> None:
    class Returning:
        def decoder(self) -> Returning:
            return self

        def feed(self, data: bytes) -> Any:
            return messages

    with live(tcp, upper, frame=Returning()) as server:
        server.connect().sendall(b"x")
        error = server.wait_closed(1)
        assert type(error) is TypeError
        kind = type(messages).__name__
        assert str(error) == f"feed() returned {kind}; it must return the list of complete messages"
        assert len(server.take_records()) == 1


class Unfinished(evio.FrameError):
    """Has no messages and no reply, as it does not call the class that it is made of."""

    def __init__(self) -> None:
        pass


class NoMessages(evio.FrameError):
    messages = property(lambda self: 1 // 0, lambda self, messages: None)


class NoReply(evio.FrameError):
    reply = property(lambda self: 1 // 0, lambda self, reply: None)


def without_truth() -> evio.FrameError:
    error = evio.FrameError("its messages are neither true nor false")
    error.messages = BadBool()  # type: ignore[assignment]
    return error


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (Unfinished, AttributeError),
        (lambda: NoMessages("x"), ZeroDivisionError),
        (lambda: NoReply("x", messages=[b"not delivered"]), ZeroDivisionError),
        (without_truth, ZeroDivisionError),
    ],
    ids=["unfinished", "no messages", "no reply", "no truth"],
)
def test_frame_error_that_fails_itself_closes_that_connection_alone(
    net: str, make: Callable[[], Exception], kind: type[Exception]
) -> None:
    class Failing:
        def decoder(self) -> Failing:
            return self

        def feed(self, data: bytes) -> Messages:
            if data == b"bad":
                raise make()
            return [data]

    with live(net, lambda id, messages, ctx: messages, frame=Failing()) as server:
        other, client = server.connect(), server.connect()
        exchange(other, b"x")
        client.sendall(b"bad")
        assert receive_all(client) == b""
        error = server.wait_closed(2)
        assert type(error) is kind
        (record,) = server.take_records()
        assert record.getMessage() == "handle() failed for connection 2"
        assert exchange(other, b"y") == b"y"


def test_decoder_that_cannot_be_made_closes_that_connection_alone(tcp: str) -> None:
    class Once:
        def __init__(self) -> None:
            self._decoders = [WordDecoder()]

        def decoder(self) -> WordDecoder:
            return self._decoders.pop()

    with live(tcp, upper, accept=None, frame=Once()) as server:
        client = server.connect()
        assert exchange(client, b"x ") == b"X "
        server.connect()
        assert isinstance(server.wait_closed(2), IndexError)
        assert len(server.take_records()) == 1
        assert exchange(client, b"y ") == b"Y "


def test_messages_before_the_peers_eof_are_delivered(net: str) -> None:
    with live(net, upper, frame=Words()) as server:
        client = server.connect()
        client.sendall(b"one two incomplete")
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"ONE TWO "
        assert server.wait_closed(1) is None


def test_frame_without_handle(net: str) -> None:
    with live(net, handle=None, frame=Words()) as server:
        client = server.connect()
        client.sendall(b"one two ")
        client.close()
        assert server.wait_closed(1) is None


def test_without_frame_data_is_bytes(net: str) -> None:
    with live(net, echo, frame=None) as server:
        assert exchange(server.connect(), b"no frame") == b"no frame"


class Refusing:
    """A frame whose decoder refuses everything, with a reply larger than any socket buffer."""

    def decoder(self) -> Refusing:
        return self

    def feed(self, data: bytes) -> list[bytes]:
        raise evio.FrameError("refused", reply=bytes(32 << 20))


def test_what_loses_the_reply_of_a_frame_error_is_what_ended_the_connection(net: str) -> None:
    with live(net, frame=Refusing(), linger=0.2) as server:
        server.connect().sendall(b"?")  # and nothing is read
        assert type(server.wait_closed(1)) is TimeoutError


# The framings that come with evio

#: A framing, what is sent, what handle is given, what is bad, and what that is answered.
READY_MADE: list[tuple[Framing[Any], bytes, list[Any], bytes, bytes]] = [
    (evio.Lines(max_size=9), b"one\r\n\ntwo\n", [b"one", b"", b"two"], b"more than 9\n", b""),
    (evio.Lines(b"<end>"), b"one<end>two<end>", [b"one", b"two"], b"x" * 65541, b""),
    (evio.Prefixed(2, "little", 9), b"\3\0one\0\0\3\0two", [b"one", b"", b"two"], b"\x0a\0", b""),
    (
        evio.resp.Commands(),
        b"*2\r\n$4\r\nECHO\r\n$3\r\none\r\nPING\r\n",
        [[b"ECHO", b"one"], [b"PING"]],
        b"*1\r\n+\r\n",
        b"-ERR Protocol error: expected '$', got '+'\r\n",
    ),
    (
        evio.resp.Runs([b"get", b"SET"]),
        b"GET a\r\nget b\r\nSET c 1\r\nfoo\r\n",
        [(b"GET", 2, ([b"a", b"b"],)), (b"SET", 1, ([b"c"], [b"1"])), (b"foo", 1, ())],
        b"*x\r\n",
        b"-ERR Protocol error: invalid multibulk length\r\n",
    ),
]
each_ready_made = pytest.mark.parametrize(
    ("frame", "data", "messages", "bad", "reply"),
    READY_MADE,
    ids=["Lines", "Lines of <end>", "Prefixed", "Commands", "Runs"],
)


@each_ready_made
def test_ready_made(net: str, frame: Framing[Any], data: bytes, messages: Any, bad: bytes, reply: bytes) -> None:
    calls = []

    def handle(id: int, found: list[Any], ctx: Any) -> bytes:
        calls.append(found)
        return b"%d." % len(found)

    count = b"%d." % len(messages)
    with live(net, handle, frame=frame) as server:
        client = server.connect()
        client.sendall(data)
        assert receive(client, 2) == count
        assert calls == [messages]
        server.wait(lambda: server.wakes)
        assert server.wakes[1]()
        assert receive(client, 2) == b"0."
        assert calls == [messages, []]
        client.sendall(data + bad + data)  # may come in more reads than one, but the bad one ends it all
        assert receive_all(client) == count + reply
        assert calls == [messages, [], messages]
        client.close()
        assert type(server.wait_closed(1)) is evio.FrameError


@each_ready_made
def test_ready_made_byte_by_byte(
    net: str, frame: Framing[Any], data: bytes, messages: Any, bad: bytes, reply: bytes
) -> None:
    found: list[Any] = []

    def handle(id: int, messages: list[Any], ctx: Any) -> bytes | None:
        if id == 1:
            return b"."
        found.extend(messages)
        return None

    with live(net, handle, frame=frame) as server:
        other, client = server.connect(), server.connect()
        for byte in data:
            client.sendall(bytes([byte]))
            other.sendall(data)
            assert receive(other, 1) == b"."  # a turn of the loop later
    is_runs = isinstance(frame, evio.resp.Runs)
    assert (flat(found), len(found)) == (flat(messages), 4) if is_runs else found == messages


@each_ready_made
def test_each_engine_has_its_decoders(
    net: str,
    engine: str,
    frame: Framing[Any],
    data: bytes,
    messages: Any,
    bad: bytes,
    reply: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []

    def noting(make: Any) -> Any:
        def noted(self: Framing[Any]) -> Any:
            decoder = make(self)
            made.append(type(decoder).__module__)
            return decoder

        return noted

    monkeypatch.setattr(Framing, "decoder", noting(Framing.decoder))
    monkeypatch.setattr(Framing, "python_decoder", noting(Framing.python_decoder))
    with live(net, lambda id, found, ctx: b"%d" % len(found), frame=frame) as server:
        for _ in range(2):
            client = server.connect()
            client.sendall(data)
            assert receive(client, 1) == b"%d" % len(messages)
    where = {"evio._native"} if engine == "native" else {"evio._decoders", "evio._resp"}
    assert len(made) == 2
    assert {*made} <= where


def test_a_framing_with_a_decoder_of_the_users_own(net: str) -> None:
    class Numbered(evio.Lines):
        """Lines with their numbers."""

        def decoder(self) -> Any:
            return NumberedDecoder(super().decoder())

    class NumberedDecoder:
        def __init__(self, lines: Any) -> None:
            self._lines = lines
            self._number = 0

        def feed(self, data: bytes) -> Messages:
            lines = self._lines.feed(data)
            self._number += len(lines)
            return [b"%d %b" % (self._number - len(lines) + 1 + index, line) for index, line in enumerate(lines)]

    with live(net, lambda id, lines, ctx: [line + b"\n" for line in lines], frame=Numbered(max_size=9)) as server:
        client = server.connect()
        client.sendall(b"one\ntwo\n")
        assert receive(client, 12) == b"1 one\n2 two\n"
        client.sendall(b"three\n")
        assert receive(client, 8) == b"3 three\n"
        client.sendall(b"too long a line\n")
        assert receive_all(client) == b""
        client.close()
        error = server.wait_closed(1)
        assert str(error) == "a line is longer than 9 bytes"


def test_a_run_of_a_whole_pipeline(net: str) -> None:
    calls: list[Any] = []

    def handle(id: int, runs: list[evio.resp.Run], store: dict[bytes, bytes]) -> list[bytes]:
        calls.append(runs)
        replies = []
        for name, count, columns in runs:
            if name == b"SET":
                store.update(zip(*columns, strict=True))
                replies.append(evio.resp.OK * count)
            else:
                replies.append(evio.resp.bulks([store.get(key) for key in columns[0]]))
        return replies

    keys, values = [b"key:%d" % n for n in range(128)], [b"value:%d" % n for n in range(128)]
    with live(net, handle, ctx={}, frame=evio.resp.Runs()) as server:
        client = server.connect()
        client.sendall(b"".join(b"SET %b %b\r\n" % pair for pair in zip(keys, values, strict=True)))
        assert receive(client, 128 * 5) == b"+OK\r\n" * 128
        client.sendall(b"".join(b"get %b\r\n" % key for key in keys) + b"GET nothing\r\n")
        expected = evio.resp.bulks([*values, None])
        assert receive(client, len(expected)) == expected
    assert calls[0] == [(b"SET", 128, (keys, values))]
    assert calls[1] == [(b"GET", 129, ([*keys, b"nothing"],))]
