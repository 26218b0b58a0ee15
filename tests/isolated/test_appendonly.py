"""The append-only file of the Redis clone: what was acknowledged is there after a crash, and nothing half done."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import redis
from isolated.redis_inside import Opened, imported, load, opened
from server.redis_support import converse, redis_example, request, run_example

POLICIES = ("always", "everysec", "no")


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    with imported() as module:
        yield module


# What is in it


def test_shutdown_leaves_everything_in_the_file(engine: str, tmp_path: Path) -> None:
    options = ["--appendonly", "yes", "--appendfsync", "no", "--dir", str(tmp_path)]
    with redis_example(engine, *options) as server, redis.Redis(port=server.port) as client:
        client.set("a", "1")
        assert converse(server.port, request("SHUTDOWN")) == b""
        assert server.wait() == (0, "")
    assert (tmp_path / "appendonly.aof").read_bytes() == request("SET", "a", "1")


def test_what_changes_nothing_is_not_written(example: ModuleType, tmp_path: Path) -> None:
    with opened(example, tmp_path) as server:
        server.send("GET a", "DEL a", "PERSIST a", "EXPIRE a 10", "GETDEL a", "SET a 1 XX", "INCR a b")
        server.send("MULTI", "GET a", "EXEC", "MULTI", "SET a 1", "DISCARD")
        assert (tmp_path / "appendonly.aof").read_bytes() == b""


def test_expiry_is_written_as_a_deletion(example: ModuleType, tmp_path: Path) -> None:
    with opened(example, tmp_path) as server:
        server.send("SET a 1 PXAT 1", "SET b 1 PXAT 1")
        server.send("GET a")
        server.db.sweep()
        server.file.save()
    data = (tmp_path / "appendonly.aof").read_bytes()
    put = [request("SET", key, "1", "PXAT", "1") for key in "ab"]
    assert data == b"".join([*put, request("DEL", "a"), request("DEL", "b")])


def test_names_are_loaded_as_redis_spells_them(example: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_bytes(request("set", "a", "1") + request("Incr", "a"))
    with opened(example, tmp_path) as server:
        assert server.db.values == {b"a": b"2"}


def test_nothing_expires_while_loading(example: ModuleType, tmp_path: Path) -> None:
    """A deadline that has passed since may have been moved by a later command."""
    data = request("SET", "a", "1", "PXAT", "1") + request("PEXPIREAT", "a", "99999999999999")
    assert load(example, tmp_path, data) == {b"a": b"1"}


def test_only_one_server_has_the_file(tmp_path: Path) -> None:
    options = ["--appendonly", "yes", "--dir", str(tmp_path)]
    with redis_example("compat", *options):
        second = run_example("redis_server.py", *options, "--port", "0")
        assert second.returncode == 1
        assert second.stderr == f"{tmp_path}/appendonly.aof is in use by another server\n"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    ended = run_example("redis_server.py", "--appendonly", "yes", "--dir", str(tmp_path / "none"))
    assert ended.returncode == 1
    assert "No such file or directory" in ended.stderr
    assert ended.stderr.count("\n") == 1


# What a crash leaves

COMMANDS = [
    [request("SET", "a", "1")],
    [request("MSET", "b", "2", "c", "\r\n")],
    [request("MULTI"), request("SET", "d", "4"), request("DEL", "a"), request("EXEC")],
    [request("APPEND", "b", "x" * 20)],
]
STATES: list[dict[bytes, bytes]] = [
    {},
    {b"a": b"1"},
    {b"a": b"1", b"b": b"2", b"c": b"\r\n"},
    {b"b": b"2", b"c": b"\r\n", b"d": b"4"},
    {b"b": b"2" + b"x" * 20, b"c": b"\r\n", b"d": b"4"},
]
UNITS = [b"".join(unit) for unit in COMMANDS]
DATA = b"".join(UNITS)
ENDS = [len(b"".join(UNITS[:count])) for count in range(len(UNITS) + 1)]


def test_a_torn_file_is_cut_behind_its_last_whole_command(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "appendonly.aof"
    for length in range(len(DATA) + 1):
        whole = max(count for count, end in enumerate(ENDS) if end <= length)
        assert load(example, tmp_path, DATA[:length]) == STATES[whole]
        assert path.read_bytes() == DATA[: ENDS[whole]]
        told = f"cut at byte {ENDS[whole]};" in capsys.readouterr().out
        assert told == (length not in ENDS)


def test_a_file_that_was_cut_goes_on(engine: str, tmp_path: Path) -> None:
    options = ["--appendonly", "yes", "--dir", str(tmp_path)]
    path = tmp_path / "appendonly.aof"
    path.write_bytes(DATA[:-5])
    with redis_example(engine, *options) as server, redis.Redis(port=server.port) as client:
        torn = len(UNITS[3]) - 5
        assert server.output[0] == f"{path}: cut at byte {ENDS[3]}; an unfinished write of {torn} was behind it\n"
        client.set("e", "5")
    assert path.read_bytes() == DATA[: ENDS[3]] + request("SET", "e", "5")


def test_damage_inside_is_never_skipped(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever byte changes: the server refuses to start, or every command is executed, with another key or value."""
    refused = 0
    for at in range(ENDS[3]):
        for byte in {DATA[at] ^ 1, ord("9"), 0, ord("\n")} - {DATA[at]}:
            damaged = DATA[:at] + bytes([byte]) + DATA[at + 1 :]
            refusal = ""
            try:
                load(example, tmp_path, damaged)
            except SystemExit as error:
                refusal = str(error)
            told = refusal + capsys.readouterr().out
            assert re.search(r"damaged: at byte \d+ there is no command" if refusal else "loaded 7 commands", told), (
                told
            )
            assert (tmp_path / "appendonly.aof").read_bytes() == damaged
            refused += bool(refusal)
    assert refused > ENDS[3]


def test_a_command_that_changes_nothing_is_damage(example: ModuleType, tmp_path: Path) -> None:
    """One byte makes a read of a write, which would be left out silently."""
    damaged = DATA.replace(b"MSET", b"MGET")
    with pytest.raises(SystemExit, match=f"damaged: at byte {ENDS[1]} there is no command"):
        load(example, tmp_path, damaged)


def test_a_torn_value_that_looks_like_commands_is_not_cut(example: ModuleType, tmp_path: Path) -> None:
    """It could as well be a size that is wrong, with changes behind it: rather no start than a loss."""
    data = DATA + request("SET", "f", request("SET", "g", "1") * 2)
    with pytest.raises(SystemExit, match=f"damaged: at byte {ENDS[4]} there is no command"):
        load(example, tmp_path, data[:-5])
    assert (tmp_path / "appendonly.aof").read_bytes() == data[:-5]


@pytest.mark.parametrize("offset", [0, ENDS[1], ENDS[3]])
def test_a_damaged_file_stops_the_start_and_stays_as_it_is(engine: str, tmp_path: Path, offset: int) -> None:
    damaged = DATA[:offset] + b"\xff\xff" + DATA[offset + 2 :]
    (tmp_path / "appendonly.aof").write_bytes(damaged)
    ended = run_example("redis_server.py", "--appendonly", "yes", "--dir", str(tmp_path))
    assert ended.returncode == 1
    told = f"at byte {offset} there is no command that can be executed"
    assert ended.stderr == f"{tmp_path}/appendonly.aof is damaged: {told}\n"
    assert (tmp_path / "appendonly.aof").read_bytes() == damaged


# A disk that fails


class Disk:
    """Stands between the example and the system calls, and fails when told to."""

    def __init__(self, example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, int]] = []  #: "write" with the offset, "sync" with 0
        self.room = sys.maxsize  #: how many bytes a file may have
        self.broken = False  #: whether syncs fail
        self._pwrite, self._fdatasync = os.pwrite, os.fdatasync
        monkeypatch.setattr(os, "pwrite", self._write)
        monkeypatch.setattr(example, "fdatasync", self._sync)

    def _write(self, fd: int, data: bytes, offset: int) -> int:
        self.calls.append(("write", offset))
        if offset >= self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._pwrite(fd, data[: self.room - offset], offset)

    def _sync(self, fd: int) -> None:
        self.calls.append(("sync", 0))
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._fdatasync(fd)


@pytest.fixture
def disk(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(example, monkeypatch)


def test_always_syncs_before_the_reply_and_once_for_what_came_together(
    example: ModuleType, tmp_path: Path, disk: Disk
) -> None:
    with opened(example, tmp_path, "always") as server:
        assert server.send("SET a 1", "SET b 2", "GET a") == b"+OK\r\n+OK\r\n$1\r\n1\r\n"
        assert disk.calls == [("write", 0), ("sync", 0)]
        assert server.send("GET a") == b"$1\r\n1\r\n"
        assert len(disk.calls) == 2


def test_everysec_syncs_within_a_second_or_so(example: ModuleType, tmp_path: Path, disk: Disk) -> None:
    with opened(example, tmp_path) as server:
        server.send("SET a 1")
        assert disk.calls == [("write", 0)]
        server.tick_until(lambda: server.file.safe == len(request("SET", "a", "1")))
        assert disk.calls == [("write", 0), ("sync", 0)]
        server.send("SET b 2")
        server.tick_until(lambda: not server.file.kept)
        assert disk.calls[2:] == [("write", len(request("SET", "a", "1"))), ("sync", 0)]


def test_no_never_syncs_before_the_end(example: ModuleType, tmp_path: Path, disk: Disk) -> None:
    server = Opened(example, tmp_path, "no")
    server.file.load(server.server.clients[1])
    server.send("SET a 1")
    server.file.tick()
    assert disk.calls == [("write", 0)]
    server.file.close()
    assert disk.calls == [("write", 0), ("sync", 0)]


@pytest.mark.parametrize("fault", ["full", "broken"])
def test_always_stops_when_the_disk_fails(example: ModuleType, tmp_path: Path, disk: Disk, fault: str) -> None:
    with opened(example, tmp_path, "always") as server:
        server.send("SET a 1")
        if fault == "full":
            disk.room = server.file.safe + 10
        else:
            disk.broken = True
        with pytest.raises(SystemExit, match=r"cannot write \S+appendonly.aof: "):
            server.send("SET b 2")
    assert (tmp_path / "appendonly.aof").read_bytes() == request("SET", "a", "1")


@pytest.mark.parametrize("fsync", ["everysec", "no"])
def test_a_full_disk_refuses_changes_until_there_is_room(
    example: ModuleType, tmp_path: Path, disk: Disk, fsync: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "appendonly.aof"
    first, second = request("SET", "a", "1"), request("SET", "b", "2")
    with opened(example, tmp_path, fsync) as server:
        server.send("SET a 1")
        disk.room = len(first) + 10
        assert server.send("SET b 2") == b"+OK\r\n"  # as redis: it is kept, and no more is taken
        assert path.read_bytes() == first
        refusal = b"MISCONF Errors writing to the AOF file: No space left on device"
        assert server.send("SET c 3", "GET b", "DEL a") == b"-%b\r\n$1\r\n2\r\n-%b\r\n" % (refusal, refusal)
        assert server.send("MULTI", "SET c 3", "EXEC").endswith(b"previous errors.\r\n")
        server.file.tick()
        assert path.read_bytes() == first
        disk.room = sys.maxsize
        server.tick_until(lambda: not server.db.trouble)
        assert path.read_bytes() == first + second
        assert server.send("SET c 3") == b"+OK\r\n"
    assert load(example, tmp_path, path.read_bytes()) == {b"a": b"1", b"b": b"2", b"c": b"3"}
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_transaction_that_was_queued_before_the_disk_failed_is_discarded(
    example: ModuleType, tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(example, tmp_path) as server:
        server.send("MULTI", "SET a 1")
        disk.room = 0
        example.accept(2, "", None, server.server)
        example.handle(2, [(b"SET", 1, ([b"b"], [b"2"]))], server.server)
        assert server.send("EXEC").startswith(b"-EXECABORT Transaction discarded because of: MISCONF ")
        assert server.send("GET a") == b"$-1\r\n"
    assert len(caplog.records) == 1


def test_what_a_failed_sync_may_have_lost_is_written_again(
    example: ModuleType, tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(example, tmp_path) as server:
        disk.broken = True
        server.send("SET a 1", "SET b 2")
        server.tick_until(lambda: server.db.trouble)
        assert server.send("SET c 3").startswith(b"-MISCONF Errors writing to the AOF file: Input/output error")
        disk.broken = False
        del disk.calls[:]
        server.tick_until(lambda: not server.db.trouble)
        assert disk.calls[-2:] == [("write", 0), ("sync", 0)]
        assert server.file.kept == b""
    assert len(caplog.records) == 2
