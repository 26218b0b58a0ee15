"""Addresses: those that serve listens on, and those that it shows."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import connect, descriptors, echo, exchange, free_port, listener, live, receive

import evio


@contextlib.contextmanager
def listener6(host: str, *, dualstack: bool = False) -> Iterator[socket.socket]:
    with socket.create_server((host, 0), family=socket.AF_INET6, dualstack_ipv6=dualstack) as sock:
        yield sock


def shown(net: str, sock: socket.socket, target: Any) -> tuple[str, str]:
    """Return the port of a client that connected to `target`, and the address that accept was given."""
    with live(net, echo, addr=sock) as server, connect(target) as client:
        exchange(client, b"x")
        return server.accepted[1], client.getsockname()[1]


# Of the clients


def test_ipv4_client(tcp: str) -> None:
    with listener(tcp) as sock:
        addr, port = shown(tcp, sock, sock)
        assert addr == f"127.0.0.1:{port}"


def test_ipv6_client(suffix: str) -> None:
    with listener6("::1") as sock:
        addr, port = shown("tcp6" + suffix, sock, sock)
        assert addr == f"[::1]:{port}"


def link_local() -> list[str]:
    """Return this machine's link-local addresses, with their zones."""
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return []
    found = [line.split() for line in lines if line.startswith("fe80")]
    return [f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(fields[0]))}%{fields[5]}" for fields in found]


@pytest.mark.parametrize("host", link_local()[:1])
def test_ipv6_client_with_a_zone(suffix: str, host: str) -> None:
    with listener6("::") as sock:
        addr, port = shown("tcp6" + suffix, sock, (host, sock.getsockname()[1]))
        assert addr == f"[{host}]:{port}"


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_clients_of_both_families_on_one_listener(tcp: str, host: str, expected: str) -> None:
    with listener6("::", dualstack=True) as sock:
        addr, port = shown(tcp, sock, (host, sock.getsockname()[1]))
        assert addr == f"{expected}:{port}"


def test_unix_client(unix: str) -> None:
    with live(unix, echo) as server:
        exchange(server.connect(), b"x")
        assert server.accepted == {1: ""}


def test_unix_client_with_a_name(unix: str, tmp_path: Path) -> None:
    with live(unix, echo) as server, socket.socket(socket.AF_UNIX) as client:
        client.bind(str(tmp_path / "client"))
        client.connect(server.addr.getsockname())
        exchange(client, b"x")
        assert server.accepted == {1: ""}


# Of the server


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", ""])
@pytest.mark.parametrize("base", ["tcp", "tcp4"])
def test_host_and_port(suffix: str, base: str, host: str) -> None:
    port = free_port()
    with live(base + suffix, echo, addr=f"{host}:{port}"), connect(("127.0.0.1", port)) as client:
        assert exchange(client, b"hello") == b"hello"


@pytest.mark.parametrize(("net", "addr"), [("tcp", "[::1]:"), ("tcp6", "[::1]:"), ("tcp6", ":"), ("tcp", ":")])
def test_ipv6_host_and_port(suffix: str, net: str, addr: str) -> None:
    port = free_port()
    with live(net + suffix, echo, addr=f"{addr}{port}"), connect(("::1", port)) as client:
        assert exchange(client, b"hello") == b"hello"


def test_tcp6_is_ipv6_alone(suffix: str) -> None:
    port = free_port()

    def ticker(ctx: Any) -> bool:
        with connect(("::1", port)), pytest.raises(ConnectionRefusedError):
            connect(("127.0.0.1", port))
        return False

    evio.serve("tcp6" + suffix, f":{port}", ticker=ticker)


def test_unix_path_is_unlinked_at_return(unix: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    for addr in (str(path), path):
        with live(unix, echo, addr=addr), connect(str(path)) as client:
            assert exchange(client, b"hello") == b"hello"
            assert path.is_socket()
        assert not path.exists()


def test_unix_path_that_became_another_is_left_alone(unix: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"

    def ticker(ctx: Any) -> bool:
        path.unlink()
        path.write_text("another's")
        return False

    evio.serve(unix, str(path), ticker=ticker)
    assert path.read_text() == "another's"


def test_relative_unix_path_after_chdir(unix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ticker(ctx: Any) -> bool:
        assert Path("socket").is_socket()
        monkeypatch.chdir("/")
        return False

    monkeypatch.chdir(tmp_path)
    evio.serve(unix, "socket", ticker=ticker)
    assert not (tmp_path / "socket").exists()


@pytest.mark.parametrize("name", ["@evio-test"] if sys.platform == "linux" else [])
def test_abstract_name(unix: str, name: str) -> None:
    name = f"{name}-{os.getpid()}"
    with live(unix, echo, addr=name), connect(name) as client:
        assert exchange(client, b"hello") == b"hello"
        assert not os.path.exists(name)


def test_listening_socket_stays_the_callers(net: str) -> None:
    with listener(net) as sock:
        for _ in range(2):  # and serves again
            with live(net, echo, addr=sock), connect(sock) as client:
                assert exchange(client, b"hello") == b"hello"
            assert sock.fileno() != -1
        with connect(sock) as client:  # its queue goes on without serve
            sock.setblocking(True)
            with sock.accept()[0] as accepted:
                accepted.sendall(b"mine")
                assert receive(client, 4) == b"mine"


def test_listening_socket_with_so_reuseport(tcp: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0), reuse_port=True) as first,
        socket.create_server(first.getsockname(), reuse_port=True) as second,
        live(tcp, echo, addr=first) as one,
        live(tcp, echo, addr=second) as two,
    ):
        for _ in range(100):
            with connect(first) as client:
                exchange(client, b"x")
        assert len(one.accepted) + len(two.accepted) == 100
        assert one.accepted
        assert two.accepted


def serve_in_vain(net: str, addr: str) -> OSError:
    """Return the error of a serve that cannot listen; no callback may run."""

    def fail(*args: Any) -> None:
        pytest.fail("a callback ran")

    with pytest.raises(OSError, match=re.escape(addr)) as caught:
        evio.serve(net, addr, fail, fail, fail, fail)
    return caught.value


def test_tcp_address_in_use(tcp: str) -> None:
    with listener(tcp) as sock:
        error = serve_in_vain(tcp, f"127.0.0.1:{sock.getsockname()[1]}")
        assert error.errno == errno.EADDRINUSE


def test_empty_host_with_the_port_in_use_by_an_ipv6_server(tcp: str) -> None:
    with listener6("::") as sock:
        error = serve_in_vain(tcp, f":{sock.getsockname()[1]}")
        assert error.errno == errno.EADDRINUSE


def test_served_address_in_use(tcp: str) -> None:
    port = free_port()
    with live(tcp, echo, addr=f"127.0.0.1:{port}"), connect(("127.0.0.1", port)) as client:
        assert serve_in_vain(tcp, f"127.0.0.1:{port}").errno == errno.EADDRINUSE
        assert exchange(client, b"hello") == b"hello"


def test_address_that_was_just_used(tcp: str) -> None:
    port = free_port()
    addr = f"127.0.0.1:{port}"
    for _ in range(3):  # SO_REUSEADDR: what is left in TIME_WAIT does not matter
        with live(tcp, lambda id, data, ctx: (data, False), addr=addr), connect(("127.0.0.1", port)) as client:
            assert exchange(client, b"hello") == b"hello"


def test_address_of_another_machine(tcp: str) -> None:
    assert serve_in_vain(tcp, "192.0.2.1:9999").errno == errno.EADDRNOTAVAIL


def test_name_that_cannot_be_resolved(tcp: str) -> None:
    assert isinstance(serve_in_vain(tcp, "name.invalid:9999"), socket.gaierror)


def test_live_unix_socket_is_in_use(unix: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with live(unix, echo, addr=str(path)) as server:
        assert serve_in_vain(unix, str(path)).errno == errno.EADDRINUSE
        assert exchange(server.connect(), b"hello") == b"hello"


def test_dead_unix_socket_is_replaced(unix: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with live(unix, echo, addr=str(path)) as server:
        assert exchange(server.connect(), b"hello") == b"hello"
    assert not path.exists()


def test_file_is_left_alone(unix: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    assert serve_in_vain(unix, str(path)).errno == errno.EADDRINUSE
    assert path.read_text() == "precious"


@pytest.mark.parametrize("target", ["file", "dead", "nowhere"])
def test_symlink_is_left_alone(unix: str, tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_text("precious")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    link = tmp_path / "link"
    link.symlink_to(tmp_path / target)
    assert serve_in_vain(unix, str(link)).errno == errno.EADDRINUSE
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["dead", "file", "link"]


def test_unix_path_in_no_folder(unix: str, tmp_path: Path) -> None:
    assert serve_in_vain(unix, str(tmp_path / "nowhere" / "socket")).errno == errno.ENOENT


def test_unix_path_that_is_too_long(unix: str, tmp_path: Path) -> None:
    serve_in_vain(unix, str(tmp_path / ("x" * 120)))
    assert os.listdir(tmp_path) == []


def test_nothing_is_left_open_by_a_failed_serve(tcp: str, unix: str, tmp_path: Path) -> None:
    before = descriptors()
    (tmp_path / "file").touch()
    with listener(tcp) as sock:
        taken = f"127.0.0.1:{sock.getsockname()[1]}"
        for net, addr in ((tcp, taken), (tcp, "name.invalid:1"), (unix, str(tmp_path / "file"))):
            serve_in_vain(net, addr)
        sock.close()
        assert descriptors() == before
