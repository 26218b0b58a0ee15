"""Fuzzes what serve makes of `net` and `addr`: values that make sense, or an error that says what was given.

The first byte of an input chooses what it is given as. With libFuzzer, by way of atheris: `make fuzz`.
`tests/unit/test_listen.py` tries the inputs of the corpus without.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from evio._listen import parse_net, parse_tcp, parse_unix

NETS = ("tcp", "tcp4", "tcp6")


class Path:
    """A path that is whatever it is."""

    def __init__(self, path: Any) -> None:
        self._path = path

    def __fspath__(self) -> Any:
        return self._path


def utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def utf16(data: bytes) -> str:
    """Text in which half of a character may stand alone, as it may in a str."""
    return data[: len(data) // 2 * 2].decode("utf-16-le", "surrogatepass")


KINDS: tuple[Callable[[bytes], Any], ...] = (
    utf8,
    utf16,
    bytes,
    bytearray,
    int.from_bytes,
    lambda data: (utf8(data), 80),
    lambda data: PurePosixPath(utf16(data)),
    lambda data: Path(utf8(data)),
    Path,
    lambda data: None,
)


def refused(error: Exception, kind: type[Exception], *parts: str) -> None:
    """Assert that an error is of exactly this kind, begins with the first part and has the others."""
    assert type(error) is kind
    assert str(error).startswith(parts[0])
    assert all(part in str(error) for part in parts)


def check_net(given: Any) -> None:
    try:
        base, compat = parse_net(given)
    except Exception as error:
        if isinstance(given, str):
            refused(error, ValueError, f"unknown net {given!r}", "; allowed: ")
        else:
            refused(error, TypeError, "net must be a str", f", not {type(given).__name__}; allowed: ")
        return
    assert base in (*NETS, "unix")
    assert given == base + "-compat" * compat


def check_tcp(net: str, given: Any) -> None:
    try:
        host, port = parse_tcp(net, given)
    except Exception as error:
        if isinstance(given, str):
            refused(error, ValueError, f"address {given!r} has ", "; allowed: ")
        else:
            refused(error, TypeError, "addr must be a str", f" for net {net!r}, not {type(given).__name__}")
        return
    assert 0 <= port <= 65535
    assert not set(host) & set("[]\0")
    assert parse_tcp(net, f"[{host}]:{port}" if ":" in host else f"{host}:{port}") == (host, port)
    assert given.rpartition(":")[0] in (host, f"[{host}]")


def check_unix(given: Any) -> None:
    try:
        path = parse_unix(given)
    except Exception as error:
        if isinstance(given, (str, os.PathLike)):
            refused(error, ValueError, f"address {os.fspath(given)!r} is no path", "; allowed: ")
        else:
            refused(error, TypeError, "addr must be a path", f" for net 'unix', not {type(given).__name__}")
        return
    assert path == os.fspath(given)
    assert path != ""
    assert b"\0" not in os.fsencode(path)
    assert os.fsdecode(os.fsencode(path)) == path
    assert parse_unix(path) == path


def check(data: bytes) -> None:
    """Try one input."""
    if data:
        given = KINDS[data[0] % len(KINDS)](data[1:])
        check_net(given)
        check_tcp(NETS[data[0] % len(NETS)], given)
        check_unix(given)


def main() -> None:
    import atheris  # noqa: PLC0415  # `check` is for those too that have not installed it

    for function in (parse_net, parse_tcp, parse_unix, check_net, check_tcp, check_unix):
        atheris.instrument_func(function)
    # libFuzzer runs this command again to merge a corpus.
    atheris.Setup([f"{sys.executable} {sys.argv[0]}", *sys.argv[1:]], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
