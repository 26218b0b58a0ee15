"""Situations 31 to 37: the append-only file of the Redis clone.

They are about processes and a disk that are real, but for what only a library in the same process can do in time.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import errno
import os
import random
import re
import selectors
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import DEADLINE, connect, eventually
from isolated.redis_inside import imported, opened
from server.redis_support import Running, redis_example, request, run_example

from .situation import Run, situation
from .strace import LOST, SAFE, Disk, calls, strace
from .tools import milliseconds, percentile

POLICIES = ("always", "everysec", "no")


class Refused(str):
    """A reply that is an error."""


class Talk:
    """A client that sends commands and reads what it is answered."""

    def __init__(self, server: Running) -> None:
        self.sock = connect(("127.0.0.1", server.port))
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *args: object) -> None:
        self._file.close()
        self.sock.close()

    def ask(self, *args: bytes | str) -> Any:
        """Return the reply to a command; ConnectionError if there is none."""
        return self.ask_all([args])[0]

    def ask_all(self, commands: list[Any]) -> list[Any]:
        """Return the replies to commands that are sent together."""
        self.sock.sendall(b"".join(request(*command) for command in commands))
        return [self._reply() for _ in commands]

    def _reply(self) -> Any:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the server has gone")
        kind, text = line[:1], line[1:-2]
        if kind == b"-":
            return Refused(text.decode())
        if kind == b"+":
            return text
        number = int(text)
        if kind == b":":
            return number
        if kind == b"$":
            return None if number < 0 else self._file.read(number + 2)[:-2]
        assert kind == b"*", line
        return [self._reply() for _ in range(number)]


class Folder:
    """Where the server's file is, and how to start a server on it."""

    def __init__(self, path: str, engine: str) -> None:
        self.path = Path(path)
        self.file = self.path / "appendonly.aof"
        self.trace = self.path / "trace"
        self._engine = engine

    def serve(self, fsync: str, under: list[str] | None = None) -> contextlib.AbstractContextManager[Running]:
        options = ["--appendonly", "yes", "--appendfsync", fsync, "--dir", str(self.path)]
        return redis_example(self._engine, *options, under=under or [])


@contextlib.contextmanager
def folder(run: Run) -> Iterator[Folder]:
    with tempfile.TemporaryDirectory(prefix="appendonly-") as path:
        yield Folder(path, run.engine)


def whole(example: ModuleType, data: bytes) -> int:
    """Return how many commands a file has, asserting that nothing in it is torn."""
    at = count = 0
    while at < len(data):
        _, at = example.read_command(data, at)
        count += 1
    return count


# 31


@situation(31, "appendfsync always", light={"exchanges": 150}, heavy={"exchanges": 10_000})
def always_syncs_first(run: Run, exchanges: int) -> str:
    """fdatasync before the reply: for every number that a client was told, the sync that covers it had ended."""
    step = 10**9  # client 3 counts from 3,000,000,000 on, so that a number says whose it is
    with folder(run) as place:
        with place.serve("always", strace(place.trace)) as server, contextlib.ExitStack() as stack:
            talks = [stack.enter_context(Talk(server)) for _ in range(10)]
            for number, talk in enumerate(talks, 1):
                talk.ask("SET", f"n:{number}", str(number * step))
            for done in range(exchanges):
                number = run.random.randrange(len(talks))
                key, talk = f"n:{number + 1}", talks[number]
                among = [("SET", "a", "x" * run.random.randrange(2000)), ("DEL", "a"), ("GET", "a"), ("INCR", key)]
                batch = [run.random.choice(among) for _ in range(run.random.randrange(5))]
                if run.random.random() < 0.2:
                    batch = [("MULTI",), *batch, ("EXEC",)]
                talk.ask_all([*batch, ("INCR", key)])
                run.progress(done, exchanges)
        disk, written, safe = Disk(), Counter[int](), Counter[int]()
        replies = 0
        for what, call in calls(place.trace):
            if call.path == str(place.file):
                disk.follow(what, call)
                if what == "ends" and call.name == "pwrite64":
                    assert call.result == len(call.data)
                    for found in re.findall(rb"\r\n([0-9]{10,11})\r\n", call.data):
                        written[int(found) // step] = int(found)
                elif what == "begins" and call.name == "fdatasync":
                    begun = written.copy()
                elif what == "ends" and call.name == "fdatasync" and call.result == 0:
                    safe = begun
            elif what == "begins":
                for found in re.findall(rb":([0-9]{10,11})\r\n", call.data):
                    told = int(found)
                    assert told <= safe[told // step], f"{told} was told before it was safe; {safe[told // step]} was"
                    replies += 1
        assert replies >= exchanges
        assert set(disk.states) == {SAFE}
        return f"{replies:,} numbers told, each behind its fdatasync; {disk.syncs:,} of them"


# 32


@situation(32, "kill -9 under 50 writers", light={"kills": 3, "clients": 50}, heavy={"kills": 100, "clients": 50})
def kill_under_writers(run: Run, kills: int, clients: int) -> str:
    """No acknowledged write is lost, by any policy: what was written is the system's to keep."""
    acknowledged = Counter[int]()  # the last number that each of the writers was told
    sent = Counter[int]()  # the last one that it has asked for
    total = 0
    with folder(run) as place:
        for done in range(kills):
            if done % 30 == 0:  # a file that only grows would take ever longer to load
                place.file.unlink(missing_ok=True)
                acknowledged.clear()
                sent.clear()
            with place.serve(POLICIES[done % 3]) as server:
                _check_counters(server, clients, acknowledged, sent)
                total += _write_until_killed(run, server, clients, acknowledged, sent)
            run.progress(done, kills)
        with place.serve("always") as server:
            _check_counters(server, clients, acknowledged, sent)
    return f"{total:,} acknowledged writes, none lost"


def _check_counters(server: Running, clients: int, acknowledged: Counter[int], sent: Counter[int]) -> None:
    with Talk(server) as talk:
        for number in range(clients):
            counter, announced = (int(talk.ask("GET", f"{kind}:{number}") or 0) for kind in "ca")
            told, asked = acknowledged[number], sent[number]
            assert told <= counter <= asked, f"writer {number} was told {told}, asked for {asked}; {counter} is left"
            assert announced in (counter, counter + 1), f"{announced} was set before the counter was {counter}"
            acknowledged[number] = sent[number] = counter


def _write_until_killed(run: Run, server: Running, clients: int, acknowledged: Counter[int], sent: Counter[int]) -> int:
    """Let as many clients write, kill the server amid that, and return how many writes were acknowledged."""
    before = acknowledged.total()
    kill_at = before + clients + run.random.randrange(2000)
    killed = False
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(("127.0.0.1", server.port))) for _ in range(clients)]
        left = [b""] * clients  # of replies that have come in part

        def ask(number: int) -> None:
            """Announce a number and count up to it, once or several times."""
            commands = []
            for _ in range(run.random.choice([1, 1, 1, 10])):
                sent[number] += 1
                commands += [request("SET", f"a:{number}", str(sent[number])), request("INCR", f"c:{number}")]
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sockets[number].sendall(b"".join(commands))

        for number, sock in enumerate(sockets):
            selector.register(sock, selectors.EVENT_READ, number)
            ask(number)
        while selector.get_map():
            ready = selector.select(DEADLINE)
            assert ready, "no reply came in time"
            for number in (key.data for key, _ in ready):
                try:
                    data = sockets[number].recv(65536)
                except ConnectionResetError:
                    data = b""
                if not data:
                    assert killed, "the server has closed a connection"
                    selector.unregister(sockets[number])
                    continue
                *replies, left[number] = (left[number] + data).split(b"\r\n")
                for reply in replies:
                    if reply != b"+OK":
                        assert int(reply[1:]) == acknowledged[number] + 1
                        acknowledged[number] += 1
                if not killed and acknowledged[number] == sent[number]:
                    ask(number)
            if not killed and acknowledged.total() >= kill_at:
                server.kill()
                killed = True
    return acknowledged.total() - before


# 33


@situation(
    33,
    "everysec, a slow disk",
    light={"seconds": 0.8, "delay": 1.0, "p99": 0.1},
    heavy={"seconds": 30.0, "delay": 3.0, "p99": 0.02},
)
def slow_disk(run: Run, seconds: float, delay: float, p99: float) -> str:
    """The loop never waits for the disk: while each fdatasync takes 3 s, the p99 of GET and of SET is at most 20 ms."""
    times: dict[str, list[float]] = {"GET": [], "SET": []}
    with folder(run) as place:
        under = strace(place.trace, f"fdatasync:delay_enter={delay * 1e6:.0f}", calls="fdatasync")
        with place.serve("everysec", under) as server, contextlib.ExitStack() as stack:
            talks = [stack.enter_context(Talk(server)) for _ in range(10)]
            began = time.monotonic()
            while (now := time.monotonic()) < began + seconds:
                talk = run.random.choice(talks)
                for command, expected in ((("SET", "a", "1"), b"OK"), (("GET", "a"), b"1")):
                    before = time.monotonic()
                    assert talk.ask(*command) == expected
                    times[command[0]].append(time.monotonic() - before)
                run.progress(now - began, seconds)
        syncs = [call for what, call in calls(place.trace) if what == "ends"]
        assert len(syncs) >= max(2, seconds / (delay + 2)), f"{len(syncs)} syncs"  # the last one is that of the end
        assert all(call.result == 0 and call.ended - call.began >= delay for call in syncs)
    longest = max(max(values) for values in times.values())
    assert longest < 0.75 * delay, f"the loop has waited for the disk: a reply took {milliseconds(longest)}"
    figures = {command: percentile(values, 0.99) for command, values in times.items()}
    told = ", ".join(f"{command}'s p99 {milliseconds(figure)}" for command, figure in figures.items())
    assert max(figures.values()) <= p99, f"{told} during {len(syncs)} slow syncs"
    return f"{told}, the longest {milliseconds(longest)}, {len(syncs)} syncs of {delay:g} s"


@situation(33, "everysec, what a power failure loses", light={"seconds": 2.2}, heavy={"seconds": 30.0})
def everysec_is_two_seconds(run: Run, seconds: float) -> str:
    """Whenever the power fails: what was written two seconds before is on the disk."""
    most = 2.0
    with folder(run) as place:
        with place.serve("everysec", strace(place.trace, calls="pwrite64,fdatasync")) as server, Talk(server) as talk:
            began = time.monotonic()
            while (now := time.monotonic()) < began + seconds:
                talk.ask_all([("SET", "a", "x" * run.random.randrange(100))] * 10)
                run.progress(now - began, seconds)
            server.kill()
        events = list(calls(place.trace))
        # The writes before each sync that has worked, and when it had.
        covered: list[tuple[int, float]] = []
        writes: list[float] = []
        upto = dict[int, int]()
        for what, call in events:
            if call.name == "pwrite64" and what == "ends":
                writes.append(call.ended)
            elif what == "begins":
                upto[id(call)] = len(writes)
            elif call.result == 0:
                covered.append((upto[id(call)], call.ended))
        end = max(call.ended for _, call in events)
        exposures = []
        for index, written in enumerate(writes):
            sync = bisect.bisect_right(covered, index, key=lambda one: one[0])
            exposures.append((covered[sync][1] if sync < len(covered) else end) - written)
        assert covered
        assert max(exposures) <= most, f"what was written was safe only after {max(exposures):.2f} s"
    return f"{len(writes):,} writes, {len(covered)} syncs; the longest a write was at risk is {max(exposures):.2f} s"


# 34 and 35


def _units(numbers: random.Random, count: int) -> list[bytes]:
    """Return that many commands, or transactions of some, as the file has them."""

    def one() -> bytes:
        key = b"k:%d" % numbers.randrange(50)
        value = numbers.choice(
            [
                numbers.randbytes(numbers.randrange(20)),
                numbers.randbytes(numbers.randrange(3000)),
                "ä€𝄞".encode() * numbers.randrange(200),
                b"\r\n" * numbers.randrange(100),
                b"$1\r\n*",
            ]
        )
        deadline = b"%d" % numbers.randrange(2**43, 2**44)
        return numbers.choice(
            [
                request("SET", key, value),
                request("SET", key, value, "PXAT", deadline),
                request("MSET", key, value, key + b"'", value),
                request("APPEND", key, value),
                request("DEL", key, b"none"),
                request("PEXPIREAT", key, deadline),
                request("PERSIST", key),
            ]
        )

    units = []
    for _ in range(count):
        if numbers.random() < 0.2:
            unit = b"".join([request("MULTI"), *(one() for _ in range(numbers.randint(1, 5))), request("EXEC")])
        else:
            unit = one()
        units.append(unit)
    return units


def _contents(server: Any) -> tuple[dict[bytes, bytes], dict[bytes, int]]:
    return dict(server.db.values), dict(server.db.deadlines)


@situation(
    34, "a torn tail", light={"units": 60, "cuts": 60, "starts": 1}, heavy={"units": 700, "cuts": 2000, "starts": 20}
)
def torn_tail(run: Run, units: int, cuts: int, starts: int) -> str:
    """Wherever a file ends: it loads to the last whole command, says where it was cut, and appends continue."""
    pieces = _units(run.random, units)
    data = b"".join(pieces)
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    with imported() as example, folder(run) as place, contextlib.ExitStack() as stack:
        output = stack.enter_context(tempfile.TemporaryFile("w+"))
        stack.enter_context(contextlib.redirect_stdout(output))
        states = []  # what there is behind each unit
        place.file.write_bytes(b"")
        with opened(example, place.path) as server:
            client = server.server.clients[1]
            for piece in [b"", *pieces]:
                at = 0
                while at < len(piece):
                    args, at = example.read_command(piece, at)
                    client.execute(args)
                states.append(_contents(server))
        for done, length in enumerate(sorted(run.random.choices(range(len(data)), k=cuts))):
            count = bisect.bisect_right(ends, length) - 1
            place.file.write_bytes(data[:length])
            output.seek(0)
            output.truncate()
            with opened(example, place.path) as server:
                assert _contents(server) == states[count], f"cut at {length}"
                server.send("SET next 1")
            assert place.file.read_bytes() == data[: ends[count]] + request("SET", "next", "1"), f"cut at {length}"
            output.seek(0)
            told = f"cut at byte {ends[count]}; an unfinished write of {length - ends[count]} was behind it"
            assert (told in output.read()) == (length != ends[count])
            run.progress(done, cuts)
    with folder(run) as place:
        for _ in range(starts):
            count = run.random.randrange(units)
            place.file.write_bytes(data[: run.random.randrange(ends[count] + 1, ends[count + 1])])
            with place.serve("everysec") as running, Talk(running) as talk:
                assert running.output[0].startswith(f"{place.file}: cut at byte {ends[count]};")
                assert talk.ask("SET", "next", "1") == b"OK"
                running.kill()
            with place.serve("everysec") as running, Talk(running) as talk:
                assert re.search(r"loaded \d+ commands", running.output[0])
                keys = [b"next", *states[count][0]]
                assert talk.ask("MGET", *keys) == [b"1", *states[count][0].values()]
    return f"{len(data):,} bytes cut at {cuts:,} places"


@situation(
    35,
    "corruption inside",
    light={"units": 60, "flips": 150, "starts": 1},
    heavy={"units": 700, "flips": 2000, "starts": 20},
)
def corruption(run: Run, units: int, flips: int, starts: int) -> str:
    """The server refuses to start and says where, or executes every command; what it has not read stays as it is.

    It is the second where a byte of a key or of a value is another one: nothing tells. Nor does anything tell the last
    command with a damaged size from one that was not written to its end; so that is left as it is here.
    """
    pieces = [*_units(run.random, units), *[request("SET", "end", str(number)) for number in range(3)]]
    data = b"".join(pieces)
    last = len(data) - len(pieces[-1])
    refused = 0
    with imported() as example, folder(run) as place, contextlib.ExitStack() as stack:
        output = stack.enter_context(tempfile.TemporaryFile("w+"))
        stack.enter_context(contextlib.redirect_stdout(output))
        starts_at = list[int]()
        inside = set[int]()  # of keys and values
        end = 0
        while end < len(data):
            starts_at.append(end)
            args, end = example.read_command(data, end)
            at = starts_at[-1] + len(b"*%d\r\n" % len(args))
            for number, arg in enumerate(args):
                at += len(b"$%d\r\n" % len(arg))
                inside.update(range(at, at + len(arg)) if number else ())
                at += len(arg) + 2
        for done in range(flips):
            at = run.random.randrange(last)
            if run.random.random() < 0.5:  # in what frames the values, of which there is little
                at = run.random.choice(starts_at[:-1]) + run.random.randrange(20)
            byte = run.random.choice([*{0, ord("0"), ord("9"), ord("G"), ord("\n"), data[at] ^ 1} - {data[at]}])
            damaged = data[:at] + bytes([byte]) + data[at + 1 :]
            place.file.write_bytes(damaged)
            output.seek(0)
            output.truncate()
            told = ""
            try:
                with opened(example, place.path):
                    pass
            except SystemExit as error:
                told = str(error)
            if told:
                where = re.search(r"is damaged: at byte (\d+) there is no command", told)
                assert where is not None, told
                # Where the damaged command begins, or a later one where it was read on from a wrong size.
                begins = starts_at[bisect.bisect_right(starts_at, at) - 1]
                assert int(where[1]) >= begins, f"byte {at} is damaged: {told}"
                refused += 1
            else:
                output.seek(0)
                loaded = output.read()
                assert f"loaded {len(starts_at)} commands" in loaded, f"byte {at} was damaged: {loaded}"
                around = damaged[max(0, at - 20) : at + 20]
                assert at in inside, f"a byte was damaged that is neither a key's nor a value's: {around!r}"
            assert place.file.read_bytes() == damaged
            run.progress(done, flips)
    with folder(run) as place:
        for _ in range(starts):
            begin = run.random.choice(starts_at[:-1])
            damaged = data[:begin] + b"\xff" + data[begin + 1 :]
            place.file.write_bytes(damaged)
            ended = run_example("redis_server.py", "--appendonly", "yes", "--dir", str(place.path))
            told = f"{place.file} is damaged: at byte {begin} there is no command that can be executed\n"
            assert (ended.returncode, ended.stderr) == (1, told)
            assert place.file.read_bytes() == damaged
    assert refused > flips // 10
    return f"{flips:,} damaged bytes of {len(data):,}: refused {refused:,}, the others were in keys and values"


# 36


@contextlib.contextmanager
def small_disk(run: Run) -> Iterator[Folder]:
    """Give a file system of 1 MiB that only this process and its children see, and that is gone when they are."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int) -> None:
        what = "this needs a small tmpfs of its own, which root, or a user who may have namespaces, can mount"
        assert result == 0, f"{what}: {os.strerror(ctypes.get_errno())}"

    user = (os.geteuid(), os.getegid())
    clone_newns, clone_newuser, ms_rec, ms_private = 0x00020000, 0x10000000, 0x4000, 1 << 18
    check(libc.unshare(clone_newns if user[0] == 0 else clone_newns | clone_newuser))
    if user[0] != 0:
        Path("/proc/self/setgroups").write_text("deny")
        for name, own in zip(("uid_map", "gid_map"), user, strict=True):
            Path("/proc/self", name).write_text(f"0 {own} 1")
    check(libc.mount(b"none", b"/", None, ms_rec | ms_private, None))
    with tempfile.TemporaryDirectory(prefix="appendonly-") as path:
        check(libc.mount(b"appendonly", path.encode(), b"tmpfs", 0, b"size=1m"))
        try:
            yield Folder(path, run.engine)
        finally:
            mnt_detach = 2
            check(libc.umount2(path.encode(), mnt_detach))


def _fill(place: Folder, leave: int) -> None:
    """Let a file take what there is of the disk, but for a few bytes."""
    with open(place.path / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass
    room = (place.path / "filler").stat().st_size
    os.truncate(place.path / "filler", max(0, room - leave) // 4096 * 4096)


NO_SPACE = "No space left on device"
MISCONF = "MISCONF Errors writing to the AOF file: "


@situation(36, "a full disk", light={"rounds": 3}, heavy={"rounds": 60})
def full_disk(run: Run, rounds: int) -> str:
    """Always stops with an error, the others refuse changes until there is room; nothing in the file is torn."""
    refused = 0
    with imported() as example, small_disk(run) as place:
        for done in range(rounds):
            fsync = POLICIES[done % 3]
            place.file.unlink(missing_ok=True)
            model = dict[str, bytes]()

            def put(talk: Talk, model: dict[str, bytes] = model) -> Any:
                """Set another key; remember it if that is acknowledged."""
                key, value = f"k:{len(model)}", run.random.randbytes(run.random.randrange(20_000))
                reply = talk.ask("SET", key, value)
                if reply == b"OK":
                    model[key] = value
                assert sum(map(len, model.values())) < 2**20, "more was acknowledged than there is room for"
                return reply

            with place.serve(fsync) as server, Talk(server) as talk:
                assert put(talk) == b"OK"
                _fill(place, leave=run.random.randrange(200_000))
                if fsync == "always":
                    with contextlib.suppress(ConnectionResetError):
                        while True:
                            assert put(talk) == b"OK"
                    assert server.wait() == (1, f"cannot write {place.file}: {NO_SPACE}\n")
                    assert whole(example, place.file.read_bytes()) == len(model)
                else:
                    while (reply := put(talk)) == b"OK":
                        pass
                    assert (reply, type(reply)) == (MISCONF + NO_SPACE, Refused)
                    # What did not fit is kept, and nothing of it is in the file.
                    assert whole(example, place.file.read_bytes()) == len(model) - 1
                    for _ in range(run.random.randrange(20)):
                        key = run.random.choice([*model])
                        assert talk.ask("DEL", key) == MISCONF + NO_SPACE
                        assert talk.ask("GET", key) == model[key]
                        refused += 1
                    (place.path / "filler").unlink()
                    eventually(lambda talk=talk, put=put: put(talk) == b"OK")  # type: ignore[misc]
                    assert whole(example, place.file.read_bytes()) == len(model)
                    os.kill(server.pid, signal.SIGKILL)
                    code, told = server.wait()
                    assert code == -signal.SIGKILL
                    assert [line.partition(str(place.file))[2] for line in told.splitlines()] == [
                        f": {NO_SPACE}; changes are refused until it works again",
                        " can be written again",
                    ]
            with place.serve(fsync) as server, Talk(server) as talk:  # for always the disk is still full
                assert talk.ask("DBSIZE") == len(model)
                assert talk.ask("MGET", *model) == [*model.values()]
                (place.path / "filler").unlink(missing_ok=True)
            run.progress(done, rounds)
    return f"{refused:,} changes refused, none lost that was acknowledged"


@situation(36, "a disk that fails", light={"rounds": 3}, heavy={"rounds": 50})
def failing_disk(run: Run, rounds: int) -> str:
    """A write or a sync fails with EIO, once or several times: as for a full disk; and what a failed sync may
    have lost is never taken for safe because a later one succeeds."""
    kinds = [
        ("always", "pwrite64"),
        ("always", "fdatasync"),
        ("everysec", "fdatasync"),
        ("everysec", "pwrite64"),
        ("no", "pwrite64"),
    ]
    failures = 0
    why = os.strerror(errno.EIO)
    with imported() as example:
        for done in range(rounds):
            fsync, name = kinds[done % len(kinds)]
            first = 1 if fsync == "everysec" else run.random.randint(1, 50)
            times = run.random.choice([1, 1, 2])
            acknowledged = 0
            with folder(run) as place:
                under = strace(place.trace, f"{name}:error=EIO:when={first}..{first + times - 1}")
                with place.serve(fsync, under) as server, Talk(server) as talk:
                    if fsync == "always":
                        with contextlib.suppress(ConnectionResetError):
                            while acknowledged < 100:
                                assert talk.ask("SET", "a", str(acknowledged + 1)) == b"OK"
                                acknowledged += 1
                        assert acknowledged == first - 1
                        assert server.wait() == (1, f"cannot write {place.file}: {why}\n")
                    else:
                        refused = healed = False
                        deadline = time.monotonic() + DEADLINE
                        while not healed:
                            reply = talk.ask("SET", "a", str(acknowledged + 1))
                            if reply == b"OK":
                                acknowledged += 1
                                healed = refused
                            else:
                                assert reply == MISCONF + why
                                refused = True
                            assert time.monotonic() < deadline
                        # Not by SIGTERM: strace counts for each thread, and the last sync is in another one.
                        os.kill(server.pid, signal.SIGKILL)
                        code, told = server.wait()
                        assert code == -signal.SIGKILL
                        assert "can be written again" in told
                disk = _check_trace(place)
                assert len(place.file.read_bytes()) == len(disk.states)
                whole(example, place.file.read_bytes())
                failures += times
                with place.serve(fsync) as server, Talk(server) as talk:
                    found = int(talk.ask("GET", "a") or 0)
                    # A change that the server stopped at may be in the file, or not.
                    assert found in (acknowledged, acknowledged + 1) if fsync == "always" else found == acknowledged
            run.progress(done, rounds)
    return f"{failures:,} failures; after none of them a lost write was taken for safe"


def _check_trace(place: Folder) -> Disk:
    """Follow what the server has done, and assert that it never takes for safe what a failed sync may have lost."""
    disk, refusing = Disk(), False
    for what, call in calls(place.trace):
        if call.path == str(place.file):
            disk.follow(what, call)
        elif what == "begins" and call.data.startswith(b"-MISCONF"):
            refusing = True
        elif what == "begins" and call.data.startswith(b"+OK") and refusing:
            assert LOST not in disk.states, (
                "changes are taken again, and what a failed sync may have lost was not rewritten"
            )
            refusing = False
    assert LOST not in disk.states, "at the end there is something that a failed sync may have lost"
    return disk


# 37

FAR = range(1_000_000, 10_000_000)  # milliseconds until what does not expire in time
LATE = 10_000  # milliseconds that a command may take to get to the server


class Model:
    """What the server should have, and what it should answer."""

    def __init__(self, numbers: random.Random) -> None:
        self.numbers = numbers
        self.values = dict[bytes, bytes]()
        self.deadlines = dict[
            bytes, tuple[int, int]
        ]()  #: milliseconds since 1970, the earliest and the latest possible
        self.now = 0  #: the same clock, when the commands are made
        self.soon = 0  #: how many keys were given a deadline that comes soon
        self.expiring = list[
            tuple[int, bytes]
        ]()  #: those of them that nothing was done to since, and when they are gone

    # What clients may ask for

    def commands(self) -> list[list[bytes]]:
        """Return some commands that belong together."""
        numbers = self.numbers
        if numbers.random() < 0.1:
            end = numbers.choice([b"EXEC", b"EXEC", b"DISCARD"])
            return [[b"MULTI"], *(self._command() for _ in range(numbers.randrange(6))), [end]]
        name = self._command()[0]
        return [command for _ in range(numbers.choice([1, 1, 8])) for command in [self._command(name)]]

    def _command(self, wanted: bytes = b"") -> list[bytes]:
        numbers, keys = self.numbers, [b"k:%d" % self.numbers.randrange(40) for _ in range(3)]
        number, flags = (
            b"%d" % numbers.randrange(-99, 99),
            [*filter(None, [numbers.choice([b"", b"NX", b"XX"]), numbers.choice([b"", b"GET"])])],
        )
        values = [numbers.choice([number, numbers.randbytes(numbers.randrange(50)), b"\r\n*1\r\n$4\r\n"]) for _ in keys]
        option = numbers.choice([b"EX", b"PX", b"EXAT", b"PXAT"])
        expire = numbers.choice([b"EXPIRE", b"PEXPIRE", b"EXPIREAT", b"PEXPIREAT"])
        choices = [
            [b"SET", keys[0], values[0]],
            [b"SET", keys[0], values[0], *flags],
            [b"SET", keys[0], values[0], *flags, numbers.choice([b"KEEPTTL", b"keepttl"])],
            [b"SET", keys[0], values[0], *flags, option, self._time(option)],
            [b"MSET", *(part for pair in zip(keys, values, strict=True) for part in pair)],
            [b"GETDEL", keys[0]],
            [b"APPEND", keys[0], values[0]],
            [b"INCR", keys[0]],
            [b"DECR", keys[0]],
            [b"INCRBY", keys[0], number],
            [b"DECRBY", keys[0], number],
            [b"DEL", keys[0]],
            [b"DEL", *keys],
            [expire, keys[0], self._time(expire)],
            [expire, keys[0], b"-1"],
            [b"PERSIST", keys[0]],
        ]
        if numbers.random() < 0.02:
            choices += [[b"FLUSHALL"], [b"FLUSHDB"]] * 10
        chosen = [command for command in choices if wanted in (b"", command[0])]
        return numbers.choice(chosen or choices)

    def _time(self, name: bytes) -> bytes:
        unit = 1 if name.startswith(b"P") else 1000
        after = self.numbers.choice(FAR)
        return b"%d" % ((self.now + after if name.endswith(b"AT") else after) // unit)

    def expire_soon(self) -> list[list[bytes]]:
        """Return commands for a key that is gone a few milliseconds later, and for one that is gone by now."""
        self.soon += 1
        key = b"soon:%d" % self.soon
        commands = self.numbers.choice(
            [[[b"SET", key, b"1", b"PX", b"5"]], [[b"SET", key, b"1"], [b"PEXPIREAT", key, b"%d" % (self.now + 5)]]]
        )
        if self.expiring and self.expiring[0][0] < self.now:
            _, gone = self.expiring.pop(0)
            again = self.numbers.choice([[b"APPEND", gone, b"2"], [b"INCR", gone], [b"SET", gone, b"3", b"KEEPTTL"]])
            self._execute(*again)
            commands.append(again)
        return commands

    # What then happens

    def replies(self, commands: list[list[bytes]]) -> list[Any]:
        """Execute commands; return what is answered."""
        if commands[0] != [b"MULTI"]:
            return [self._execute(*command) for command in commands]
        done = [self._execute(*command) for command in commands[1:-1]] if commands[-1] == [b"EXEC"] else b"OK"
        return [b"OK", *[b"QUEUED"] * (len(commands) - 2), done]

    def _execute(self, name: bytes, *args: bytes) -> Any:
        key = args[0] if args else b""
        old = self.values.get(key)
        match name:
            case b"SET":
                options = [option.upper() for option in args[2:]]
                wanted = not (b"NX" in options and old is not None) and not (b"XX" in options and old is None)
                if wanted:
                    self.values[key] = args[1]
                    if b"KEEPTTL" not in options:
                        self.deadlines.pop(key, None)
                    if options and options[-1].isdigit():
                        self._expire(key, options[-2], int(options[-1]))
                if b"GET" in options:
                    return old
                return b"OK" if wanted else None
            case b"MSET":
                for each, value in zip(args[::2], args[1::2], strict=True):
                    self._remove(each)
                    self.values[each] = value
                return b"OK"
            case b"GETDEL":
                self._remove(key)
                return old
            case b"APPEND":
                self.values[key] = (old or b"") + args[1]
                return len(self.values[key])
            case b"INCR" | b"DECR" | b"INCRBY" | b"DECRBY":
                step = int(args[1]) if len(args) > 1 else 1
                text = b"0" if old is None else old
                if re.fullmatch(rb"0|-?[1-9][0-9]{0,17}", text) is None:
                    return Refused("ERR value is not an integer or out of range")
                number = int(text) + (step if name.startswith(b"I") else -step)
                self.values[key] = b"%d" % number
                return number
            case b"DEL":
                return sum(self._remove(each) for each in args)
            case b"PERSIST":
                return int(self.deadlines.pop(key, None) is not None)
            case b"FLUSHALL" | b"FLUSHDB":
                self.values.clear()
                self.deadlines.clear()
                return b"OK"
        assert name in (b"EXPIRE", b"PEXPIRE", b"EXPIREAT", b"PEXPIREAT"), name
        if old is None:
            return 0
        if int(args[1]) < 0:
            self._remove(key)
        else:
            self._expire(key, name, int(args[1]))
        return 1

    def _remove(self, key: bytes) -> bool:
        self.deadlines.pop(key, None)
        return self.values.pop(key, None) is not None

    def _expire(self, key: bytes, name: bytes, number: int) -> None:
        number *= 1 if name.startswith(b"P") else 1000
        self.deadlines[key] = (
            (number, number) if name.endswith(b"AT") else (self.now + number, self.now + number + LATE)
        )


@situation(37, "every change is logged", light={"kills": 1, "batches": 80}, heavy={"kills": 20, "batches": 400})
def every_change_is_logged(run: Run, kills: int, batches: int) -> str:
    """After a kill and a restart there is what a model of the server has: what was deleted, or has expired, is not."""
    model = Model(run.random)
    executed = looks = 0
    with imported() as example, folder(run) as place, folder(run) as copy:
        tried = {command[0] for _ in range(5000) for command in Model(run.random).commands()}
        untried = {name for name, one in example.COMMANDS.items() if one.writes} - tried
        assert not untried, f"the model does not know {untried}"
        for done in range(kills):
            if done % 5 == 0:  # a file that only grows would take ever longer to load
                place.file.unlink(missing_ok=True)
                model = Model(run.random)
            with place.serve(POLICIES[done % 3]) as server, Talk(server) as talk:
                _check_model(talk, model)
                for batch in range(batches):
                    model.now = time.time_ns() // 1_000_000
                    groups = [model.commands() for _ in range(run.random.randint(1, 20))]
                    expected = [reply for group in groups for reply in model.replies(group)]
                    commands = [command for group in groups for command in group]
                    for command, reply, wanted in zip(commands, talk.ask_all(commands), expected, strict=True):
                        assert reply == wanted, f"{command} was answered {reply}, not {wanted}"
                    talk.ask_all(model.expire_soon())
                    now = time.time_ns() // 1_000_000
                    model.expiring.append((now + 10, b"soon:%d" % model.soon))
                    assert now < model.now + LATE
                    executed += len(commands)
                    if run.random.random() < 12 / batches:  # as if it had been killed here
                        copy.file.write_bytes(place.file.read_bytes())
                        _check_file(example, copy, model)
                        looks += 1
                    run.progress(done + batch / batches, kills)
                server.kill()
        with place.serve("no") as server, Talk(server) as talk:
            _check_model(talk, model)
    return f"{executed:,} commands, looked at {kills + looks:,} times"


def _check_model(talk: Talk, model: Model) -> None:
    """Assert that a server has what the model has."""
    values = {key: talk.ask("GET", key) for key in talk.ask("KEYS", "*")}
    now = time.time_ns() // 1_000_000
    left = {key: talk.ask("PTTL", key) for key in values}
    _compare(model, values, {key: now + each for key, each in left.items() if each != -1})


def _check_file(example: ModuleType, place: Folder, model: Model) -> None:
    """Assert that what is loaded from a file is what the model has."""
    with contextlib.redirect_stdout(None), opened(example, place.path) as server:
        soon = {key for _, key in model.expiring}
        server.send(*(f"GET {key.decode()}" for key in soon))  # which have expired, or may have
        values, deadlines = _contents(server)
    _compare(model, {key: value for key, value in values.items() if key not in soon}, deadlines)


def _compare(model: Model, values: dict[bytes, bytes], deadlines: dict[bytes, int]) -> None:
    assert values == model.values, f"these differ: {dict(values.items() ^ model.values.items())}"
    for key in values:
        assert (key in deadlines) == (key in model.deadlines), f"{key!r} expires or does not"
    for key, (earliest, latest) in model.deadlines.items():
        assert earliest - LATE <= deadlines[key] <= latest + LATE, f"{key!r} expires at another time"
