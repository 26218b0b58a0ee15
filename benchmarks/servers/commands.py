"""A tiny Redis on `resp.Commands`, with one Python call for each command: `commands.py PORT`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeAlias

import evio
from evio import resp

Command: TypeAlias = Callable[[list[bytes]], bytes]

OK, PONG = resp.simple("OK"), resp.simple("PONG")
store: dict[bytes, bytes] = {}


def ping(args: list[bytes]) -> bytes:
    return PONG if len(args) == 1 else resp.bulk(args[1])


def set_(args: list[bytes]) -> bytes:
    try:
        _, key, value = args
    except ValueError:
        return wrong_number(args)
    store[key] = value
    return OK


def get(args: list[bytes]) -> bytes:
    try:
        _, key = args
    except ValueError:
        return wrong_number(args)
    return resp.bulk(store.get(key))


def incr(args: list[bytes]) -> bytes:
    try:
        _, key = args
        number = int(store.get(key, b"0")) + 1
    except ValueError:
        return resp.error("ERR wrong arguments, or the value is not an integer")
    store[key] = b"%d" % number
    return resp.integer(number)


def wrong_number(args: list[bytes]) -> bytes:
    return resp.error(b"ERR wrong number of arguments for '%b' command" % args[0].lower())


def unknown(args: list[bytes]) -> bytes:
    return resp.error(b"ERR unknown command '%b'" % args[0][:128])


class Table(dict[bytes, Command]):
    """The commands by their names, which most clients write in capitals."""

    def __missing__(self, name: bytes) -> Command:
        return self.get(name.upper(), unknown)


COMMANDS = Table({b"PING": ping, b"SET": set_, b"GET": get, b"INCR": incr})


def handle(id: int, commands: list[list[bytes]], ctx: None) -> list[bytes]:
    return [COMMANDS[args[0]](args) for args in commands]


if __name__ == "__main__":
    evio.serve("tcp", f"127.0.0.1:{sys.argv[1]}", handle, frame=resp.Commands())
