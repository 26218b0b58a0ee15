"""The Redis clone without its loop, for what would need a process for each byte of a file."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import eventually
from server.redis_support import EXAMPLES

from evio import resp


@contextlib.contextmanager
def imported() -> Iterator[ModuleType]:
    """Give the example as a module."""
    spec = importlib.util.spec_from_file_location("redis_server", EXAMPLES / "redis_server.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["redis_server"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["redis_server"]


class Opened:
    """A server with an append-only file, without its loop."""

    def __init__(self, example: ModuleType, directory: Path, fsync: str = "everysec") -> None:
        options = argparse.Namespace(port=0, appendonly="no", appendfsync=fsync, dir=str(directory))
        self.server = example.Server(options)
        self.db = self.server.db
        self.handle = example.handle
        self.decoder = resp.Runs(example.COMMANDS).decoder()
        self.file = self.server.file = example.AppendOnlyFile(str(directory / "appendonly.aof"), fsync, self.db)
        example.accept(1, "", None, self.server)

    def send(self, *commands: str) -> bytes:
        """Answer some commands as if they had come with one read."""
        runs = self.decoder.feed("".join(f"{command}\n" for command in commands).encode())
        replies, _ = self.handle(1, runs, self.server)
        return b"".join(replies)

    def tick_until(self, condition: Any) -> None:
        def ticked() -> object:
            self.file.tick()
            return condition()

        eventually(ticked)

    def crash(self) -> None:
        """Leave the file as it is."""
        self.file.syncer.shutdown()
        os.close(self.file.fd)


@contextlib.contextmanager
def opened(example: ModuleType, directory: Path, fsync: str = "everysec") -> Iterator[Opened]:
    server = Opened(example, directory, fsync)
    try:
        server.file.load(example.Client(0, server.server))
        yield server
    finally:
        server.crash()


def load(example: ModuleType, directory: Path, data: bytes) -> dict[bytes, bytes]:
    """Return what is loaded from a file with these bytes."""
    (directory / "appendonly.aof").write_bytes(data)
    with opened(example, directory) as server:
        values: dict[bytes, bytes] = server.db.values
        return dict(values)
