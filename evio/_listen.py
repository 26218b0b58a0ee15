"""Listeners: from `net` and `addr` to a listening, non-blocking socket. Both engines are given theirs here."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from typing import Any, TypeAlias

Address: TypeAlias = str | os.PathLike[str] | socket.socket

_AF_UNIX = getattr(socket, "AF_UNIX", None)
_FAMILIES: dict[str, tuple[Any, ...]] = {
    "tcp": (socket.AF_INET6, socket.AF_INET),
    "tcp4": (socket.AF_INET,),
    "tcp6": (socket.AF_INET6,),
    "unix": (_AF_UNIX,),
}
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)  # what binding says where a kernel has IPv6 switched off
_COMPAT = "-compat"
_NETS = [*_FAMILIES, *(name + _COMPAT for name in _FAMILIES)]


def parse_net(net: str) -> tuple[str, bool]:
    """Return the net without its suffix, and whether the suffix asks for the portable engine.

    Raises:
        TypeError: `net` is not a string.
        ValueError: `net` is none of the known ones; the text lists them.
    """
    if not isinstance(net, str):
        raise TypeError(f"net must be a str, not {type(net).__name__}; allowed: {', '.join(_NETS)}")
    if net not in _NETS:
        raise ValueError(f"unknown net {net!r}; allowed: {', '.join(_NETS)}")
    base = net.removesuffix(_COMPAT)
    if base == "unix" and _AF_UNIX is None:
        raise ValueError("net 'unix' needs unix sockets, and this platform's Python has none")
    return base, base != net


def parse_tcp(net: str, addr: object) -> tuple[str, int]:
    """Return the host, "" for all, and the port that an address names.

    Raises:
        TypeError: `addr` is not a string.
        ValueError: `addr` is not a host and a port; the text says what is wrong with it.
    """
    if not isinstance(addr, str):
        raise TypeError(f"addr must be a str or a listening socket for net {net!r}, not {type(addr).__name__}")
    allowed = "allowed: 'host:port', ':port', '[v6]:port', or a listening socket"
    host, colon, port = addr.rpartition(":")
    if not colon:
        raise ValueError(f"address {addr!r} has no port; {allowed}")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ValueError(f"address {addr!r} has port {port!r}, which is not a number from 0 to 65535; {allowed}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host or "[" in host or "]" in host:
            raise ValueError(f"address {addr!r} has no IPv6 address in its brackets; {allowed}")
    elif any(character in host for character in ":[]"):
        raise ValueError(f"address {addr!r} has an IPv6 address without brackets; {allowed}")
    if "\0" in host:
        raise ValueError(f"address {addr!r} has a NUL in it; {allowed}")
    return host, int(port)


def parse_unix(addr: object) -> str:
    """Return the path, or "@name", that an address names.

    Raises:
        TypeError: `addr` is no path.
        ValueError: `addr` is one that no file can have.
    """
    if not isinstance(addr, (str, os.PathLike)):
        raise TypeError(f"addr must be a path or a listening socket for net 'unix', not {type(addr).__name__}")
    path = os.fspath(addr)
    if not isinstance(path, str) or not path or "\0" in path or not _is_encodable(path):
        raise ValueError(f"address {path!r} is no path; allowed: a path, '@name' on Linux, or a listening socket")
    return path


def _is_encodable(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:  # half of a character
        return False
    return True


def socket_options(nodelay: bool, keepalive: int) -> list[tuple[int, int, int]]:
    """Return what is to be set on a client's TCP socket: level, name, value."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)] if nodelay else []
    if keepalive:
        options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
        idle = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"  # the latter is macOS's
        for name, value in ((idle, keepalive), ("TCP_KEEPINTVL", max(1, keepalive // 3)), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


@contextlib.contextmanager
def listening(net: str, addr: Address) -> Iterator[socket.socket]:
    """Listen while the block runs, on a socket that the block does not own.

    Args:
        net: "tcp", "tcp4", "tcp6" or "unix".
        addr: "host:port", ":port", "[v6]:port", a path, "@name", or a listening socket, of which
            a duplicate is used.

    Raises:
        TypeError, ValueError: `addr` is nothing that `net` can listen on.
        OSError, socket.gaierror: resolving, binding or listening failed; the address is in the text.
    """
    if isinstance(addr, socket.socket):
        opened = _duplicate(net, addr)
    elif net == "unix":
        opened = _listen_unix(addr)
    else:
        opened = _listen_tcp(net, addr)
    with opened as listener:
        # The flag is the description's, which a caller's socket shares. It is not put back:
        # other servers may be accepting from the same description, and one that blocks would hang.
        listener.setblocking(False)
        yield listener


@contextlib.contextmanager
def _duplicate(net: str, sock: socket.socket) -> Iterator[socket.socket]:
    families = _FAMILIES[net]
    if sock.fileno() == -1:
        raise ValueError("addr is a closed socket; it must be a listening one")
    if sock.family not in families or sock.type != socket.SOCK_STREAM:
        allowed = " or ".join(str(getattr(family, "name", family)) for family in families)
        found = f"{getattr(sock.family, 'name', sock.family)} {getattr(sock.type, 'name', sock.type)}"
        raise ValueError(f"net {net!r} takes a listening SOCK_STREAM socket of {allowed}, not {found}")
    if not _is_listening(sock):
        raise ValueError("addr is a socket that does not listen; call its listen() first")
    with duplicate(sock.fileno()) as listener:
        yield listener


def duplicate(fd: int) -> socket.socket:
    """Return a socket with a descriptor of its own for what `fd` is, of the family and type that the system knows.

    Not socket.dup(), which sets the timeout anew: for a moment the description would block, and with it any other
    process or thread that accepts from it. Nor fromfd(), which loses the descriptor where there is no memory for
    the socket.
    """
    own = socket.dup(fd)
    try:
        return socket.socket(fileno=own)
    except BaseException:
        socket.close(own)
        raise


def _is_listening(sock: socket.socket) -> bool:
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except (AttributeError, OSError):  # a platform that cannot tell: macOS before 10.14, Windows without the name
        return True


# tcp


@contextlib.contextmanager
def _listen_tcp(net: str, addr: Any) -> Iterator[socket.socket]:
    host, port = parse_tcp(net, addr)
    with _explained(net, addr):
        listener = _bind_tcp(net, host, port)
    with listener:
        yield listener


def _bind_tcp(net: str, host: str, port: int) -> socket.socket:
    if net == "tcp" and not host:
        if socket.has_dualstack_ipv6():
            try:
                return _create(socket.AF_INET6, ("::", port), dualstack=True)
            except OSError as error:
                if error.errno not in _NO_IPV6:
                    raise
        return _create(socket.AF_INET, ("0.0.0.0", port))
    families = _FAMILIES[net]
    family = socket.AF_UNSPEC if net == "tcp" else families[0]
    found = socket.getaddrinfo(host or None, port, family, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
    # One server, one listener. A name that means both, such as localhost, means IPv4: clients
    # that try IPv6 first fall back, those that only know IPv4 cannot.
    found.sort(key=lambda info: info[0] != socket.AF_INET)
    return _create(found[0][0], found[0][4])


def _create(family: int, sockaddr: tuple[object, ...], dualstack: bool = False) -> socket.socket:
    return socket.create_server(
        sockaddr,
        family=family,
        backlog=socket.SOMAXCONN,
        dualstack_ipv6=dualstack,
    )


# unix


@contextlib.contextmanager
def _listen_unix(addr: object) -> Iterator[socket.socket]:
    path = parse_unix(addr)
    abstract = path.startswith("@")
    if abstract and not sys.platform.startswith("linux"):
        raise ValueError(f"address {path!r}: abstract names are Linux's alone; a file's name can be given as './@name'")
    with socket.socket(_AF_UNIX, socket.SOCK_STREAM) as listener:  # type: ignore[arg-type]
        with _explained("unix", path):
            if abstract:
                listener.bind("\0" + path[1:])
            else:
                _bind_path(listener, path)
            made = None if abstract else _Made(path)
        try:
            with _explained("unix", path):
                listener.listen(socket.SOMAXCONN)
            yield listener
        finally:
            # Before the listener closes: it is what keeps the inode's number from being used again.
            if made is not None:
                made.unlink()


class _Made:
    """A socket file of ours."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._inode = _inode(path)
        self._pid = os.getpid()

    def unlink(self) -> None:
        """Remove the file if it is still the one that was made, and this process the one that made it."""
        with contextlib.suppress(OSError):  # it is gone, or no longer ours to remove
            if os.getpid() == self._pid and _inode(self._path) == self._inode:
                os.unlink(self._path)


def _bind_path(listener: socket.socket, path: str) -> None:
    try:
        listener.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _is_dead(path):
            raise
        os.unlink(path)
        listener.bind(path)


def _is_dead(path: str) -> bool:
    """Tell whether `path` is a socket that nobody listens on."""
    before = _inode(path)
    if before is None or not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(_AF_UNIX, socket.SOCK_STREAM) as probe:  # type: ignore[arg-type]
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED and _inode(path) == before


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _explained(net: str, addr: str) -> Iterator[None]:
    """Put the address into the text of whatever is raised."""
    try:
        yield
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"cannot resolve {net} address {addr!r}: {error.strerror}") from None
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, f"cannot resolve {net} address {addr!r}: {error}") from None
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno or errno.EINVAL, f"cannot listen on {net} address {addr!r}: {why}") from None
