"""What the Redis clone asks of the system, as strace sees it, and what that leaves on the disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from server.redis_support import tool

CALLS = "pwrite64,fdatasync,ftruncate,sendto,sendmsg,writev"


def strace(output: Path, *injected: str, calls: str = CALLS) -> list[str]:
    """Return the command to put before another one, whose calls are to be written to a file.

    Args:
        injected: what else is to happen, "fdatasync:error=EIO:when=3".
        calls: the names of the calls, which alone are slowed down.
    """
    options = ["-f", "--seccomp-bpf", "-qq", "-y", "-xx", "-ttt", "-T", "-s", "1000000", "-e", "signal=none"]
    injections = [option for each in injected for option in ("-e", f"inject={each}")]
    return [tool("strace"), *options, "-o", str(output), "-e", f"trace={calls}", *injections]


@dataclass
class Call:
    """A system call on a file or a connection."""

    name: str
    path: str  #: what its descriptor stands for
    data: bytes  #: what was to be written
    number: int  #: the last argument: the offset of a write, the size of a file
    began: float
    ended: float = 0.0
    result: int = 0  #: -1 where it has failed


LINE = re.compile(r"(\d+) +(\d+\.\d+) (.*)")
BEGIN = re.compile(r"(\w+)\(\d+<([^>]*)>(.*)")
QUOTED = re.compile(r'"([^"]*)"')
LAST_NUMBER = re.compile(r".*, (\d+)(?:\)| <unfinished)")
RESULT = re.compile(r"= (-?\d+)[^<]*<(\d+\.\d+)>$")


def calls(output: Path) -> Iterator[tuple[Literal["begins", "ends"], Call]]:
    """Return how the calls that strace has written to a file began and ended, in that order.

    A call that a crash has cut off never ends.
    """
    begun: dict[str, Call] = {}  # by thread
    with output.open() as lines:
        for line in lines:
            thread, began, text = _match(LINE, line).groups()
            if text.startswith("+++"):  # the thread's end
                continue
            if not text.startswith("<... "):
                name, path, args = _match(BEGIN, text).groups()
                number = LAST_NUMBER.match(args)
                data = b"".join(map(_unquoted, QUOTED.findall(args)))
                begun[thread] = Call(
                    name, _unquoted(path).decode(), data, int(number[1]) if number else 0, float(began)
                )
                yield "begins", begun[thread]
            result = RESULT.search(text)
            if result is not None:
                call = begun.pop(thread)
                call.result, call.ended = int(result[1]), call.began + float(result[2])
                yield "ends", call


def _match(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    matched = pattern.match(text)
    assert matched is not None, f"strace has written {text!r}"
    return matched


def _unquoted(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


# What each byte of the file may be.
WRITTEN, SYNCING, SAFE, LOST = b"\0\1\2\3"


class Disk:
    """What a power failure would leave of the append-only file: the worst that the system's promises allow.

    A sync makes safe what was written before it began. One that fails may have lost all that was not safe,
    and a later one that succeeds brings nothing back: it has to be written again.
    """

    def __init__(self) -> None:
        self.states = bytearray()
        self.failures = 0  #: failed syncs
        self.syncs = 0  #: the others

    def follow(self, what: Literal["begins", "ends"], call: Call) -> None:
        """Take note of a call on the file."""
        if what == "begins":
            if call.name == "fdatasync":
                self._turn({WRITTEN: SYNCING})
        elif call.name == "pwrite64" and call.result > 0:
            self.states[call.number : call.number + call.result] = bytes([WRITTEN]) * call.result
        elif call.name == "ftruncate" and call.result == 0:
            del self.states[call.number :]
        elif call.name == "fdatasync" and call.result == 0:
            self.syncs += 1
            self._turn({SYNCING: SAFE})
        elif call.name == "fdatasync":
            self.failures += 1
            self._turn({WRITTEN: LOST, SYNCING: LOST})

    def _turn(self, changes: dict[int, int]) -> None:
        table = bytearray(range(256))
        for before, after in changes.items():
            table[before] = after
        self.states = self.states.translate(table)
