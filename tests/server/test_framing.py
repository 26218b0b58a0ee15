"""`frame=`: a user's own decoder turns pieces into messages."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from harness import echo, exchange, live, receive, receive_all

import evio

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


@pytest.mark.parametrize("messages", ["text", 5, None, {}, iter([b"x"])], ids=repr)
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


def test_ready_made_redis_commands(net: str) -> None:
    def handle(id: int, commands: list[list[bytes]], ctx: Any) -> list[bytes]:
        return [evio.resp.bulk(b" ".join(command)) for command in commands]

    with live(net, handle, frame=evio.resp.Commands()) as server:
        client = server.connect()
        client.sendall(b"*2\r\n$4\r\nECHO\r\n$5\r\nhello\r\nPING\r\n")
        assert receive(client, 27) == b"$10\r\nECHO hello\r\n$4\r\nPING\r\n"


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
