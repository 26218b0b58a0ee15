"""An echo server: `python examples/echo_server.py`, then `telnet localhost 9999`."""

from __future__ import annotations

import argparse
import sys

import evio

GREETING = b"Welcome to the echo server!\nEnter 'quit' to close your connection or 'shutdown' to close the server.\n"


class Echo:
    """What the callbacks share: serve hands it to each of them as `ctx`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.started = False
        self.shutdown = False


def handle(id: int, data: bytes, echo: Echo) -> tuple[bytes | None, bool]:
    """Answer what has come from a client."""
    if echo.shutdown:
        return None, False
    if data in (b"shutdown\r\n", b"shutdown\n"):
        echo.shutdown = True
    return data, data not in (b"quit\r\n", b"quit\n")


def accept(id: int, addr: str, wake: evio.Wake, echo: Echo) -> tuple[bytes | None, bool]:
    """Greet a new client. `wake` calls `handle` for it, from any thread, or sends it what it is given."""
    if echo.shutdown:
        return None, False
    # This is a good place to create what belongs to the connection.
    return GREETING, True


def closed(id: int, err: BaseException | None, echo: Echo) -> None:
    """Take leave of a client. This is the place to tear down what belonged to the connection."""


def ticker(echo: Echo) -> bool:
    """Do what is not about a client, 1 to 60 times a second depending on the traffic."""
    if not echo.started:
        print(f"echo server started on port {echo.port}", flush=True)
        echo.started = True
    return not echo.shutdown


def main() -> None:
    parser = argparse.ArgumentParser(description="An echo server.")
    parser.add_argument("--port", type=int, default=9999, help="server port (default: %(default)s)")
    parser.add_argument("--compat", action="store_true", help="serve with the portable engine")
    options = parser.parse_args()
    net = "tcp-compat" if options.compat else "tcp"
    try:
        evio.serve(net, f":{options.port}", handle, accept, closed, ticker, Echo(options.port))
    except OSError as error:
        sys.exit(f"echo server: {error.strerror}")
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()
