"""A simplified Redis: strings that expire, transactions, and an append-only file.

    python examples/redis_server.py --appendonly yes
    redis-cli -p 6380

A new command is a method of `Client` with `@command` above it. One that comes often can have a second method,
with `@runs_of` above it, that answers a whole run of requests at once.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, compress, islice, repeat, zip_longest
from operator import itemgetter
from typing import NamedTuple, TypeAlias

import evio
from evio import resp

VERSION = "7.0.15"  # of the Redis that says the same
INT64 = range(-(2**63), 2**63)
SYNTAX = b"ERR syntax error"
NO_INTEGER = b"ERR value is not an integer or out of range"
OK, QUEUED, PONG = resp.OK, resp.simple("QUEUED"), resp.simple("PONG")

fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has only fsync
log = logging.getLogger("redis_server")


class Error(Exception):
    """A command is refused; the argument is what the client is told."""


class Quit(Exception):  # noqa: N818 (nothing has gone wrong)
    """The connection ends; the argument is the last reply."""


def wrong_number(name: bytes) -> Error:
    return Error(b"ERR wrong number of arguments for '%b' command" % name.lower())


def misused(args: list[bytes], *subcommands: bytes) -> Error:
    if args[1].upper() in subcommands:
        return wrong_number(b"%b|%b" % (args[0], args[1]))
    return Error(b"ERR unknown subcommand '%b'. Try %b HELP." % (args[1][:128], args[0].upper()))


def integer(text: bytes, otherwise: bytes = NO_INTEGER) -> int:
    """Return the 64-bit integer that is spelt as Redis spells it: no plus, no space, no leading zero."""
    try:
        number = int(text[:21])  # a longer one is not worth reading
    except ValueError:
        raise Error(otherwise) from None
    if number not in INT64 or b"%d" % number != text:
        raise Error(otherwise)
    return number


# The database


class Database:
    """The keys, their values, and when they expire."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.deadlines: dict[bytes, int] = {}  #: milliseconds since 1970, for the keys that expire
        self.now = 0  #: the same clock, read once a batch; 0 while loading, when nothing expires
        self.changes: list[tuple[bytes, ...]] | None = None  #: commands for the append-only file, if there is one
        self.trouble = b""  #: why nothing may be changed for now

    def get(self, key: bytes) -> bytes | None:
        if key in self.deadlines:
            self.expire(key)
        return self.values.get(key)

    def get_all(self, keys: list[bytes]) -> Iterable[bytes | None]:
        self.expire_all(keys)
        if len(keys) == 1:
            return [self.values.get(keys[0])]
        try:
            found: tuple[bytes, ...] = itemgetter(*keys)(self.values)  # twice as fast as map
        except KeyError:
            return map(self.values.get, keys)
        return found

    def put(self, key: bytes, value: bytes, deadline: int | None = None) -> None:
        self.values[key] = value
        if deadline is None:
            self.deadlines.pop(key, None)
            self.note(b"SET", key, value)
        else:
            self.deadlines[key] = deadline
            self.note(b"SET", key, value, b"PXAT", b"%d" % deadline)

    def put_all(self, keys: list[bytes], values: list[bytes]) -> None:
        self.values.update(zip(keys, values, strict=True))
        if self.deadlines:
            for key in self.deadlines.keys() & keys:
                del self.deadlines[key]
        if self.changes is not None:
            self.note(b"MSET" if len(keys) > 1 else b"SET", *chain.from_iterable(zip(keys, values, strict=True)))

    def plus(self, key: bytes, step: int) -> int:
        """Return the integer that a key has, and a step more."""
        value = self.get(key)
        number = step if value is None else integer(value) + step
        if number not in INT64:
            raise Error(b"ERR increment or decrement would overflow")
        return number

    def put_number(self, key: bytes, number: int) -> None:
        """Let a key have a number; it expires when it would have."""
        self.put(key, b"%d" % number, self.deadlines.get(key))

    def remove(self, keys: list[bytes]) -> list[bool]:
        """Remove keys one after the other; return which of them there were."""
        self.expire_all(keys)
        found = [self.values.pop(key, None) is not None for key in keys]
        if any(found):
            gone = [*compress(keys, found)]
            for key in self.deadlines.keys() & gone:
                del self.deadlines[key]
            self.note(b"DEL", *gone)
        return found

    def expire(self, key: bytes) -> bool:
        """Remove a key whose time has come; return whether it had."""
        if self.deadlines[key] >= self.now:
            return False
        del self.values[key], self.deadlines[key]
        self.note(b"DEL", key)
        return True

    def expire_all(self, keys: list[bytes]) -> None:
        """Remove those of the keys whose time has come."""
        if self.deadlines:
            for key in self.deadlines.keys() & keys:
                self.expire(key)

    def sweep(self, most: int = 1000) -> None:
        """Remove the expired among the first keys; the others move behind those not yet looked at."""
        for key in list(islice(self.deadlines, most)):
            if not self.expire(key):
                self.deadlines[key] = self.deadlines.pop(key)

    def note(self, *change: bytes) -> None:
        """Have a change written to the append-only file, as a command that makes it again at any time."""
        if self.changes is not None:
            self.changes.append(change)


GLOB = re.compile(rb"(\*+)|(\?)|\[(\^?)((?:\\.|[^]]-.|[^]])*)\]?|\\?(.)", re.DOTALL)
GLOB_RANGE = re.compile(rb"\\(.)|(.)-(.)|(.)", re.DOTALL)


def glob(pattern: bytes) -> Callable[[bytes], object]:
    """Return what tells whether a key matches a pattern such as `h?llo*`, `[^a-c]` or `\\*`."""
    parts = [b""]  # what stands between the stars
    for stars, any_one, negated, members, plain in GLOB.findall(pattern):
        if stars:
            parts.append(b"")
        elif plain:
            parts[-1] += re.escape(plain)
        elif members:
            parts[-1] += b"[" + negated
            for escaped, low, high, single in GLOB_RANGE.findall(members):
                ends = sorted((low, high)) if low else [escaped or single]
                parts[-1] += b"-".join(map(re.escape, ends))
            parts[-1] += b"]"
        else:
            parts[-1] += b"." if any_one or negated else b"(?!)"
    first, *others = parts
    if others:
        # A part stays where it first fits: trying it everywhere takes for ever with many stars. It is what (?>...)
        # does, which PyPy gets wrong.
        stays = (b"(?=(?P<p%d>.*?%b))(?P=p%d)" % (at, part, at) for at, part in enumerate(others[:-1]))
        first += b"".join(stays) + b".*" + others[-1]
    return re.compile(first, re.DOTALL).fullmatch


# Commands


class Command(NamedTuple):
    run: Run
    name: bytes
    arity: int  #: how many arguments, the name among them; -3 for three or more
    writes: bool
    queued: bool  #: whether MULTI puts it off until EXEC


Run: TypeAlias = "Callable[[Client, list[bytes]], bytes]"
RunOf: TypeAlias = "Callable[[Client, int, tuple[list[bytes], ...]], bytes]"

COMMANDS: dict[bytes, Command] = {}
RUNS: dict[tuple[bytes, int], RunOf] = {}  #: by the command's name and how many arguments are behind it


def command(names: str, arity: int, *, writes: bool = False, queued: bool = True) -> Callable[[Run], Run]:
    """Make a method the command of these names. It is given the arguments, the name first, and returns the reply."""

    def add(run: Run) -> Run:
        for name in names.encode().split():
            COMMANDS[name.upper()] = Command(run, name, arity, writes, queued)
        return run

    return add


def runs_of(name: str, *nargs: int) -> Callable[[RunOf], RunOf]:
    """Make a method that answers a run of requests: given how many, and for each of `nargs` arguments the column."""

    def add(run: RunOf) -> RunOf:
        RUNS.update(((name.upper().encode(), n), run) for n in nargs)
        return run

    return add


def find(args: list[bytes]) -> Command:
    found = COMMANDS.get(args[0])
    if found is None:
        quoted = b""
        for arg in args[1:]:
            if len(quoted) < 128:
                quoted += b"'%b' " % arg[: 128 - len(quoted)]
        raise Error(b"ERR unknown command '%b', with args beginning with: %b" % (args[0][:128], quoted))
    return found


class Client:
    """A connection, and the commands that may come from it."""

    CURSORS = 2**32
    SCANS = 64  # calls that a whole SCAN takes at most, as each of them looks at every key

    def __init__(self, id: int, server: Server) -> None:
        self.id = id
        self.server = server
        self.db = server.db
        self.protocol = 2
        self.name = b""
        self.queue: list[list[bytes]] | None = None  #: the commands since MULTI
        self.aborted = False  #: whether one of them was refused
        self.open = True

    def run(self, runs: list[resp.Run]) -> list[bytes]:
        """Execute runs of requests, or queue them behind MULTI; return the replies."""
        replies: list[bytes] = []
        for name, count, columns in runs:
            run = RUNS.get((name, len(columns)))
            if run is not None and self.queue is None and not (self.db.trouble and COMMANDS[name].writes):
                replies.append(run(self, count, columns))
                continue
            for args in zip(repeat(name, count), *columns, strict=True):
                replies.append(self.execute([*args]))
                if not self.open:
                    return replies
        return replies

    def execute(self, args: list[bytes]) -> bytes:
        """Execute one request, or queue it; return the reply."""
        try:
            run, name, arity, writes, queued = find(args)
            if len(args) != arity and (arity > 0 or len(args) < -arity):
                raise wrong_number(name)
            if writes and self.db.trouble:
                raise Error(self.db.trouble)
            if self.queue is None or not queued:
                return run(self, args)
            self.queue.append(args)
            return QUEUED
        except Error as error:
            self.aborted = True
            return resp.error(error.args[0])
        except Quit as quit:
            self.open = False
            reply: bytes = quit.args[0]
            return reply

    # Strings

    @command("get", 2)
    def get(self, args: list[bytes]) -> bytes:
        return resp.bulk(self.db.get(args[1]), self.protocol)

    @runs_of("get", 1)
    def get_run(self, count: int, columns: tuple[list[bytes], ...]) -> bytes:
        return resp.bulks(self.db.get_all(columns[0]), self.protocol)

    @command("set", -3, writes=True)
    def set(self, args: list[bytes]) -> bytes:
        if len(args) == 3:
            self.db.put(args[1], args[2])
            return OK
        name, key, value, *rest = args
        flags, times = set[bytes](), dict[bytes, bytes]()
        options = iter(rest)
        for option in map(bytes.upper, options):
            if option in (b"NX", b"XX", b"GET", b"KEEPTTL"):
                flags.add(option)
            elif option in (b"EX", b"PX", b"EXAT", b"PXAT") and (number := next(options, None)) is not None:
                times[option] = number
            else:
                raise Error(SYNTAX)
        if len(times) + (b"KEEPTTL" in flags) > 1 or flags >= {b"NX", b"XX"}:
            raise Error(SYNTAX)
        deadline = None
        for option, number in times.items():
            deadline = self.deadline(name, option, number, least=1)
        old = self.db.get(key)
        if b"KEEPTTL" in flags:
            deadline = self.db.deadlines.get(key)
        wanted = b"XX" not in flags if old is None else b"NX" not in flags
        if wanted:
            self.db.put(key, value, deadline)
        if b"GET" in flags:
            return resp.bulk(old, self.protocol)
        return OK if wanted else resp.null(self.protocol)

    @runs_of("set", 2)
    def set_run(self, count: int, columns: tuple[list[bytes], ...]) -> bytes:
        self.db.put_all(*columns)
        return OK * count

    @command("mget", -2)
    def mget(self, args: list[bytes]) -> bytes:
        return b"*%d\r\n" % (len(args) - 1) + resp.bulks(self.db.get_all(args[1:]), self.protocol)

    @command("mset", -3, writes=True)
    def mset(self, args: list[bytes]) -> bytes:
        if len(args) % 2 == 0:
            raise wrong_number(args[0])
        self.db.put_all(args[1::2], args[2::2])
        return OK

    @command("getdel", 2, writes=True)
    def getdel(self, args: list[bytes]) -> bytes:
        value = self.db.get(args[1])
        self.db.remove([args[1]])
        return resp.bulk(value, self.protocol)

    @command("append", 3, writes=True)
    def append(self, args: list[bytes]) -> bytes:
        _, key, suffix = args
        value = (self.db.get(key) or b"") + suffix
        self.db.values[key] = value
        self.db.note(b"APPEND", key, suffix)
        return resp.integer(len(value))

    @command("strlen", 2)
    def strlen(self, args: list[bytes]) -> bytes:
        return resp.integer(len(self.db.get(args[1]) or b""))

    @command("incr decr", 2, writes=True)
    @command("incrby decrby", 3, writes=True)
    def incr(self, args: list[bytes]) -> bytes:
        key = args[1]
        step = integer(args[2]) if len(args) == 3 else 1
        if args[0].startswith(b"DECR"):
            step = -step
            if step not in INT64:
                raise Error(b"ERR decrement would overflow")
        number = self.db.plus(key, step)
        self.db.put_number(key, number)
        return resp.integer(number)

    @runs_of("incr", 1)
    def incr_run(self, count: int, columns: tuple[list[bytes], ...]) -> bytes:
        numbers: dict[bytes, int] = {}
        results = []
        try:
            for key in columns[0]:
                number = numbers.get(key)
                numbers[key] = number = self.db.plus(key, 1) if number is None else number + 1
                results.append(number)
            replies = resp.integers(results)
        except (Error, OverflowError):  # one of them has no number, or the largest: nothing is changed yet
            return b"".join([self.execute([b"INCR", key]) for key in columns[0]])
        for key, number in numbers.items():
            self.db.put_number(key, number)
        return replies

    # Keys

    @command("del", -2, writes=True)
    def delete(self, args: list[bytes]) -> bytes:
        return resp.integer(sum(self.db.remove(args[1:])))

    @runs_of("del", 1)
    def delete_run(self, count: int, columns: tuple[list[bytes], ...]) -> bytes:
        return resp.integers(self.db.remove(columns[0]))

    @command("exists", -2)
    def exists(self, args: list[bytes]) -> bytes:
        return resp.integer(sum(value is not None for value in self.db.get_all(args[1:])))

    @runs_of("exists", 1)
    def exists_run(self, count: int, columns: tuple[list[bytes], ...]) -> bytes:
        return resp.integers([value is not None for value in self.db.get_all(columns[0])])

    @command("type", 2)
    def type(self, args: list[bytes]) -> bytes:
        return resp.simple("none" if self.db.get(args[1]) is None else "string")

    @command("keys", 2)
    def keys(self, args: list[bytes]) -> bytes:
        return resp.encode(self.matching(list(self.db.values), args[1]))

    @command("scan", -2)
    def scan(self, args: list[bytes]) -> bytes:
        # A cursor is a place in the order of the keys' hashes, which never change. So nothing is
        # remembered of a scan, and it finds each key that stays, whatever else comes and goes.
        start = integer(args[1], b"ERR invalid cursor")
        options = {b"MATCH": b"*", b"COUNT": b"10", b"TYPE": b"string"}
        for option, value in zip_longest(args[2::2], args[3::2]):
            if value is None or option.upper() not in options:
                raise Error(SYNTAX)
            options[option.upper()] = value
        count = integer(options[b"COUNT"])
        if count < 1:
            raise Error(SYNTAX)
        end = start + max(self.CURSORS * count // (len(self.db.values) or 1), self.CURSORS // self.SCANS)
        keys = [key for key in self.db.values if start <= hash(key) % self.CURSORS < end]
        if options[b"TYPE"].lower() != b"string":
            keys = []
        return resp.encode([str(end if end < self.CURSORS else 0), self.matching(keys, options[b"MATCH"])])

    def matching(self, keys: list[bytes], pattern: bytes) -> list[bytes]:
        """Return those of the keys that match a pattern and have not expired."""
        matches = glob(pattern)
        return [key for key in keys if matches(key) and self.db.get(key) is not None]

    @command("dbsize", 1)
    def dbsize(self, args: list[bytes]) -> bytes:
        return resp.integer(len(self.db.values))

    @command("flushall flushdb", -1, writes=True)
    def flush(self, args: list[bytes]) -> bytes:
        if len(args) > 2 or args[-1].upper() not in (args[0].upper(), b"SYNC", b"ASYNC"):
            raise Error(SYNTAX)
        self.db.values.clear()
        self.db.deadlines.clear()
        self.db.note(b"FLUSHALL")
        return OK

    # Expiry

    @command("expire pexpire expireat pexpireat", 3, writes=True)
    def expire(self, args: list[bytes]) -> bytes:
        name, key, time = args
        deadline = self.deadline(name, name, time)
        if self.db.get(key) is None:
            return resp.integer(0)
        if deadline <= self.db.now:
            self.db.remove([key])
        else:
            self.db.deadlines[key] = deadline
            self.db.note(b"PEXPIREAT", key, b"%d" % deadline)
        return resp.integer(1)

    def deadline(self, command: bytes, option: bytes, number: bytes, least: int = INT64[0]) -> int:
        """Return a time in milliseconds since 1970, from one that is given as EX, PX, EXAT or PXAT are."""
        time = integer(number) * (1 if option[0] in b"pP" else 1000)
        deadline = time if option[-2:].upper() == b"AT" else time + self.db.now
        if time < least or time not in INT64 or deadline not in INT64:
            raise Error(b"ERR invalid expire time in '%b' command" % command.lower())
        return deadline

    @command("ttl pttl", 2)
    def ttl(self, args: list[bytes]) -> bytes:
        name, key = args
        if self.db.get(key) is None:
            return resp.integer(-2)
        if key not in self.db.deadlines:
            return resp.integer(-1)
        left = self.db.deadlines[key] - self.db.now
        return resp.integer(left if name[0] in b"pP" else (left + 500) // 1000)

    @command("persist", 2, writes=True)
    def persist(self, args: list[bytes]) -> bytes:
        _, key = args
        if self.db.get(key) is None or self.db.deadlines.pop(key, None) is None:
            return resp.integer(0)
        self.db.note(b"PERSIST", key)
        return resp.integer(1)

    # Transactions

    @command("multi", 1, queued=False)
    def multi(self, args: list[bytes]) -> bytes:
        if self.queue is not None:
            return resp.error("ERR MULTI calls can not be nested")  # not raised, which would abort
        self.queue, self.aborted = [], False
        return OK

    @command("discard", 1, queued=False)
    def discard(self, args: list[bytes]) -> bytes:
        if self.queue is None:
            raise Error(b"ERR DISCARD without MULTI")
        self.queue = None
        return OK

    @command("exec", 1, queued=False)
    def exec(self, args: list[bytes]) -> bytes:
        if self.queue is None:
            raise Error(b"ERR EXEC without MULTI")
        commands, self.queue = self.queue, None
        if self.aborted:
            raise Error(b"EXECABORT Transaction discarded because of previous errors.")
        if self.db.trouble and any(find(args).writes for args in commands):
            raise Error(b"EXECABORT Transaction discarded because of: " + self.db.trouble)
        changes = [] if self.db.changes is None else self.db.changes
        before = len(changes)
        replies = [self.execute(args) for args in commands]
        if len(changes) > before:  # after a crash there are all of them or none
            changes.insert(before, (b"MULTI",))
            changes.append((b"EXEC",))
        return resp.array(replies)

    # The connection and the server

    @command("ping", -1)
    def ping(self, args: list[bytes]) -> bytes:
        if len(args) > 2:
            raise wrong_number(args[0])
        return PONG if len(args) == 1 else resp.bulk(args[1])

    @runs_of("ping", 0)
    def ping_run(self, count: int, columns: tuple[list[bytes], ...]) -> bytes:
        return PONG * count

    @command("echo", 2)
    def echo(self, args: list[bytes]) -> bytes:
        return resp.bulk(args[1])

    @command("select", 2)
    def select(self, args: list[bytes]) -> bytes:
        if integer(args[1]) != 0:  # there is one database
            raise Error(b"ERR DB index is out of range")
        return OK

    @command("hello", -1)
    def hello(self, args: list[bytes]) -> bytes:
        protocol, options = self.protocol, args[2:]
        if len(args) > 1:
            protocol = integer(args[1], b"ERR Protocol version is not an integer or out of range")
            if protocol not in (2, 3):
                raise Error(b"NOPROTO unsupported protocol version")
        while options:
            option = options[0].upper()
            if option == b"AUTH" and len(options) > 2:
                if options[1] != b"default":  # the user who, in a new Redis, needs no password
                    raise Error(b"WRONGPASS invalid username-password pair or user is disabled.")
                del options[:3]
            elif option == b"SETNAME" and len(options) > 1:
                self.set_name(options[1])
                del options[:2]
            else:
                raise Error(b"ERR Syntax error in HELLO option '%b'" % options[0])
        self.protocol = protocol
        about = {"server": "redis", "version": VERSION, "proto": protocol, "id": self.id}
        return resp.encode(about | {"mode": "standalone", "role": "master", "modules": []}, protocol)

    @command("client", -2)
    def client(self, args: list[bytes]) -> bytes:
        match args[1].upper(), *args[2:]:
            case [b"ID"]:
                return resp.integer(self.id)
            case [b"GETNAME"]:
                return resp.bulk(self.name or None, self.protocol)
            case [b"SETNAME", name]:
                self.set_name(name)
                return OK
            case [b"SETINFO", _, _]:
                return OK
        raise misused(args, b"ID", b"GETNAME", b"SETNAME", b"SETINFO")

    def set_name(self, name: bytes) -> None:
        if re.search(rb"[^!-~]", name):
            raise Error(b"ERR Client names cannot contain spaces, newlines or special characters.")
        self.name = name

    @command("command", -1)
    def describe(self, args: list[bytes]) -> bytes:
        match [arg.upper() for arg in args[1:]]:
            case []:
                return resp.encode([[command.name, command.arity, [], 0, 0, 0] for command in COMMANDS.values()])
            case [b"COUNT"]:
                return resp.integer(len(COMMANDS))
            case [b"DOCS", *_]:
                return resp.map([], self.protocol)
        raise misused(args, b"COUNT")

    @command("config", -2)
    def config(self, args: list[bytes]) -> bytes:
        match args[1].upper(), *args[2:]:
            case [b"GET", _, *_]:
                config = self.server.config
                names = [name for name in config for pattern in args[2:] if glob(pattern.lower())(name)]
                return resp.encode({name: config[name] for name in names}, self.protocol)
        raise misused(args, b"GET")

    @command("info", -1)
    def info(self, args: list[bytes]) -> bytes:
        sections = {arg.lower() for arg in args[1:]} - {b"all", b"default", b"everything"}
        keyspace = f"db0:keys={len(self.db.values)},expires={len(self.db.deadlines)},avg_ttl=0"
        lines = {
            b"server": f"# Server\r\nredis_version:{VERSION}\r\nprocess_id:{os.getpid()}\r\n",
            b"clients": f"# Clients\r\nconnected_clients:{len(self.server.clients)}\r\n",
            b"keyspace": f"# Keyspace\r\n{keyspace}\r\n",
        }
        return resp.bulk("\r\n".join(text for section, text in lines.items() if section in (sections or lines)))

    @command("quit", -1, queued=False)
    def quit(self, args: list[bytes]) -> bytes:
        raise Quit(OK)

    @command("shutdown", -1, queued=False)
    def shutdown(self, args: list[bytes]) -> bytes:
        options = {arg.upper() for arg in args[1:]}
        if self.queue is not None:
            raise Error(b"ERR Command not allowed inside a transaction")
        if options - {b"SAVE", b"NOSAVE", b"NOW", b"FORCE"} or options >= {b"SAVE", b"NOSAVE"}:
            raise Error(SYNTAX)
        self.server.stopping = True
        raise Quit(b"")


# The append-only file

HEADER = re.compile(rb"([*$])(0|[1-9][0-9]{0,9})\r\n")
UNFINISHED_HEADER = re.compile(rb"([*$]([0-9]+\r?)?)?\Z")
HIDDEN_COMMAND = re.compile(rb"\r\n\*[1-9][0-9]*\r\n\$")


def read_command(data: bytes, at: int) -> tuple[list[bytes], int]:
    """Return the command at an offset, and the offset behind it.

    Raises:
        EOFError: the data end inside the command.
        ValueError: this is no command.
    """

    def number(mark: bytes) -> int:
        nonlocal at
        header = HEADER.match(data, at)
        if header is not None and header[1] == mark:
            at = header.end()
            return int(header[2])
        raise EOFError if UNFINISHED_HEADER.match(data, at) else ValueError

    args: list[bytes] = []
    for _ in range(number(b"*")):
        end = number(b"$") + at
        if end + 2 > len(data):
            # With more commands behind it this is not the end of a write, but a size that is wrong.
            raise ValueError if HIDDEN_COMMAND.search(data, at) else EOFError
        if data[end : end + 2] != b"\r\n":
            raise ValueError
        args.append(data[at:end])
        at = end + 2
    if not args:
        raise ValueError
    return args, at


class AppendOnlyFile:
    """The changes, as commands that make them again.

    What is not known to be on the disk is kept, and all of it is written again after a failure: a
    sync that succeeds says nothing of what the failed one before it has lost.
    """

    def __init__(self, path: str, fsync: str, db: Database) -> None:
        self.path = path
        self.fsync = fsync
        self.db = db
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"{path} is in use by another server")
        directory = os.open(os.path.dirname(path), os.O_RDONLY)
        os.fsync(directory)  # a new file is safe when its name is
        os.close(directory)
        self.safe = 0  #: up to here the file is on the disk
        self.kept = bytearray()  #: what comes behind it
        self.written = 0  #: how much of that the file has
        self.rewritten = False  #: whether all of it was written since the last failure
        self.syncer = ThreadPoolExecutor(max_workers=1)
        self.syncing: tuple[Future[None], int] | None = None  #: a sync, and how much of `kept` it is for
        self.next_sync = 0.0

    def load(self, client: Client) -> None:
        """Execute the commands in the file. Of a write that was interrupted, what there is gets cut off."""
        with open(self.path, "rb") as file:
            data = file.read()
        at = count = 0
        try:
            while at < len(data):
                (name, *args), behind = read_command(data, at)
                known = COMMANDS.get(name.upper())
                if known is None or not (known.writes or known.name in (b"multi", b"exec")):
                    raise ValueError  # a read is not written here: it was a change
                if b"-ERR" in client.execute([name.upper(), *args]):
                    raise ValueError
                at = behind
                count += 1
                if client.queue is None:  # inside a transaction there is no place to cut
                    self.safe = at
        except EOFError:
            pass
        except ValueError:
            sys.exit(f"{self.path} is damaged: at byte {at} there is no command that can be executed")
        if self.safe < len(data):
            print(f"{self.path}: cut at byte {self.safe}; an unfinished write of {len(data) - self.safe} was behind it")
            os.ftruncate(self.fd, self.safe)
        print(f"{self.path}: loaded {count} commands, {len(self.db.values)} keys")
        self.db.changes = []

    def save(self) -> None:
        """Write what has changed. With `always` it is on the disk when this returns."""
        if self.db.changes:
            self.kept += b"".join([b"*%d\r\n" % len(change) + resp.bulks(change) for change in self.db.changes])
            self.db.changes.clear()
            if not self.db.trouble:
                self.write(self.written)

    def write(self, start: int) -> bool:
        """Write what is kept, from an offset in it; return whether that worked."""
        try:
            while start < len(self.kept):
                start += os.pwrite(self.fd, self.kept[start:], self.safe + start)
            if self.fsync == "always":
                fdatasync(self.fd)
        except OSError as error:
            with contextlib.suppress(OSError):  # else load() will do it
                os.ftruncate(self.fd, self.safe + self.written)
            self.fail(error)
            return False
        self.written, self.rewritten = start, True
        if self.fsync != "everysec":
            self.confirm(start)
        return True

    def tick(self) -> None:
        """Do what `everysec` asks for, and try again what has failed."""
        if self.syncing is not None:
            sync, nbytes = self.syncing
            if not sync.done():
                return
            self.syncing = None
            try:
                sync.result()
            except OSError as error:
                self.fail(error)
            else:
                self.confirm(nbytes)
        if self.kept and time.monotonic() >= self.next_sync:
            self.next_sync = time.monotonic() + 1.0
            if self.db.trouble and not self.write(0):
                return
            if self.fsync == "everysec":
                self.syncing = self.syncer.submit(fdatasync, self.fd), self.written

    def confirm(self, nbytes: int) -> None:
        """Forget what is safe."""
        self.safe += nbytes
        self.written -= nbytes
        del self.kept[:nbytes]
        if self.db.trouble and self.rewritten:
            self.db.trouble = b""
            log.warning("%s can be written again", self.path)

    def fail(self, error: OSError) -> None:
        """Refuse changes from here on; with `always`, stop."""
        if self.fsync == "always":
            sys.exit(f"cannot write {self.path}: {error.strerror}")
        self.rewritten = False
        if not self.db.trouble:
            log.error("cannot write %s: %s; changes are refused until it works again", self.path, error.strerror)
        self.db.trouble = f"MISCONF Errors writing to the AOF file: {error.strerror}".encode()

    def close(self) -> None:
        """Leave everything on the disk."""
        self.save()
        self.syncer.shutdown()
        self.fsync = "always"
        self.write(0)
        os.close(self.fd)


# The server


class Server:
    """What the callbacks share: serve hands it to each of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.db = Database()
        self.clients: dict[int, Client] = {}
        self.stopping = False
        self.greeting = ""
        self.file: AppendOnlyFile | None = None
        names = ("port", "appendonly", "appendfsync", "dir")
        self.config = {name.encode(): str(getattr(options, name)).encode() for name in names}
        self.config |= {b"save": b"", b"databases": b"1"}
        if options.appendonly == "yes":
            self.file = AppendOnlyFile(os.path.join(options.dir, "appendonly.aof"), options.appendfsync, self.db)
            self.file.load(Client(0, self))

    def stop(self, *args: object) -> None:
        """Let the next tick be the last one."""
        self.stopping = True


def accept(id: int, addr: str, wake: evio.Wake, server: Server) -> None:
    server.clients[id] = Client(id, server)


def handle(id: int, runs: list[resp.Run], server: Server) -> tuple[list[bytes], bool]:
    if server.stopping:
        return [], False
    client = server.clients[id]
    server.db.now = time.time_ns() // 1_000_000
    replies = client.run(runs)
    if server.file is not None:
        server.file.save()
    return replies, client.open


def closed(id: int, err: BaseException | None, server: Server) -> None:
    del server.clients[id]


def ticker(server: Server) -> bool:
    if server.greeting:
        print(server.greeting, flush=True)
        server.greeting = ""
    server.db.now = time.time_ns() // 1_000_000
    server.db.sweep()
    if server.file is not None:
        server.file.save()
        server.file.tick()
    return not server.stopping


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--port", type=int, default=6380, help="TCP port")
    parser.add_argument("--unix", metavar="PATH", help="listen on a unix socket, not on a port")
    parser.add_argument("--appendonly", choices=("yes", "no"), default="no", help="whether the data are kept in a file")
    parser.add_argument("--appendfsync", choices=("always", "everysec", "no"), default="everysec")
    parser.add_argument("--dir", default=".", help="where that file, appendonly.aof, is")
    parser.add_argument("--compat", action="store_true", help="serve with the portable engine")
    options = parser.parse_args()
    net, addr, how = ("unix", options.unix, "-s") if options.unix else ("tcp", f":{options.port}", "-p")
    try:
        server = Server(options)
        server.greeting = f"listening on {addr}; talk to it with: redis-cli {how} {addr.removeprefix(':')}"
        signal.signal(signal.SIGINT, server.stop)
        signal.signal(signal.SIGTERM, server.stop)
        if options.compat:
            net += "-compat"
        try:
            evio.serve(net, addr, handle, accept, closed, ticker, server, frame=resp.Runs(COMMANDS))
        finally:
            if server.file is not None:
                server.file.close()
    except OSError as error:
        sys.exit(f"redis server: {error.strerror}")


if __name__ == "__main__":
    main()
