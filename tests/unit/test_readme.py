"""What the README and the docs show does what they say: every Python snippet is run, every command exists."""

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
import redis

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
LINES, PREFIXED, NETSTRINGS, UNSERVED = blocks("docs/framing.md", "python")
REDIS, UNKNOWN, REPLIES = blocks("docs/resp.md", "python")


class Running:
    """A snippet that runs, and its address."""

    def __init__(self, process: subprocess.Popen[str], address: tuple[str, int]) -> None:
        self.process = process
        self.address = address

    @contextlib.contextmanager
    def client(self) -> Iterator[tuple[socket.socket, IO[bytes]]]:
        """Connect, for sending to the one and reading from the other."""
        with socket.create_connection(self.address, DEADLINE) as sock, sock.makefile("rb") as replies:
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


def test_lines(tmp_path: Path) -> None:
    with running(LINES, tmp_path) as server, server.client() as (sock, replies):
        sock.sendall(b"one\ntw")
        assert replies.readline() == b"you said one\n"
        sock.sendall(b"o\r\n\n")
        assert [replies.readline(), replies.readline()] == [b"you said two\n", b"you said \n"]


def test_prefixed(tmp_path: Path) -> None:
    with running(PREFIXED, tmp_path) as server, server.client() as (sock, replies):
        sock.sendall(b"\0\0\0\3one\0\0\0\0\0\0")
        assert replies.read(11) == b"\0\0\0\3one\0\0\0\0"
        sock.sendall(b"\0\3two")
        assert replies.read(7) == b"\0\0\0\3two"


def test_netstrings(tmp_path: Path) -> None:
    with running(NETSTRINGS, tmp_path) as server:
        with server.client() as (sock, replies):
            sock.sendall(b"5:hello,0:,1000:" + b"x" * 999)
            assert replies.read(11) == b"5:hello,0:,"
            sock.sendall(b"x,1")
            assert replies.read(1006) == b"1000:" + b"x" * 1000 + b","
            sock.sendall(b":a,")
            assert replies.read(4) == b"1:a,"
        for bad in (b"1001", b"10000", b"00000", b":", b"x", b"-1:", b"1 :a,"):
            with server.client() as (sock, replies):
                sock.sendall(b"1:a," + bad)
                assert replies.read() == b"1:a,10:bad length,"
        with server.client() as (sock, replies):
            sock.sendall(b"1:a,1:bc")
            assert replies.read() == b"1:a,8:no comma,"


@pytest.mark.parametrize(("page", "snippet"), [("docs/framing.md", UNSERVED), ("docs/resp.md", REPLIES)])
def test_snippet_prints_what_is_shown(page: str, snippet: str) -> None:
    ran = subprocess.run([sys.executable, "-W", "error", "-c", snippet], cwd=ROOT, capture_output=True, check=True)
    assert f"```python\n{snippet}```\n\nprints\n\n```\n{ran.stdout.decode()}```\n" in (ROOT / page).read_text("utf-8")


def test_redis_server(tmp_path: Path) -> None:
    assert len([line for line in REDIS.splitlines() if line.strip()]) == 20
    with running(REDIS, tmp_path) as server:
        for protocol in (None, 2, 3):
            with redis.Redis(*server.address, socket_timeout=DEADLINE, protocol=protocol) as client:
                assert client.ping() is True
                assert client.set("greeting", "hello") is True
                assert client.get("greeting") == b"hello"
                assert client.get("nothing") is None
                with client.pipeline(transaction=False) as pipeline:
                    for number in range(200):
                        pipeline.set(f"key:{number}", number)
                    for number in range(200):
                        pipeline.get(f"key:{number}")
                    assert pipeline.execute() == [True] * 200 + [b"%d" % number for number in range(200)]
                with pytest.raises(redis.ResponseError, match="cannot LPUSH with 2 arguments"):
                    client.lpush("list", "item")


def test_redis_server_that_knows_its_names(tmp_path: Path) -> None:
    with running(UNKNOWN, tmp_path) as server, server.client() as (sock, replies):
        sock.sendall(b"ping\r\nPING\r\nping x\r\nFoo a b\r\nfoo\r\n")
        assert [replies.readline() for _ in range(5)] == [
            b"+PONG\r\n",
            b"+PONG\r\n",
            b"-ERR wrong number of arguments for 'ping' command\r\n",
            b"-ERR unknown command 'Foo', with args beginning with: 'a' 'b' \r\n",
            b"-ERR unknown command 'foo', with args beginning with: \r\n",
        ]


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
        # What make has made may not be there yet, but what it is made of is.
        assert (ROOT / re.sub(r"^build/(c/\w+)$", r"tests/\1.c", word)).exists(), word


def test_links() -> None:
    for page in ("README.md", "CHANGELOG.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text("utf-8")):
            assert (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"
