"""Situations 1 to 8: what clients do, and what becomes of their bytes."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harness import DEADLINE, WITHOUT_GIL, connect, echo, exchange, listener, live, receive, receive_all, reset

import evio

from .situation import Run, situation
from .tools import Beside, descriptor_limit, milliseconds, percentile, resident

MIB = 1 << 20
READ_MAX, HIGH_WATER = 256 * 1024, 256 * 1024  #: of both engines: what one read takes, and when reading pauses


@contextlib.contextmanager
def connected(addr: Any, count: int) -> Iterator[list[socket.socket]]:
    """Connect that many clients."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(addr)) for _ in range(count)]


def connect_as_over_an_ethernet(addr: Any, *, rcvbuf: int = 0) -> socket.socket:
    """Return a client with segments of 1448 bytes, and perhaps an SO_RCVBUF of its own.

    With the loopback's segments, of 64 KiB, each send to a small buffer would wait for an
    acknowledgement, and the kernel delays those by 40 ms.
    """
    client = socket.socket()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1448)
    if rcvbuf:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    client.settimeout(DEADLINE)
    client.connect(addr)
    return client


@situation(1, "reset mid-stream", light={"resets": 300}, heavy={"resets": 10_000})
def reset_mid_stream(run: Run, resets: int) -> str:
    """ConnectionResetError and no SIGPIPE, beside clients that are served."""
    beside, threads = 20, 2
    seeds = [run.random.random() for _ in range(threads)]

    def disturb(thread: int) -> None:
        numbers = type(run.random)(seeds[thread])
        for number in range(resets // threads):
            client = connect(server.addr)
            client.sendall(bytes(numbers.randint(1, 50_000)))
            if number % 3:
                client.recv(numbers.randint(1, 10_000))
            reset(client)
            run.progress(number * threads, resets)

    with live(run.net("tcp"), echo) as server:
        clients = [server.connect() for _ in range(beside)]
        exchanges = 0
        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(disturb, thread) for thread in range(threads)]
            while not all(future.done() for future in futures):
                message = b"%08d" % exchanges
                assert exchange(clients[exchanges % beside], message) == message
                exchanges += 1
            for future in futures:
                future.result()
        server.wait(lambda: len(server.closed) == resets)
        ends = [type(err) for err in server.closed.values()]
        assert set(ends) <= {ConnectionResetError, type(None)}
        seen = ends.count(ConnectionResetError)
        assert seen > resets // 2
    return f"{seen:,} seen as resets, the others as ends; {exchanges:,} exchanges beside them"


@situation(2, "data and FIN in one event", light={"clients": 200}, heavy={"clients": 10_000})
def data_and_end_in_one_event(run: Run, clients: int) -> str:
    """All that came before the peer's end is delivered and answered, and then it is closed(id, None)."""
    requests, batch = 100, 50
    gate = threading.Lock()

    def wait_at_the_gate(*args: Any) -> None:
        with gate:
            pass

    def serve(base: str, repeats: int, join: Callable[[Any], socket.socket], before: int) -> None:
        def answer(id: int, lines: list[bytes], ctx: Any) -> list[bytes]:
            return [line * repeats for line in lines]

        with (
            listener(base, sndbuf=4096) as sock,
            live(run.net(base), answer, wait_at_the_gate, addr=sock, frame=evio.Lines()) as server,
        ):
            for first in range(0, clients, batch):
                numbers = range(first, min(first + batch, clients))
                lines = {number: [b"%05d %02d." % (number, line) for line in range(requests)] for number in numbers}
                with contextlib.ExitStack() as stack:
                    # In every second batch nothing is read before all is there, the end too.
                    with gate if first // batch % 2 == 0 else contextlib.nullcontext():
                        sent = {number: stack.enter_context(join(sock.getsockname())) for number in numbers}
                        for number, client in sent.items():
                            client.sendall(b"\n".join([*lines[number], b""]))
                            client.shutdown(socket.SHUT_WR)
                    for number, client in sent.items():
                        assert receive_all(client) == b"".join(line * repeats for line in lines[number])
                        client.close()
                run.progress(before + first, 2 * clients)
            server.wait(lambda: len(server.closed) == clients)
            assert set(server.closed.values()) == {None}

    # The replies of a connection are more than the system's buffers take: the rest is unsent when the end is seen.
    serve("tcp", 20, lambda addr: connect_as_over_an_ethernet(addr, rcvbuf=4096), 0)
    serve("unix", 300, connect, clients)
    return f"{2 * clients * requests:,} requests answered, over TCP and unix sockets"


@situation(3, "reset before accept", light={"resets": 300}, heavy={"resets": 50_000})
def reset_before_accept(run: Run, resets: int) -> str:
    """The address comes from accept itself, so it is right where the peer has gone already."""
    batch = 100
    gate = threading.Lock()
    expected: list[str] = []

    def wait_at_the_gate(*args: Any) -> None:
        with gate:
            pass

    with live(run.net("tcp"), echo, wait_at_the_gate) as server:
        other = server.connect()
        expected.append("{}:{}".format(*other.getsockname()))
        for done in range(0, resets, batch):
            with gate:  # all of them wait in the backlog, but perhaps the first
                for _ in range(batch):
                    client = connect(server.addr)
                    expected.append("{}:{}".format(*client.getsockname()))
                    reset(client)
            assert exchange(other, b"%05d" % done) == b"%05d" % done
            run.progress(done, resets)
        server.wait(lambda: len(server.closed) == resets)
        assert list(server.accepted.values()) == expected
        assert {type(err) for err in server.closed.values()} == {ConnectionResetError}
    return f"{resets:,} addresses right, all seen as resets"


@situation(4, "close with unread input", light={"replies": 25}, heavy={"replies": 1000})
def close_with_unread_input(run: Run, replies: int) -> str:
    """The last reply arrives whole, however much the peer has sent that nobody will read."""
    beside = 25
    reply, unread = run.random.randbytes(MIB), bytes(16 * 1024)

    def serve(base: str, before: int) -> None:
        with live(run.net(base), lambda id, data, ctx: (reply, False)) as server:
            for done in range(0, replies, beside):
                with connected(server.addr, beside) as clients:
                    received = {client: bytearray() for client in clients}
                    reading = set(clients)
                    for client in clients:
                        client.sendall(unread * 4)
                    while reading:  # a piece of each in turn, so each is slow
                        for client in tuple(reading):
                            if select.select([], [client], [], 0)[1]:
                                client.send(unread)
                            piece = client.recv(32 * 1024)
                            received[client] += piece
                            if not piece:
                                reading.remove(client)
                    for whole in received.values():
                        assert whole == reply, f"{len(whole)} of {len(reply)} bytes arrived"
                run.progress(before + done, 2 * replies)
            server.wait(lambda: len(server.closed) == replies)
            assert set(server.closed.values()) == {None}

    serve("tcp", 0)
    serve("unix", replies)
    return f"0 of {2 * replies:,} truncated, over TCP and unix sockets"


def exchange_over_and_over(addr: Any, clients: int, seconds: float) -> list[float]:
    """Have clients send a line all at once, again and again, and return how long each answer took."""
    waits = []
    with connected(addr, clients) as socks:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.monotonic()
            for client in socks:
                client.sendall(b"hello\n")
            for client in socks:
                assert receive(client, 6) == b"hello\n"
                waits.append(time.monotonic() - began)
            time.sleep(0.01)  # their pace
    return waits


def send_byte_by_byte(addr: Any, connections: int, every_s: float, seconds: float) -> int:
    """Have each connection send a byte of its line now and then, at last its end, and see what it gets for it."""
    with connected(addr, connections) as clients:
        began, sent = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            for number in range(sent, int(passed / every_s * connections)):
                clients[number % connections].sendall(b"x")
                sent += 1
            time.sleep(0.01)  # what has become due meanwhile is sent together
        for number, client in enumerate(clients):
            line = b"x" * len(range(number, sent, connections)) + b"\n"
            client.sendall(b"\n")
            assert receive(client, len(line)) == line
    return sent


@situation(
    5,
    "slowloris",
    light={"connections": 200, "every_s": 0.5, "seconds": 0.6, "p99_ms": 200},
    heavy={"connections": 5000, "every_s": 10, "seconds": 60, "p99_ms": 20},
)
def slowloris(run: Run, connections: int, every_s: float, seconds: float, p99_ms: float) -> str:
    """Connections that send a byte now and then cost next to nothing, and delay nobody."""
    began = time.monotonic()

    def answer(id: int, lines: list[bytes], ctx: Any) -> list[bytes]:
        return [line + b"\n" for line in lines]

    def tell(ctx: Any) -> None:
        run.progress(time.monotonic() - began, seconds + 5)

    with descriptor_limit(connections + 100), listener("tcp") as sock:
        addr = sock.getsockname()
        slow = Beside(send_byte_by_byte, addr, connections, every_s, seconds)
        other = Beside(exchange_over_and_over, addr, 1, seconds)
        before = resident()
        with live(run.net("tcp"), answer, ticker=tell, addr=sock, frame=evio.Lines()) as server:
            server.wait(lambda: len(server.accepted) == connections + 1)
            memory = (resident() - before) / connections
            began, used = time.monotonic(), time.process_time()
            nbytes = slow.result()
            share = (time.process_time() - used) / (time.monotonic() - began)
            p99 = percentile(other.result(), 0.99)
            server.wait(lambda: len(server.closed) == connections + 1)
            assert set(server.closed.values()) == {None}
    assert nbytes >= connections * (seconds / every_s - 1)
    assert share <= 0.1, f"{share:.1%} of a CPU"
    assert p99 <= p99_ms / 1000, f"p99 {milliseconds(p99)}"
    return f"{share:.1%} of a CPU, {memory / 1024:.1f} KiB each; p99 of another client {milliseconds(p99)}"


@situation(
    6,
    "slow readers",
    light={"replies_mib": 1024, "seconds": 0.5, "p99_ms": 300},  # less input would fit the buffers of the kernel
    heavy={"replies_mib": 1024, "seconds": 20, "p99_ms": 100},
)
def slow_readers(run: Run, replies_mib: int, seconds: float, p99_ms: float) -> str:
    """Who does not read is not read, by itself; what is queued for it all the same ends in a BufferError."""
    never_read, others, max_pending = 10, 50, 4 * MIB
    replies = 0

    def fresh(number: int) -> bytes:
        return b"%08d" % number * (MIB // 8)

    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        nonlocal replies
        if not data.startswith(b"?"):
            return data
        replies += 1
        return fresh(replies)

    with listener("tcp") as sock:
        beside = Beside(exchange_over_and_over, sock.getsockname(), others, seconds)
        with (
            live(run.net("tcp"), handle, addr=sock, max_pending=max_pending) as server,
            ThreadPoolExecutor(1) as pool,
        ):
            before, most, began = resident(), 0, time.monotonic()
            waiting = pool.submit(beside.result)
            clients = [server.connect() for _ in range(never_read)]
            # Each read is answered with 1 MiB, so this much would be, were all of it read.
            left = dict.fromkeys(clients, replies_mib * READ_MAX // never_read)
            while not waiting.done():
                writable = select.select([], [client for client in clients if left[client]], [], 0.05)[1]
                for client in writable:
                    left[client] -= client.send(b"?" * min(left[client], 64 * 1024))
                most = max(most, resident() - before)
                run.progress(time.monotonic() - began, seconds)
            p99 = percentile(waiting.result(), 0.99)
            # What is unsent, of which up to 1 MiB is the rest of a reply that is kept whole, and what was read.
            bound = never_read * (HIGH_WATER + 2 * MIB + READ_MAX)
            kept = 64 * MIB if WITHOUT_GIL else 16 * MIB  # by the allocator, for a while
            assert most < bound + kept, f"{most // MIB} MiB for {replies} replies"
            assert all(left.values())
            assert 0 < replies < replies_mib // 2

            addrs = {"{}:{}".format(*client.getsockname()) for client in clients}
            ids = {id for id, addr in server.accepted.items() if addr in addrs}
            assert not ids & server.closed.keys()
            for id in ids:
                taken = [server.wakes[id](fresh(number)) for number in range(max_pending // MIB + 2)]
                assert not taken[-1], "more than max_pending was taken"
                most = max(most, resident() - before)
            server.wait(lambda: ids <= server.closed.keys())
            assert {type(server.closed[id]) for id in ids} == {BufferError}
            assert most < bound + never_read * max_pending + kept, f"{most // MIB} MiB"
    assert p99 <= p99_ms / 1000, f"p99 {milliseconds(p99)}"
    return (
        f"{replies} replies of 1 MiB before all paused, {most / MIB:.0f} MiB of memory; "
        f"p99 of {others} others {milliseconds(p99)}"
    )


def receive_digest(addr: Any, nbytes: int, progress: Callable[[float, float], None]) -> tuple[int, bytes]:
    """Ask, and return how many bytes came, and their SHA-256."""
    received, digest, buffer = 0, hashlib.sha256(), memoryview(bytearray(MIB))
    with connect_as_over_an_ethernet(addr) as client:
        client.sendall(b"?")
        while taken := client.recv_into(buffer):
            received += taken
            digest.update(buffer[:taken])
            progress(received, nbytes)
    return received, digest.digest()


@situation(7, "huge writes", light={"mib": 16}, heavy={"mib": 2049})
def huge_writes(run: Run, mib: int) -> str:
    """One reply may be of any size, and arrives whole and in order through a small send buffer."""
    block = run.random.randbytes(MIB)
    small = [run.random.randbytes(run.random.randint(0, 2000)) for _ in range(1000)]
    digest = hashlib.sha256()
    for piece in [*small, *[block] * mib, *small]:
        digest.update(piece)
    nbytes = mib * MIB + 2 * sum(map(len, small))
    began = time.monotonic()
    with listener("tcp", sndbuf=4096) as sock:
        client = Beside(receive_digest, sock.getsockname(), nbytes, run.progress)
        reply = [*small, block * mib, *small]
        with live(run.net("tcp"), lambda id, data, ctx: (reply, False), addr=sock, max_pending=MIB) as server:
            assert client.result() == (nbytes, digest.digest())
            assert server.wait_closed(1) is None
    return f"{nbytes:,} bytes with an equal SHA-256, {nbytes / MIB / (time.monotonic() - began):.0f} MiB/s"


@situation(7, "partial writes", light={"nbytes": 30_000}, heavy={"nbytes": 2_000_000})
def partial_writes(run: Run, nbytes: int) -> str:
    """A peer that takes one byte at a time gets them all, in order."""
    stream = run.random.randbytes(nbytes)
    with (
        listener("tcp", sndbuf=4096) as sock,
        live(run.net("tcp"), lambda id, data, ctx: (stream, False), addr=sock) as server,
        connect_as_over_an_ethernet(sock.getsockname(), rcvbuf=4096) as client,
    ):
        client.sendall(b"?")
        for done in range(nbytes):
            assert client.recv(1) == stream[done : done + 1], f"byte {done}"
            run.progress(done, nbytes)
        assert client.recv(1) == b""
        client.close()
        assert server.wait_closed(1) is None
    return f"{nbytes:,} bytes, one by one"


@situation(7, "a buffer that changes", light={"replies": 200}, heavy={"replies": 5000})
def buffer_that_changes(run: Run, replies: int) -> str:
    """What was returned is what is sent, also where one bytearray is filled anew for each reply."""
    size, together = 50_000, 100
    buffer = bytearray(size)
    filled = 0

    def content(number: int) -> bytes:
        return b"%05d" % number * (size // 5)

    def reached(number: int) -> Callable[[], bool]:
        return lambda: filled == number

    def handle(id: int, data: bytes, ctx: Any) -> Any:
        nonlocal filled
        filled += 1
        buffer[:] = content(filled)
        return (buffer, memoryview(buffer), [b"", buffer], (buffer, True))[filled % 4]

    with (
        listener("tcp", sndbuf=4096) as sock,
        live(run.net("tcp"), handle, addr=sock) as server,
        connect_as_over_an_ethernet(sock.getsockname(), rcvbuf=4096) as client,
    ):
        server.wait(lambda: server.wakes)
        for first in range(1, replies + 1, together):
            numbers = range(first, first + together)
            for number in numbers:
                assert server.wakes[1]()
                server.wait(reached(number))
            for number in numbers:
                assert receive(client, size) == content(number)
            run.progress(first, replies)
    return f"{replies:,} replies of {size:,} bytes out of one buffer"


def outnumber_the_descriptors(addr: Any, clients: int, seconds: float) -> tuple[int, list[float], float]:
    """Be more clients than there is room for. All are greeted in the end, as the others leave.

    Returns how many there was room for, how long their exchanges took, and the longest time from
    when there was room again to the next client's greeting.
    """
    exchanges, longest = [], 0.0
    with connected(addr, clients) as everyone:
        waiting, served = set(everyone), list[socket.socket]()

        def greet(timeout: float) -> bool:
            greeted = select.select(waiting, [], [], timeout)[0]
            for client in greeted:
                assert receive(client, 5) == b"hello"
            waiting.difference_update(greeted)
            served.extend(greeted)
            return bool(greeted)

        assert greet(DEADLINE)
        while greet(0.1):
            pass
        room = len(served)
        assert exchange(served[0], b"measure") == b"measure"
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for client in served:
                began = time.monotonic()
                assert exchange(client, b"still here") == b"still here"
                exchanges.append(time.monotonic() - began)
            time.sleep(0.25)  # their pace
        assert exchange(served[0], b"measure") == b"measure"
        while served:
            began = time.monotonic()
            for client in served:
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""  # so its descriptor is free
                client.close()
            served.clear()
            if waiting:
                assert greet(DEADLINE)
                longest = max(longest, time.monotonic() - began)
    return room, exchanges, longest


@situation(
    8,
    "no descriptors left",
    light={"clients": 100, "seconds": 0.1, "p99_ms": 500},
    heavy={"clients": 500, "seconds": 30, "p99_ms": 100},
)
def no_descriptors_left(run: Run, clients: int, seconds: float, p99_ms: float) -> str:
    """No spin, who is there is served, the others as soon as there is room, and one record for each episode."""
    limit, episodes = 64, 2
    measured: list[tuple[float, float]] = []
    began = time.monotonic()

    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        if data == b"measure":
            measured.append((time.process_time(), time.monotonic()))
        return data

    def tell(ctx: Any) -> None:
        run.progress(time.monotonic() - began, episodes * (seconds + 5))

    def come_and_go(addr: Any) -> list[tuple[int, list[float], float]]:
        return [outnumber_the_descriptors(addr, clients, seconds) for _ in range(episodes)]

    with listener("tcp") as sock:
        beside = Beside(come_and_go, sock.getsockname())
        with (
            descriptor_limit(limit),
            live(run.net("tcp"), handle, lambda *args: b"hello", ticker=tell, addr=sock) as server,
        ):
            rooms, exchanges, longest = zip(*beside.result(), strict=True)
            server.wait(lambda: len(server.closed) == episodes * clients)
            assert set(server.closed.values()) == {None}
            said = [record.getMessage() for record in server.take_records()]
    assert said == ["accepting is paused, clients wait in the backlog: Too many open files"] * episodes
    assert all(limit // 2 < room < limit for room in rooms), rooms
    assert max(longest) <= 1, f"{max(longest):.2f} seconds until a client was accepted"
    times = zip(measured[::2], measured[1::2], strict=True)
    share = max((after[0] - before[0]) / (after[1] - before[1]) for before, after in times)
    most = 0.05 if sys.implementation.name == "cpython" else 0.1  # PyPy compiles meanwhile
    assert share <= most, f"{share:.1%} of a CPU"
    p99 = percentile(list(itertools.chain(*exchanges)), 0.99)
    assert p99 <= p99_ms / 1000, f"p99 {milliseconds(p99)}"
    return (
        f"{share:.1%} of a CPU with room for {max(rooms)}, their p99 {milliseconds(p99)}; "
        f"accepted again after {max(longest):.2f} s"
    )
