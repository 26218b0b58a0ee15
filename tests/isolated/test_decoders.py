"""Decoders of runs under attack: by what they are fed, and by what runs in the middle of it."""

from __future__ import annotations

import gc
import resource
import sys
import threading

import pytest
from harness import WITHOUT_GIL, for_cpython, own_process

from evio import resp


@pytest.mark.measures
@pytest.mark.parametrize("nargs", [4, 16, 256])
@own_process
def test_short_runs_cost_memory_in_proportion(nargs: int) -> None:
    # Runs of two, each of which looks like the beginning of a long one.
    runs = [[name + b" a" * nargs + b"\n", name + b" a" * (nargs - 1) + b" b\n"] for name in (b"A", b"B")]
    data = b"".join(line for lines in runs for line in lines)
    data *= 1_000_000 // len(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = resp.Runs().decoder().feed(data)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(count for _, count, _ in found) == data.count(b"\n")
    assert (after - before) * 1024 < 64 * len(data)


@for_cpython
@pytest.mark.skipif(WITHOUT_GIL, reason="its collector begins when it likes")
@own_process
def test_a_collection_in_the_middle_sees_no_half_made_run() -> None:
    seen = 0

    def walk(phase: str, info: object) -> None:
        nonlocal seen
        for found in gc.get_objects():
            if type(found) is list or type(found) is tuple:
                for _ in found:  # an empty place in it would be the end
                    seen += 1

    decoder = resp.Runs([]).decoder()
    gc.callbacks.append(walk)
    gc.set_threshold(1)
    found = decoder.feed(b"".join(b"N%d k v\nN%d k w\n" % (number, number) for number in range(300)))
    gc.set_threshold(700)
    gc.callbacks.remove(walk)
    assert found == [(b"N%d" % number, 2, ([b"k", b"k"], [b"v", b"w"])) for number in range(300)]
    assert seen


@own_process
def test_another_thread_sees_no_half_made_run() -> None:
    stopping = threading.Event()

    def walk() -> None:
        while not stopping.is_set():
            for found in gc.get_objects():
                if type(found) is list and len(found) > 200:
                    for _ in found:
                        pass

    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=walk)
    thread.start()
    requests = b"SET k1 v\nSET k2 v\n" + b"DEL k\nDEL l\n" * 400
    for number in range(300):  # an unknown name takes the decoder to code in Python, where threads change
        found = resp.Runs().decoder().feed(requests + b"N%d k\n" % number + requests)
        assert [count for _, count, _ in found] == [2, 800, 1, 2, 800]
    stopping.set()
    thread.join()
