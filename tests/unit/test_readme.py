"""What the README and the contract show does what they say: every Python snippet is run, every command exists."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

import evio

ROOT = Path(__file__).parents[2]
DEADLINE = 20.0

# Runs a file as it is, but for the port: a snippet's is fixed, and may be taken. The listener is
# inherited, so clients need not wait until the server has started.
RUNNER = """
import re, runpy, socket, sys
import evio

serve = evio.serve

def serve_here(net, addr, *args, **kwargs):
    assert re.fullmatch(r":\\d+", addr), addr
    with socket.socket(fileno=int(sys.argv[2])) as listener:
        serve(net, listener, *args, **kwargs)

evio.serve = serve_here
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page that are in a language."""
    text = (ROOT / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


SERVER, SIGNATURE, ECHO = blocks("README.md", "python")
(DECODER,) = blocks("docs/contract.md", "python")


class Running:
    """A snippet that runs, and its address."""

    def __init__(self, process: subprocess.Popen[str], address: tuple[str, int]) -> None:
        self.process = process
        self._address = address

    @contextlib.contextmanager
    def client(self) -> Iterator[tuple[socket.socket, IO[bytes]]]:
        """Connect, for sending to the one and reading from the other."""
        with socket.create_connection(self._address, DEADLINE) as sock, sock.makefile("rb") as replies:
            yield sock, replies

    def read_to_end(self) -> str:
        """Wait for the process to end by itself; return what it has printed."""
        printed, _ = self.process.communicate(timeout=DEADLINE)
        assert self.process.returncode == 0
        return printed


@contextlib.contextmanager
def running(snippet: str, folder: Path) -> Iterator[Running]:
    file = folder / "snippet.py"
    file.write_text(snippet, "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        command = [sys.executable, "-W", "error", "-c", RUNNER, str(file), str(listener.fileno())]
        process = subprocess.Popen(command, cwd=ROOT, pass_fds=[listener.fileno()], stdout=subprocess.PIPE, text=True)
        address = listener.getsockname()
    with process:
        try:
            yield Running(process, address)
        finally:
            process.kill()


def test_server(tmp_path: Path) -> None:
    with running(SERVER, tmp_path) as server, server.client() as (sock, replies):
        sock.sendall(b"hello\r\n")
        assert replies.readline() == b"hello\r\n"


def test_signature() -> None:
    names: dict[str, object] = {}
    exec(SIGNATURE, names)
    shown, real = inspect.signature(names["serve"]), inspect.signature(evio.serve)  # type: ignore[arg-type]

    def essence(signature: inspect.Signature) -> list[tuple[object, ...]]:
        return [(each.name, each.kind, each.default) for each in signature.parameters.values()]

    assert essence(shown) == essence(real)


def test_echo_server(tmp_path: Path) -> None:
    with running(ECHO, tmp_path) as server:
        with server.client() as (sock, replies):
            assert replies.readline() == b"Welcome to the echo server!\n"
            assert b"'quit'" in replies.readline()
            sock.sendall(b"hello\r\n")
            assert replies.readline() == b"hello\r\n"
            sock.sendall(b"quit\r\n")
            assert replies.read() == b"quit\r\n"
        with server.client() as (sock, replies):
            assert replies.readline() == b"Welcome to the echo server!\n"
            assert replies.readline() != b""
            sock.sendall(b"shutdown\r\n")
            assert replies.read() == b"shutdown\r\n"
        assert server.read_to_end() == "echo server started on port 9999\n"


def test_decoder(tmp_path: Path) -> None:
    with running(DECODER, tmp_path) as server:
        with server.client() as (sock, replies):
            sock.sendall(b"one\ntw")
            assert replies.readline() == b"got one\n"
            sock.sendall(b"o\nthree\n")
            assert [replies.readline(), replies.readline()] == [b"got two\n", b"got three\n"]
        with server.client() as (sock, replies):
            sock.sendall(b"x" * 2000)
            assert replies.read() == b"line too long\n"


COMMANDS = "".join(blocks("README.md", "sh") + blocks("docs/hacking.md", "sh")).splitlines()


@pytest.mark.parametrize("command", [line for line in COMMANDS if re.search(r"\bmake\b", line)])
def test_make_target(command: str) -> None:
    words = shlex.split(command.removeprefix("$ "), comments=True)
    arguments = words[words.index("make") + 1 :]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    ran = subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_files_in_commands() -> None:
    found = [
        word for line in COMMANDS for word in line.split() if re.fullmatch(r"\w+(/\w+)*(\.py)?", word) and "/" in word
    ]
    assert found
    for word in found:
        assert (ROOT / word).exists(), word


def test_links() -> None:
    for page in ("README.md", "CHANGELOG.md", "docs/contract.md", "docs/design.md", "docs/hacking.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text("utf-8")):
            assert (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"
