"""An echo server on all cores: `python examples/multicore.py`.

One port, and a worker for each core: processes, or threads where Python has no GIL. Each worker has a
listening socket of its own on the port, among which the kernel shares the clients out (SO_REUSEPORT);
or with --shared, and where the system has no such thing, all have the same one.

The sockets belong to the parent. So clients that wait for a worker that has died are served by the next.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

import evio

RESTART = 1.0  # seconds between two starts of the same worker, at least


class Worker:
    """One evio server, in a process or a thread. It is the `ctx` of its callbacks."""

    def __init__(self, net: str, listener: socket.socket, goes_on: Callable[[], bool]) -> None:
        self.net = net
        self.listener = listener
        self.goes_on = goes_on
        self.heard = False  #: something has come since the last tick

    def serve(self) -> None:
        evio.serve(self.net, self.listener, handle, ticker=ticker, ctx=self)


def handle(id: int, data: bytes, worker: Worker) -> tuple[bytes, bool]:
    """Answer what has come from a client, for the last time if the worker is to stop. Your server goes here."""
    worker.heard = True
    return data, worker.goes_on()


def ticker(worker: Worker) -> bool:
    """Go on until told to stop, and then until nothing more comes."""
    heard, worker.heard = worker.heard, False
    return heard or worker.goes_on()


# Processes


def be_a_process(net: str, listener: socket.socket, parent: int) -> None:
    told = False

    def stop(number: int, frame: object) -> None:
        nonlocal told  # no threading.Event: its lock may be held by what the signal has interrupted
        told = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent says what it means
    with listener:
        Worker(net, listener, lambda: not told and os.getppid() == parent).serve()


def serve_with_processes(net: str, listeners: list[socket.socket], method: str) -> None:
    """Keep a process at work on each listener until a signal says stop."""
    context = multiprocessing.get_context(method)
    workers: dict[int, BaseProcess] = {}
    due = [0.0] * len(listeners)  # when a worker may be started next
    stopping = False
    parent = os.getpid()

    def stop(number: int = 0, frame: object = None) -> None:
        nonlocal stopping
        if os.getpid() != parent:  # a worker that has just been forked; it will be told again
            return
        stopping = True
        for process in tuple(workers.values()):
            process.terminate()

    with handling(stop):
        while workers or not stopping:
            for index, listener in enumerate(listeners):
                if index not in workers and not stopping and due[index] <= time.monotonic():
                    due[index] = time.monotonic() + RESTART
                    process = context.Process(target=be_a_process, args=(net, listener, parent))  # type: ignore[attr-defined]
                    process.start()
                    workers[index] = process
            if stopping:
                stop()  # also the one that was being started when the signal came
            wait([process.sentinel for process in workers.values()], timeout=RESTART)
            for index, process in tuple(workers.items()):
                if not process.is_alive():
                    del workers[index]
                    if not stopping:
                        print(f"worker {process.pid} has ended with {process.exitcode}; starting another", flush=True)


# Threads


def serve_with_threads(net: str, listeners: list[socket.socket]) -> None:
    """Keep a thread at work on each listener until a signal says stop."""
    told = False

    def stop(number: int, frame: object) -> None:
        nonlocal told
        told = True

    def be_a_thread(listener: socket.socket) -> None:
        while not told:
            try:
                Worker(net, listener, lambda: not told).serve()
            except Exception:
                traceback.print_exc()
                time.sleep(RESTART)

    with handling(stop):
        threads = [threading.Thread(target=be_a_thread, args=(listener,)) for listener in listeners]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def handling(stop: Callable[[int, object], None]) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C call `stop`."""
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen(port: int, count: int, shared: bool) -> Iterator[socket.socket]:
    """Listen on a port with `count` sockets, or with one that is all of them."""
    if shared:
        yield from [socket.create_server(("", port), backlog=socket.SOMAXCONN)] * count
        return
    for _ in range(count):
        sock = socket.create_server(("", port), backlog=socket.SOMAXCONN, reuse_port=True)
        port = sock.getsockname()[1]
        yield sock


def main() -> None:
    no_gil = not getattr(sys, "_is_gil_enabled", lambda: True)()
    parser = argparse.ArgumentParser(description="An echo server on all cores.")
    parser.add_argument("--port", type=int, default=9999, help="server port (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="how many (default: one for each core)")
    parser.add_argument(
        "--with",
        dest="kind",
        choices=("threads", *multiprocessing.get_all_start_methods()),
        default="threads" if no_gil else "spawn",
        help="what the workers are: threads, or processes started in one of these ways (default: %(default)s)",
    )
    parser.add_argument("--shared", action="store_true", help="one listening socket for all workers")
    parser.add_argument("--compat", action="store_true", help="serve with the portable engine")
    options = parser.parse_args()
    net = "tcp-compat" if options.compat else "tcp"
    if options.workers < 1:
        parser.error(f"--workers must be 1 or more, not {options.workers}")
    shared = options.shared or not sys.platform.startswith("linux")  # others do not share clients out
    try:
        listeners = list(listen(options.port, options.workers, shared))
    except OSError as error:
        sys.exit(f"multicore server: port {options.port}: {error.strerror}")
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.enter_context(listener)
        kind = "threads" if options.kind == "threads" else "processes"
        print(f"echo server started on port {listeners[0].getsockname()[1]} with {options.workers} {kind}", flush=True)
        if options.kind == "threads":
            serve_with_threads(net, listeners)
        else:
            serve_with_processes(net, listeners, options.kind)


if __name__ == "__main__":
    main()
