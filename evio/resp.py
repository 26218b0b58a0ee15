"""The Redis protocol: requests in, replies out. RESP2 and RESP3, inline requests included.

    import evio
    from evio import resp

    store: dict[bytes, bytes] = {}

    def answer(name, *args):
        match name.upper(), args:
            case b"GET", (key,):
                return resp.bulk(store.get(key))
            case b"SET", (key, value):
                store[key] = value
                return resp.OK
        return resp.error(f"ERR cannot {name.decode(errors='replace')} with {len(args)} arguments")

    def handle(id, commands, ctx):
        return [answer(*command) for command in commands]

    evio.serve("tcp", ":6380", handle, frame=resp.Commands())

What the decoders take and refuse is what redis-server 7.0 takes and refuses, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable

from ._extension import native
from ._frames import Framing, check_max_size
from ._resp import (
    OK,
    CommandsDecoder,
    Run,
    RunsDecoder,
    array,
    bulk,
    bulks,
    encode,
    error,
    integer,
    integers,
    map,
    null,
    simple,
)

if native is not None:
    from ._native import array, bulk, bulks, encode, error, integer, integers, map, null, simple

__all__ = [
    "OK",
    "Commands",
    "Run",
    "Runs",
    "array",
    "bulk",
    "bulks",
    "encode",
    "error",
    "integer",
    "integers",
    "map",
    "null",
    "simple",
]

_MAX_SIZE = 512 * 1024 * 1024  # redis' proto-max-bulk-len


class Commands(Framing[list[bytes]]):
    """Redis requests, for `frame=`: each message is one request, a list of its arguments.

    Args:
        max_size: the longest argument in bytes; redis' own limit, 512 MiB, where none is given. A
            longer one is an invalid bulk length.

    Raises:
        TypeError, ValueError: `max_size` is not what it may be.
    """

    def __init__(self, *, max_size: int = _MAX_SIZE) -> None:
        check_max_size(max_size)
        super().__init__(CommandsDecoder, max_size)


class Runs(Framing[Run]):
    """Redis requests in runs, for `frame=`: consecutive ones that are alike come as one message.

    A message is `(name, count, columns)`. Alike are requests of one read that have the same name,
    whatever its case, and the same number of arguments. `columns` has a list for each position
    behind the name, with `count` arguments in it: a pipeline of 128 SETs is one
    `(b"SET", 128, (keys, values))`, a PING is `(b"PING", 1, ())`. Runs are in the order of the requests.

    Args:
        names: the names that the server knows, in any case; an iterable of bytes. Any other name
            comes as it was spelt, for an error to quote, and is alike only where it is spelt alike. Where
            None is given every name comes in upper case.
        max_size: as for `Commands`.

    Raises:
        TypeError, ValueError: `names` or `max_size` is not what it may be.
    """

    def __init__(self, names: Iterable[bytes] | None = None, *, max_size: int = _MAX_SIZE) -> None:
        known = None
        if names is not None:
            known = {name: name for name in (_check_name(name).upper() for name in names)}
        check_max_size(max_size)
        super().__init__(RunsDecoder, max_size, known)


def _check_name(name: bytes) -> bytes:
    if type(name) is not bytes:
        raise TypeError(f"names must be bytes, not {type(name).__name__}")
    return name
