"""An echo server on evio or on one of its peers, each with the least that its library asks for: `echo.py KIND PORT`."""

from __future__ import annotations

import argparse
import asyncio
import mmap
import threading
from collections.abc import Callable
from typing import cast

import evio

HOST = "127.0.0.1"
BACKLOG = 4096


def run_evio(port: int, keep: bool) -> None:
    wakes: list[evio.Wake] = []

    def accept(id: int, addr: str, wake: evio.Wake, ctx: None) -> None:
        wakes.append(wake)

    evio.serve("tcp", f"{HOST}:{port}", lambda id, data, ctx: data, accept if keep else None)


class Protocol(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def serve_protocol(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Protocol, HOST, port, backlog=BACKLOG)
    await server.serve_forever()


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def serve_streams(port: int) -> None:
    server = await asyncio.start_server(echo_stream, HOST, port, backlog=BACKLOG)
    await server.serve_forever()


def run_asyncio(port: int, keep: bool) -> None:
    asyncio.run(serve_protocol(port))


def run_streams(port: int, keep: bool) -> None:
    asyncio.run(serve_streams(port))


def run_uvloop(port: int, keep: bool) -> None:
    import uvloop  # noqa: PLC0415 (it need not be there)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_protocol(port))


def run_gevent(port: int, keep: bool) -> None:
    from gevent.server import StreamServer  # noqa: PLC0415
    from gevent.socket import socket  # noqa: PLC0415

    def echo(client: socket, address: object) -> None:
        while data := client.recv(65536):
            client.sendall(data)

    StreamServer((HOST, port), echo, backlog=BACKLOG).serve_forever()


KINDS: dict[str, Callable[[int, bool], None]] = {
    "evio": run_evio,
    "asyncio": run_asyncio,
    "streams": run_streams,
    "uvloop": run_uvloop,
    "gevent": run_gevent,
}


def spin(path: str) -> None:
    """Compute for ever in pure Python, and count in the first 8 bytes of a file how far it came."""
    with open(path, "r+b") as file:
        counter = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")
    while True:
        for _ in range(1000):
            pass
        counter[0] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("port", type=int)
    parser.add_argument("--keep", action="store_true", help="evio: keep a wake for each connection, as the others do")
    parser.add_argument("--spin", metavar="FILE", help="have a second thread compute all the time; the file counts")
    options = parser.parse_args()
    if options.spin:
        threading.Thread(target=spin, args=(options.spin,), daemon=True).start()
    KINDS[options.kind](options.port, options.keep)


if __name__ == "__main__":
    main()
