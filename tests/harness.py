"""A server in a thread whose every callback is watched, and clients with deadlines.

Nearly every test serves by way of `live`, and so asserts, whatever else it is about, what must hold
in all of them: `closed` exactly once for each connection, ids from 1 upward and never used again, no
callback after `closed`, callbacks in the serving thread only and never nested, descriptors and
threads back where they were, and nothing in the log that the test did not ask for.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import logging
import os
import random
import re
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import evio

#: Seconds after which something that should happen has not happened. Long: machines are noisy.
DEADLINE = 20.0


def nothing(*args: Any) -> None:
    """A callback that does nothing."""


def echo(id: int, data: bytes, ctx: Any) -> bytes:
    return data


class Live:
    """A server that runs in a thread, as a test sees it."""

    def __init__(self, net: str, addr: Any, callbacks: dict[str, Any], ctx: Any, options: dict[str, Any]) -> None:
        self.accepted: dict[int, str] = {}  #: the address that each id came from
        self.wakes: dict[int, evio.Wake] = {}
        self.closed: dict[int, BaseException | None] = {}  #: what each id was closed with
        self.ticks = 0
        self.returned = False
        self.records: list[logging.LogRecord] = []
        self._violations: list[str] = []
        self._inside = ""
        self._callbacks = callbacks
        self._changed = threading.Condition()
        self._stopping = False
        self._error: BaseException | None = None
        self.addr = addr
        self._clients = contextlib.ExitStack()
        watchers = {"handle": self._handle, "accept": self._accept, "closed": self._closed, "ticker": self._ticker}
        watched = {name: watchers[name] if callback else None for name, callback in callbacks.items()}
        self.thread = threading.Thread(target=self._serve, args=(net, addr, watched, ctx, options), daemon=True)

    def connect(self) -> socket.socket:
        """Return a new client, which the end of the test closes."""
        return self._clients.enter_context(connect(self.addr))

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds; it is looked at after every callback."""
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE), "it did not happen in time"

    def wait_closed(self, id: int) -> BaseException | None:
        """Wait for a connection's end, and return what ended it."""
        self.wait(lambda: id in self.closed)
        return self.closed[id]

    def stop(self) -> None:
        """Let the next tick stop the server."""
        self._stopping = True

    def join(self) -> BaseException | None:
        """Wait until serve has returned, and return what it raised."""
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive(), "serve did not return in time"
        error, self._error = self._error, None
        return error

    def take_records(self) -> list[logging.LogRecord]:
        """Return what the `evio` logger was given; a record that no test takes is a failure."""
        taken, self.records = self.records, []
        return taken

    def _serve(self, net: str, addr: Any, watched: dict[str, Any], ctx: Any, options: dict[str, Any]) -> None:
        try:
            evio.serve(net, addr, ctx=ctx, **watched, **options)
        except BaseException as error:
            self._error = error
        finally:
            self._notify(returned=True)

    @contextlib.contextmanager
    def _watching(self, name: str, id: int = 0) -> Iterator[None]:
        call = f"{name}({id})"
        self._check(threading.current_thread() is self.thread, f"{call} was called in another thread")
        self._check(not self._inside, f"{call} was called inside {self._inside}")
        self._check(id not in self.closed, f"{call} was called after closed")
        self._inside = call
        try:
            yield
        finally:
            self._inside = ""
            self._notify()

    def _notify(self, returned: bool = False) -> None:
        with self._changed:
            self.returned = returned
            self._changed.notify_all()

    def _handle(self, id: int, data: Any, ctx: Any) -> Any:
        with self._watching("handle", id):
            self._check_known("handle", id)
            return self._callbacks["handle"](id, data, ctx)

    def _accept(self, id: int, addr: str, wake: evio.Wake, ctx: Any) -> Any:
        with self._watching("accept", id):
            last = next(reversed(self.accepted), 0)
            self._check(id > last if last else id == 1, f"accept({id}) came after accept({last})")
            self.wakes[id] = wake
            self.accepted[id] = addr
            return self._callbacks["accept"](id, addr, wake, ctx)

    def _closed(self, id: int, err: BaseException | None, ctx: Any) -> None:
        with self._watching("closed", id):
            self._check_known("closed", id)
            self.closed[id] = err
            self._callbacks["closed"](id, err, ctx)

    def _ticker(self, ctx: Any) -> Any:
        with self._watching("ticker"):
            self.ticks += 1
            reply = self._callbacks["ticker"](ctx)
            return False if self._stopping else reply

    def _check_known(self, name: str, id: int) -> None:
        self._check(id in self.accepted or not self._callbacks["accept"], f"{name}({id}) was called before accept")

    def _check(self, holds: bool, violation: str) -> None:
        # Not an assertion: what a callback raises is the server's to deal with, and would hide there.
        if not holds:
            self._violations.append(violation)

    def finish(self) -> None:
        """Close the clients, stop, and assert the invariants."""
        self.stop()
        for wake in self.wakes.values():
            wake(b"")  # a server that has something to do ticks sooner
        self._clients.close()
        error = self.join()
        if error is not None:
            raise error
        assert self._violations == []
        assert self.records == []
        if self._callbacks["accept"] and self._callbacks["closed"]:
            assert sorted(self.closed) == list(self.accepted)


@contextlib.contextmanager
def live(
    net: str,
    handle: Callable[..., Any] | None = nothing,
    accept: Callable[..., Any] | None = nothing,
    closed: Callable[..., Any] | None = nothing,
    ticker: Callable[..., Any] | None = nothing,
    ctx: Any = None,
    *,
    addr: Any = None,
    **options: Any,
) -> Iterator[Live]:
    """Serve while the block runs, and assert the invariants after it.

    Args:
        net: as serve's, and so are the callbacks and the options. None really is None.
        addr: as serve's; None for a listening socket on a port or path that is free.
    """
    callbacks = {"handle": handle, "accept": accept, "closed": closed, "ticker": ticker}
    before, threads = descriptors(), threading.enumerate()
    with contextlib.ExitStack() as stack:
        server = Live(net, stack.enter_context(listener(net)) if addr is None else addr, callbacks, ctx, options)
        records = _Records(server)
        logging.getLogger("evio").addHandler(records)
        stack.callback(logging.getLogger("evio").removeHandler, records)
        server.thread.start()
        try:
            if ticker is not None:  # once it ticks, it listens
                server.wait(lambda: server.ticks or server.returned)
            yield server
        except BaseException:
            server._clients.close()
            server.stop()
            raise
        server.finish()
    gc.collect()
    eventually(lambda: descriptors() <= before)  # at once, unless another server runs beside this one
    assert set(threading.enumerate()) <= set(threads)


class _Records(logging.Handler):
    def __init__(self, server: Live) -> None:
        super().__init__()
        self._server = server

    def emit(self, record: logging.LogRecord) -> None:
        self._server.records.append(record)


def descriptors() -> set[int]:
    """Return the descriptors that are open in this process."""
    return {fd for fd in map(int, os.listdir("/dev/fd")) if _is_open(fd)}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:  # the one that listed the others
        return False
    return True


@contextlib.contextmanager
def listener(net: str, *, sndbuf: int = 0) -> Iterator[socket.socket]:
    """Listen on a free port of 127.0.0.1, or on a path that is gone afterwards.

    Args:
        net: "tcp", "unix", with or without "-compat".
        sndbuf: SO_SNDBUF of the accepted sockets in bytes, 0 for the system's.
    """
    with contextlib.ExitStack() as stack:
        family = socket.AF_UNIX if net.startswith("unix") else socket.AF_INET
        sock = stack.enter_context(socket.socket(family))
        if sndbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        if family == socket.AF_INET:
            sock.bind(("127.0.0.1", 0))
        else:
            sock.bind(os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "socket"))
        sock.listen(socket.SOMAXCONN)
        yield sock


def free_port() -> int:
    """Return a port that is free, and not one of those that systems give to clients."""
    while True:
        port = random.randrange(10_000, 30_000)
        with (
            contextlib.suppress(OSError),
            socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True),
        ):
            return port


def connect(addr: Any) -> socket.socket:
    """Return a client of a listening socket, a (host, port) pair or a path, with a deadline on every call."""
    if isinstance(addr, socket.socket):
        addr = addr.getsockname()
    if isinstance(addr, tuple):
        return socket.create_connection(addr[:2], timeout=DEADLINE)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(DEADLINE)
    client.connect("\0" + addr[1:] if isinstance(addr, str) and addr.startswith("@") else addr)
    return client


def receive(client: socket.socket, nbytes: int) -> bytes:
    """Return the next `nbytes` bytes, or fewer where EOF comes first."""
    received = bytearray()
    while len(received) < nbytes:
        piece = client.recv(min(nbytes - len(received), 1 << 20))
        if not piece:
            break
        received += piece
    return bytes(received)


def receive_all(client: socket.socket) -> bytes:
    """Return everything up to EOF."""
    return receive(client, 1 << 62)


def exchange(client: socket.socket, data: bytes) -> bytes:
    """Send, and return as many bytes of the answer."""
    client.sendall(data)
    return receive(client, len(data))


def reset(client: socket.socket) -> None:
    """Close with a reset instead of an EOF."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds that nothing tells of."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def shown(value: object) -> str:
    """Return a parameter's name in a test's: its repr, without an address, so the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def fork() -> int:
    """os.fork, without the warning of Python 3.12 and later where there are threads: servers run in them here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        return os.fork()


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked child, and return the child's exit status: 0 if it did not fail."""
    pid = fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def serve_once(net: str) -> None:
    """Serve one client, on a socket of one's own."""
    with listener(net) as sock, connect(sock) as client:
        closed: list[int] = []
        client.sendall(b"hello")
        evio.serve(
            net,
            sock,
            lambda id, data, ctx: (data, False),
            closed=lambda id, *args: closed.append(id),
            ticker=lambda ctx: not closed,
            linger=0.1,
        )
        assert receive_all(client) == b"hello"
        assert closed == [1]


#: Whether this is a Python that can do without its GIL.
WITHOUT_GIL = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

#: Engines on which CPython itself crashes where memory ends: in Python code, and with no extension there just as well.
CRASHES_WITHOUT_MEMORY: set[str] = {
    (3, 12, 1): {"native", "compat"},
    (3, 13, 5): {"native", "compat"} if WITHOUT_GIL else {"compat"},
    (3, 15, 0): {"compat"},
}.get(sys.version_info[:3], set())

#: For tests of what others have not: reference counts, a collector that is steered, allocations that are failed.
for_cpython = pytest.mark.skipif(sys.implementation.name != "cpython", reason="for CPython's memory")


def own_process(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in an interpreter of its own, where it may fork, catch signals and exit.

    Its arguments must be plain values. Nothing may appear on its stderr; warnings are errors there.
    """
    path = Path(inspect.getfile(test))

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        code = f"import {path.stem} as module; module.{test.__name__}.__wrapped__(**{arguments!r})"
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-W", "error", "-c", code],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(path.parent), *sys.path])},
            capture_output=True,
            text=True,
            timeout=3 * DEADLINE,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr

    return run
