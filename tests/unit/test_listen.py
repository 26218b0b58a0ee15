"""From `net` and `addr` to a listening socket, and what is said of those that are none."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from fuzz.fuzz_addresses import check
from harness import descriptors

from evio._listen import listening, parse_net

ALL = "tcp, tcp4, tcp6, unix, tcp-compat, tcp4-compat, tcp6-compat, unix-compat"


@pytest.mark.parametrize("base", ["tcp", "tcp4", "tcp6", "unix"])
@pytest.mark.parametrize(("suffix", "compat"), [("", False), ("-compat", True)])
def test_net(base: str, suffix: str, compat: bool) -> None:
    assert parse_net(base + suffix) == (base, compat)


@pytest.mark.parametrize("net", ["", "udp", "TCP", "tcp-", "-compat", "tcp-compat-compat", "tcp "])
def test_unknown_net_is_an_error_that_lists_what_is_allowed(net: str) -> None:
    with pytest.raises(ValueError, match=f"^unknown net {net!r}; allowed: {ALL}$"):
        parse_net(net)


@pytest.mark.parametrize("net", [None, b"tcp", 4, ["tcp"]])
def test_net_that_is_no_text(net: Any) -> None:
    with pytest.raises(TypeError, match="net must be a str, not "):
        parse_net(net)


@pytest.mark.parametrize(
    ("net", "addr", "family", "host"),
    [
        ("tcp", "127.0.0.1:0", socket.AF_INET, "127.0.0.1"),
        ("tcp", "localhost:0", socket.AF_INET, "127.0.0.1"),
        ("tcp", "[::1]:0", socket.AF_INET6, "::1"),
        ("tcp", ":0", socket.AF_INET6, "::"),
        ("tcp4", ":0", socket.AF_INET, "0.0.0.0"),
        ("tcp4", "127.0.0.1:0", socket.AF_INET, "127.0.0.1"),
        ("tcp6", ":0", socket.AF_INET6, "::"),
        ("tcp6", "[::1]:0", socket.AF_INET6, "::1"),
    ],
)
def test_tcp_listener(net: str, addr: str, family: int, host: str) -> None:
    with listening(net, addr) as sock:
        assert sock.family == family
        assert sock.getsockname()[0] == host
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        if family == socket.AF_INET6:
            both = not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            assert both == (net == "tcp" and host == "::")
    assert sock.fileno() == -1


def test_backlog_is_what_the_system_allows() -> None:
    with listening("tcp4", "127.0.0.1:0") as sock, contextlib.ExitStack() as clients:
        for _ in range(300):  # more than the 128 that is usual
            client = clients.enter_context(socket.socket())
            client.settimeout(1)
            client.connect(sock.getsockname())


@pytest.mark.parametrize(
    ("addr", "why"),
    [
        ("", "has no port"),
        ("localhost", "has no port"),
        ("localhost:", "has port '', which is not a number from 0 to 65535"),
        ("localhost:http", "has port 'http', which is not a number from 0 to 65535"),
        ("localhost:65536", "has port '65536', which is not a number from 0 to 65535"),
        ("localhost:-1", "has port '-1', which is not a number from 0 to 65535"),
        ("localhost:+1", "has port '+1', which is not a number from 0 to 65535"),
        ("localhost: 1", "has port ' 1', which is not a number from 0 to 65535"),
        ("localhost:1_0", "has port '1_0', which is not a number from 0 to 65535"),
        ("localhost:٣", "has port '٣', which is not a number from 0 to 65535"),
        ("localhost:" + "1" * 5000, "which is not a number from 0 to 65535"),
        ("::1:80", "has an IPv6 address without brackets"),
        ("[::1:80", "has an IPv6 address without brackets"),
        ("[]:80", "has no IPv6 address in its brackets"),
        ("[localhost]:80", "has no IPv6 address in its brackets"),
        ("[[::1]]:80", "has no IPv6 address in its brackets"),
        ("local\0host:80", "has a NUL in it"),
    ],
)
def test_bad_tcp_address_is_an_error_that_says_what_is_allowed(addr: str, why: str) -> None:
    with pytest.raises(ValueError, match="; allowed: ") as caught, listening("tcp", addr):
        pass
    text = str(caught.value)
    assert text.startswith(f"address {addr!r} has ")
    assert why in text
    assert text.endswith("; allowed: 'host:port', ':port', '[v6]:port', or a listening socket")


@pytest.mark.parametrize("addr", [None, 80, b"localhost:80", ("localhost", 80)])
def test_tcp_address_of_another_type(addr: Any) -> None:
    text = "addr must be a str or a listening socket for net 'tcp', not "
    with pytest.raises(TypeError, match=text), listening("tcp", addr):
        pass


@pytest.mark.parametrize("addr", [None, 80, b"/tmp/socket"])
def test_unix_address_of_another_type(addr: Any) -> None:
    text = "addr must be a path or a listening socket for net 'unix', not "
    with pytest.raises(TypeError, match=text), listening("unix", addr):
        pass


@pytest.mark.parametrize("addr", ["", "a\0b", "\ud800"])
def test_bad_unix_path(addr: str) -> None:
    text = "is no path; allowed: a path, '@name' on Linux, or a listening socket"
    with pytest.raises(ValueError, match=text), listening("unix", addr):
        pass


@pytest.mark.parametrize(("net", "host"), [("tcp4", "::1"), ("tcp6", "127.0.0.1"), ("tcp", "a..b"), ("tcp", "x" * 300)])
def test_host_that_cannot_be_resolved(net: str, host: str) -> None:
    addr = f"[{host}]:80" if ":" in host else f"{host}:80"
    with pytest.raises(socket.gaierror) as caught, listening(net, addr):
        pass
    assert f"cannot resolve {net} address {addr!r}: " in str(caught.value)


def test_whatever_is_given_is_understood_or_an_error_that_says_what_it_was() -> None:
    corpus = sorted((Path(__file__).parents[1] / "fuzz/corpus/addresses").iterdir())
    assert corpus
    for file in corpus:
        check(file.read_bytes())


def test_unix_listener(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening("unix", path) as sock:
        assert sock.getsockname() == str(path)
        assert path.is_socket()
        assert not sock.getblocking()
        assert not sock.get_inheritable()
    assert not path.exists()


def test_path_is_unlinked_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with pytest.raises(ZeroDivisionError), listening("unix", str(path)):
        raise ZeroDivisionError
    assert not path.exists()


def test_path_that_was_unlinked_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening("unix", str(path)):
        path.unlink()


def test_path_that_another_server_took_over_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening("unix", str(path)), socket.socket(socket.AF_UNIX) as other:
        path.unlink()
        other.bind(str(path))
        inode = path.stat().st_ino
    assert path.is_socket()
    assert path.stat().st_ino == inode


@pytest.mark.parametrize("net", ["tcp", "tcp4"])
def test_listening_socket_is_duplicated(net: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        with listening(net, mine) as sock:
            assert sock.fileno() != mine.fileno()
            assert sock.getsockname() == mine.getsockname()
            assert not sock.get_inheritable()
        assert mine.fileno() != -1


def test_listening_socket_of_unix_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as mine:
        mine.bind(str(path))
        mine.listen()
        with listening("unix", mine):
            pass
        assert path.is_socket()


def test_socket_that_is_closed() -> None:
    with socket.socket() as mine:
        pass
    with pytest.raises(ValueError, match="addr is a closed socket"), listening("tcp", mine):
        pass


def test_socket_that_does_not_listen() -> None:
    with socket.socket() as mine, pytest.raises(ValueError, match="does not listen"), listening("tcp", mine):
        pass


@pytest.mark.parametrize(
    ("net", "family", "kind"),
    [
        ("tcp", socket.AF_UNIX, socket.SOCK_STREAM),
        ("tcp4", socket.AF_INET6, socket.SOCK_STREAM),
        ("tcp6", socket.AF_INET, socket.SOCK_STREAM),
        ("unix", socket.AF_INET, socket.SOCK_STREAM),
        ("tcp", socket.AF_INET, socket.SOCK_DGRAM),
        ("unix", socket.AF_UNIX, socket.SOCK_SEQPACKET),
    ],
)
def test_socket_of_another_kind(net: str, family: int, kind: int) -> None:
    found = f"{socket.AddressFamily(family).name} {socket.SocketKind(kind).name}"
    text = f"^net {net!r} takes a listening SOCK_STREAM socket of AF_.*, not {found}$"
    with socket.socket(family, kind) as mine, pytest.raises(ValueError, match=text), listening(net, mine):
        pass


def test_nothing_is_left_open_by_failures(tmp_path: Path) -> None:
    before = descriptors()
    for net, addr in (("tcp", "192.0.2.1:80"), ("tcp", "x"), ("unix", os.fspath(tmp_path)), ("unix", "x" * 200)):
        with pytest.raises((OSError, ValueError)), listening(net, addr):
            pass
    assert descriptors() == before


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="PyPy sets every socket object that it makes to block")
def test_the_listening_socket_never_blocks_others_who_accept_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may be in accept on the same description, whatever its own socket object thinks."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        os.set_blocking(sock.fileno(), False)  # as the other's serve has done
        blocking: list[bool] = []

        def note(self: socket.socket, flag: bool) -> None:
            blocking.append(os.get_blocking(self.fileno()))

        monkeypatch.setattr(socket.socket, "setblocking", note)
        with listening("tcp", sock):
            assert blocking == [False]
