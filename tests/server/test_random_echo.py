"""The seed's own test: 10 clients, random messages of up to 100 KB echoed for some seconds."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

from harness import echo, live, receive


def test_random_messages_are_echoed(net: str) -> None:
    def client(seed: int) -> int:
        chance, echoed = random.Random(seed), 0
        sock = server.connect()
        with ThreadPoolExecutor(1) as pool:
            while time.monotonic() < until:
                message = chance.randbytes(chance.randrange(1, 100_001))
                sending = pool.submit(sock.sendall, message)
                assert receive(sock, len(message)) == message
                sending.result()
                echoed += 1
        return echoed

    until = time.monotonic() + 1
    with live(net, echo) as server, ThreadPoolExecutor(10) as pool:
        assert all(pool.map(client, range(10)))
