"""What several situations need: processes beside the server, latencies, memory and CPU."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Beside:
    """A process that does something beside the server, such as being its clients.

    Made by a fork, so before there are threads. What it returns, or that it has failed, is told by `result`.
    """

    def __init__(self, work: Callable[..., Any], *arguments: Any) -> None:
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reader)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            status = 1
            try:
                value = pickle.dumps(work(*arguments))
                with os.fdopen(writer, "wb") as pipe:
                    pipe.write(value)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writer)

    def result(self, deadline: float = 600.0) -> Any:
        """Wait until it has ended, and return what `work` did.

        Args:
            deadline: seconds after which it has not.
        """
        pieces = []
        until = time.monotonic() + deadline
        try:
            while select.select([self._reader], [], [], max(0.0, until - time.monotonic()))[0]:
                piece = os.read(self._reader, 1 << 20)
                if not piece:
                    break
                pieces.append(piece)
            else:
                raise AssertionError(f"the process beside the server was not done after {deadline:g} seconds")
        except BaseException:
            os.kill(self.pid, signal.SIGKILL)
            raise
        finally:
            os.close(self._reader)
            status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert status == 0, f"the process beside the server ended with {status}"
        return pickle.loads(b"".join(pieces))


def percentile(values: list[float], share: float) -> float:
    """Return the smallest of `values` that is not below `share` (0 to 1) of them."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def resident(pid: int | str = "self") -> int:
    """Return the bytes of memory that a process has filled itself, shared with a forked child or not."""
    with open(f"/proc/{pid}/smaps_rollup") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def cpu(pid: int | str = "self") -> float:
    """Return the seconds of CPU that a process has used so far."""
    with open(f"/proc/{pid}/stat") as line:
        fields = line.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def references(things: Iterable[object]) -> list[int]:
    """Return how many references there are to each, when the garbage is gone; nothing where nobody counts them."""
    gc.collect()
    count = getattr(sys, "getrefcount", None)
    return [count(thing) for thing in things] if count is not None else []


@contextlib.contextmanager
def descriptor_limit(soft: int) -> Iterator[None]:
    """Allow a process that many descriptors while the block runs, and say clearly where the system allows fewer."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or soft <= hard, f"this needs {soft} descriptors; ulimit -Hn says {hard}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))
