"""The Redis codec in plain Python: the definition of both codecs, and the one where there is no extension.

The C codec comes here for what is unusual and for every error, so that both say the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any, TypeAlias

from ._decoders import FrameError, check_fed

# Requests

#: A message of `evio.resp.Runs`: the name, how many requests, and their arguments for each position behind the name.
Run: TypeAlias = tuple[bytes, int, tuple[list[bytes], ...]]

_STAR = ord("*")
_MAX_LINE = 65536  # redis' PROTO_INLINE_MAX_SIZE: bytes of a line that may come before its end does
_MAX_COUNT = 2**31 - 1
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1

#: The usual headers and what they say. One look-up is quicker than reading a number, and exact: neither
#: the spellings that redis refuses nor those that it only tolerates are in it.
_COUNTS = {b"*%d\r\n" % count: count for count in range(1, 256)}
_SIZES = {b"$%d\r\n" % size: size for size in range(1024)}

_NUMBER = re.compile(rb"0|-?[1-9][0-9]{0,18}")

# One argument of an inline request and the white space behind it. Quotes may open in the middle of an
# argument but their closing ends it. \v and \f separate arguments, yet do not end an unquoted one.
# Each part fits in one way only, without possessive quantifiers: CPython before 3.11.4 and PyPy get those wrong.
_ARGUMENT = re.compile(
    rb"""
    ([^ \t\r\n"']*) (?![^ \t\r\n"'])
    (?: " ([^"\\]* (?: \\. [^"\\]* )*) " | ' ([^'\\]* (?: (?: \\' | \\(?!') ) [^'\\]* )*) ' )?
    (?: \s+ | \Z )
    """,
    re.DOTALL | re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


class CommandsDecoder:
    """Finds the requests in one stream. However the stream is cut into pieces, they are the same."""

    __slots__ = ("_args", "_awaited", "_failed", "_held", "_max_size", "_missing", "_needed")

    def __init__(self, max_size: int, /) -> None:
        self._max_size = max_size
        self._failed = False
        # The request that is being read: its arguments so far, and how many are missing.
        self._args: list[bytes] = []
        self._missing = 0
        # The unfinished element, a line or a bulk with its header. There is nothing to do before it is
        # `_needed` bytes long or `_awaited`, if anything, has come.
        self._held = bytearray()
        self._needed = 0
        self._awaited: bytes | None = None

    def feed(self, data: bytes, /) -> list[list[bytes]]:
        """Return the requests that are complete now, in order.

        Args:
            data: the next piece of the stream, of any length.

        Returns:
            For each request the list of its arguments, the command's name first; never an empty one.

        Raises:
            FrameError: the stream breaks the protocol. `messages` has the requests before that,
                `reply` is what redis-server answers. Whatever is fed afterwards is ignored.
            TypeError: `data` is not bytes.
        """
        check_fed(data)
        if self._failed:
            return []
        if self._held:
            self._held += data
            if len(self._held) < self._needed and (self._awaited is None or self._awaited not in data):
                return []
            data = bytes(self._held)
            self._held.clear()
        commands: list[list[bytes]] = []
        try:
            used = self._decode(data, commands)
        except FrameError as error:
            self._failed = True
            self._args = []
            error.messages = commands
            raise
        self._held += data[used:]
        return commands

    def _decode(self, data: bytes, commands: list[list[bytes]]) -> int:
        """Append the requests in `data` to `commands`; return where the first unfinished element starts."""
        args, missing, max_size, find = self._args, self._missing, self._max_size, data.find
        start, end = 0, len(data)
        while start < end:
            if missing:
                after = find(b"\r", start) + 2
                size = _SIZES.get(data[start:after], -1)
                if not 0 <= size <= max_size:
                    if not (after := self._line(data, start, b"\r", b"too big bulk count string")):
                        break
                    size = self._size(data[start : after - 2])
                stop = after + size
                if stop + 2 > end:
                    self._needed, self._awaited = stop + 2 - start, None
                    break
                args.append(data[after:stop])
                start = stop + 2
                missing -= 1
                if not missing:
                    commands.append(args)
            elif data[start] == _STAR:
                after = find(b"\r", start) + 2
                missing = _COUNTS.get(data[start:after], 0)
                if not missing:
                    if not (after := self._line(data, start, b"\r", b"too big mbulk count string")):
                        break
                    missing = _count(data[start : after - 2])
                args = []
                start = after
            else:
                if not (after := self._line(data, start, b"\n", b"too big inline request")):
                    break
                if inline := _split(data[start : after - 1]):
                    commands.append(inline)
                start = after
        self._args, self._missing = args if missing else [], missing
        return start

    def _line(self, data: bytes, start: int, ending: bytes, too_big: bytes) -> int:
        """Return the index behind the line that starts at `start`, or 0 where its end has not come yet.

        A header ends with a \\r and one more byte, which redis does not look at; an inline request with a \\n.
        """
        limit = start + _MAX_LINE + 1
        found = data.find(ending, start, limit)
        # redis searches with strchr, which sees nothing behind a NUL: such a line only ever gets too big.
        hidden = data.find(b"\0", start, limit if found < 0 else found) >= 0
        if found >= 0 and not hidden:
            after = found + (1 if ending == b"\n" else 2)
            if after <= len(data):
                return after
            self._needed, self._awaited = after - start, None
            return 0
        if len(data) >= limit:
            raise bad_request(too_big)
        self._needed, self._awaited = _MAX_LINE + 1, None if hidden else ending
        return 0

    def _size(self, header: bytes) -> int:
        if header[:1] != b"$":
            # \r is found at once where a line is empty, and is then what stands for the "$".
            raise bad_request(b"expected '$', got '%b'" % (header[:1] or b"\r"))
        size = _number(header[1:])
        if size is None or not 0 <= size <= self._max_size:
            raise bad_request(b"invalid bulk length")
        return size


class RunsDecoder:
    """Finds the requests in one stream, and puts consecutive ones that are alike into runs.

    Args:
        max_size: as of `CommandsDecoder`.
        names: the known names in upper case, each as key and value; None where every name is known.
    """

    __slots__ = ("_commands", "_names")

    def __init__(self, max_size: int, names: dict[bytes, bytes] | None, /) -> None:
        self._commands = CommandsDecoder(max_size)
        self._names = names

    def feed(self, data: bytes, /) -> list[Run]:
        """Return the runs of requests that are complete now, in order.

        Args:
            data: the next piece of the stream, of any length.

        Returns:
            For each run its name, how many requests it is made of, and for each position behind the
            name the list of their arguments there.

        Raises:
            FrameError: the stream breaks the protocol. `messages` has the runs before that,
                `reply` is what redis-server answers. Whatever is fed afterwards is ignored.
            TypeError: `data` is not bytes.
        """
        try:
            return self._runs(self._commands.feed(data))
        except FrameError as error:
            error.messages = self._runs(error.messages)
            raise

    def _runs(self, commands: list[list[bytes]]) -> list[Run]:
        runs = []
        for (name, _), alike in groupby(commands, self._kind):
            run = [*alike]
            _, *columns = [[*column] for column in zip(*run, strict=True)]
            runs.append((name, len(run), tuple(columns)))
        return runs

    def _kind(self, command: list[bytes]) -> tuple[bytes, int]:
        name = command[0].upper()
        known = intern_name(name) if self._names is None else self._names.get(name, command[0])
        return known, len(command)


#: Names that have come, each as key and value: so that a server looks up the same objects again and again.
_interned: dict[bytes, bytes] = {}
_INTERNED_MAX, _INTERNED_SIZE = 256, 64  # how many, and of how many bytes: clients can send any


def intern_name(name: bytes) -> bytes:
    """Return the one object that stands for a name, or where there are too many of them the name itself."""
    if len(_interned) < _INTERNED_MAX and len(name) <= _INTERNED_SIZE:
        return _interned.setdefault(name, name)
    return _interned.get(name, name)


def _count(header: bytes) -> int:
    count = _number(header[1:])
    if count is None or count > _MAX_COUNT:
        raise bad_request(b"invalid multibulk length")
    return max(count, 0)


def _number(digits: bytes) -> int | None:
    """Return the number if it is spelt as redis spells it and has 64 bits, else None."""
    if not _NUMBER.fullmatch(digits):
        return None
    number = int(digits)
    return number if _INT64_MIN <= number <= _INT64_MAX else None


def _split(line: bytes) -> list[bytes]:
    """Return the arguments of an inline request, as redis' sdssplitargs finds them."""
    line = line.removesuffix(b"\r").lstrip()
    args = []
    start = 0
    while start < len(line):
        argument = _ARGUMENT.match(line, start)
        if argument is None:
            raise bad_request(b"unbalanced quotes in request")
        plain, double, single = argument.groups(b"")
        args.append(plain + _ESCAPE.sub(_unescape, double) + single.replace(b"\\'", b"'"))
        start = argument.end()
    return args


def _unescape(escape: re.Match[bytes]) -> bytes:
    digits, character = escape.groups()
    return bytes.fromhex(digits.decode()) if digits else _ESCAPED.get(character, character)


def bad_request(why: bytes) -> FrameError:
    """Return the error for a stream that breaks the protocol, and what redis-server answers to it."""
    text = b"Protocol error: " + why
    return FrameError(text.decode(errors="backslashreplace"), reply=error(b"ERR " + text))


# Replies

# Whatever has items is read at once, with tuple(): it may change while they are encoded.

#: The reply to most commands that change something.
OK: bytes = b"+OK\r\n"

_BytesLike: TypeAlias = bytes | bytearray | memoryview

_SPACES = bytes.maketrans(b"\r\n", b"  ")
_CODE = re.compile(r"[A-Z][A-Z0-9_]*( |\Z)")


def simple(text: str | bytes) -> bytes:
    """Return a simple string, such as +OK.

    Args:
        text: one line; a str is sent as UTF-8. What clients may have written belongs in a `bulk`.

    Returns:
        The reply, `+text`.

    Raises:
        TypeError: `text` is neither str nor bytes.
        ValueError: it has a line break, which would end the reply in the middle.
    """
    line = _text("simple", text)
    if b"\r" in line or b"\n" in line:
        raise ValueError(f"a simple string cannot have a line break, and {text!r} has; send it with bulk()")
    return b"+%b\r\n" % line


def error(text: str | bytes) -> bytes:
    """Return an error.

    Args:
        text: its code and a message, such as "ERR no such key"; a str is sent as UTF-8, and what
            UTF-8 cannot say with backslashes. Line breaks become spaces, as in redis, for the text
            often quotes what a client has sent.

    Returns:
        The reply, `-text`.

    Raises:
        TypeError: `text` is neither str nor bytes.
    """
    return b"-%b\r\n" % _text("error", text, "backslashreplace").strip(b"\r\n").translate(_SPACES)


def integer(number: int) -> bytes:
    """Return an integer.

    Args:
        number: of 64 bits at most; `encode` takes longer ones. True and False are 1 and 0.

    Returns:
        The reply, `:number`.

    Raises:
        TypeError: `number` is not an int.
        OverflowError: it is longer than 64 bits.
    """
    if not isinstance(number, int):
        raise TypeError(f"integer() takes an int, not {_name(number)}")
    if not _INT64_MIN <= number <= _INT64_MAX:
        raise OverflowError("integer() takes an int from -2**63 to 2**63 - 1; encode() takes any")
    return b":%d\r\n" % number


def bulk(data: _BytesLike | str | None, protocol: int = 2) -> bytes:
    """Return a bulk string, or the null where there is no data.

    Args:
        data: bytes of any kind and number; a str is sent as UTF-8. None is the null of `protocol`.
        protocol: 2, or 3 for a client that has sent HELLO 3.

    Returns:
        The reply, `$length` and the data.

    Raises:
        TypeError: `data` is neither bytes-like nor str nor None.
        ValueError: `data` is None and `protocol` neither 2 nor 3.
    """
    if data is None:
        return null(protocol)
    if isinstance(data, str):
        data = data.encode()
    elif not isinstance(data, bytes):
        if not isinstance(data, (bytearray, memoryview)):
            raise TypeError(f"bulk() takes bytes, bytearray, memoryview, str or None, not {_name(data)}")
        data = bytes(data)
    return b"$%d\r\n%b\r\n" % (len(data), data)


def bulks(values: Iterable[_BytesLike | str | None], protocol: int = 2) -> bytes:
    """Return a bulk string, or the null, for each value: a whole column of replies at once.

    Args:
        values: what `bulk` takes, in any number.
        protocol: 2, or 3 for a client that has sent HELLO 3.

    Returns:
        The replies, one behind the other.

    Raises:
        TypeError, ValueError: what `bulk` raises for the first value that it does not take.
    """
    return b"".join([bulk(value, protocol) for value in tuple(values)])


def integers(values: Iterable[int]) -> bytes:
    """Return an integer for each value: a whole column of replies at once.

    Args:
        values: what `integer` takes, in any number.

    Returns:
        The replies, one behind the other.

    Raises:
        TypeError, OverflowError: what `integer` raises for the first value that it does not take.
    """
    return b"".join([integer(value) for value in tuple(values)])


def null(protocol: int = 2) -> bytes:
    """Return the null. Clients of RESP3 do not understand that of RESP2.

    Args:
        protocol: 2, or 3 for a client that has sent HELLO 3.

    Returns:
        The reply, `$-1` or `_`.

    Raises:
        ValueError: `protocol` is neither 2 nor 3.
    """
    return b"_\r\n" if _is_3(protocol) else b"$-1\r\n"


def array(items: Iterable[bytes]) -> bytes:
    """Return an array.

    Args:
        items: replies, already encoded.

    Returns:
        The reply, `*count` and the items.
    """
    return _aggregate(b"*", items)


def map(pairs: Iterable[tuple[bytes, bytes]], protocol: int = 2) -> bytes:
    """Return a map, which in RESP2 is an array of keys and values in turn.

    Args:
        pairs: keys and values, already encoded, such as the `items()` of a dict.
        protocol: 2, or 3 for a client that has sent HELLO 3.

    Returns:
        The reply, `%count` or `*count` and the pairs.

    Raises:
        ValueError: `protocol` is neither 2 nor 3.
    """
    parts = [part for key, value in tuple(pairs) for part in (key, value)]
    if _is_3(protocol):
        return b"".join([b"%%%d\r\n" % (len(parts) // 2), *parts])
    return _aggregate(b"*", parts)


def encode(value: Any, protocol: int = 2) -> bytes:
    """Return a Python value as a reply.

    | value                    | RESP3                        | RESP2                            |
    |--------------------------|------------------------------|----------------------------------|
    | None                     | null `_`                     | null `$-1`                       |
    | bool                     | boolean `#`                  | integer, 1 or 0                  |
    | int                      | integer, or big number `(`   | integer, or a bulk of its digits |
    | float                    | double `,`                   | bulk of its digits               |
    | str, bytes-like          | bulk                         | bulk                             |
    | list, tuple              | array                        | array                            |
    | dict                     | map `%`                      | array of keys and values in turn |
    | set, frozenset           | set `~`                      | array                            |
    | Exception                | error                        | error                            |

    An exception's text is sent behind ERR unless it begins with a code of its own, an upper-case word.

    Args:
        value: what to send; items, keys and values inside it are encoded likewise.
        protocol: 2, or 3 for a client that has sent HELLO 3.

    Returns:
        The reply.

    Raises:
        TypeError: `value`, or something inside it, is of another type.
        ValueError: `protocol` is neither 2 nor 3.
    """
    resp3 = _is_3(protocol)
    if isinstance(value, (bytes, str, bytearray, memoryview)):
        return bulk(value)
    if value is None:
        return null(protocol)
    if isinstance(value, bool):
        return (b"#t\r\n" if value else b"#f\r\n") if resp3 else integer(value)
    if isinstance(value, int):
        if _INT64_MIN <= value <= _INT64_MAX:
            return integer(value)
        return b"(%d\r\n" % value if resp3 else bulk(b"%d" % value)
    if isinstance(value, float):
        digits = float.__repr__(value).removesuffix(".0")
        return b",%b\r\n" % digits.encode() if resp3 else bulk(digits)
    if isinstance(value, (list, tuple)):
        return array([encode(item, protocol) for item in tuple(value)])
    if isinstance(value, dict):
        pairs = tuple(value.items())
        return map([(encode(key, protocol), encode(item, protocol)) for key, item in pairs], protocol)
    if isinstance(value, (set, frozenset)):
        return _aggregate(b"~" if resp3 else b"*", [encode(item, protocol) for item in tuple(value)])
    if isinstance(value, Exception):
        text = str(value) or _name(value)
        return error(text if _CODE.match(text) else f"ERR {text}")
    raise TypeError(
        f"cannot encode {_name(value)}; allowed: None, bool, int, float, str, bytes, bytearray, memoryview, "
        "list, tuple, dict, set, frozenset, Exception"
    )


def _aggregate(mark: bytes, items: Iterable[bytes]) -> bytes:
    parts = tuple(items)
    return b"".join([b"%b%d\r\n" % (mark, len(parts)), *parts])


def _text(encoder: str, text: str | bytes, errors: str = "strict") -> bytes:
    if isinstance(text, str):
        return text.encode(errors=errors)
    if isinstance(text, bytes):
        return text
    raise TypeError(f"{encoder}() takes str or bytes, not {_name(text)}")


def _is_3(protocol: int) -> bool:
    if protocol not in (2, 3):
        raise ValueError(f"protocol must be 2 or 3, not {protocol!r}")
    return protocol == 3


def _name(value: object) -> str:
    return type(value).__name__
