"""Situations 1 to 16: what clients do, and what the system does to connections."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from harness import connect, echo, exchange, live

from .situation import Run, situation
from .tools import reset


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
