"""serve's arguments: what is wrong with one is said at once, before anything is opened."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from harness import descriptors, shown

import evio


def refuse(**arguments: Any) -> str:
    """Return what serve says of arguments that it does not take."""
    before = descriptors()
    with pytest.raises((TypeError, ValueError)) as caught:
        evio.serve(**{"net": "tcp", "addr": "127.0.0.1:0"} | arguments)
    assert descriptors() == before
    return f"{caught.type.__name__}: {caught.value}"


@pytest.mark.parametrize("suffix", ["", "-compat"])
@pytest.mark.parametrize("name", ["handle", "accept", "closed", "ticker"])
@pytest.mark.parametrize("value", [5, "echo", b"", False, [print]], ids=shown)
def test_callback_that_cannot_be_called(suffix: str, name: str, value: Any) -> None:
    said = refuse(net="tcp" + suffix, **{name: value})
    assert said == f"TypeError: {name} must be callable or None, not {type(value).__name__}"


@pytest.mark.parametrize("value", [5, "lines", print, [], type("Frame", (), {"decoder": 5})()], ids=shown)
def test_frame_without_a_decoder(value: Any) -> None:
    assert (
        refuse(frame=value) == f"TypeError: frame must have a decoder() method or be None, not {type(value).__name__}"
    )


@pytest.mark.parametrize("value", [0, 1, None, "yes"], ids=shown)
def test_nodelay(value: Any) -> None:
    assert refuse(nodelay=value) == f"TypeError: nodelay must be a bool, not {type(value).__name__}"


@pytest.mark.parametrize(
    ("name", "least", "most"), [("max_conns", 1, 2**63 - 1), ("max_pending", 0, 2**63 - 1), ("keepalive", 0, 32767)]
)
def test_integers(name: str, least: int, most: int) -> None:
    for value in (least - 1, most + 1, -(10**30)):
        assert refuse(**{name: value}) == f"ValueError: {name} must be from {least} to {most}, not {value}"
    for wrong in (1.5, "1", True, [1]):
        assert refuse(**{name: wrong}) == f"TypeError: {name} must be an int, not {type(wrong).__name__}"


def test_max_pending_cannot_be_none() -> None:
    assert refuse(max_pending=None) == "TypeError: max_pending must be an int, not NoneType"


@pytest.mark.parametrize("value", [-1, -0.001, 2e9, float("inf"), float("nan"), 10**400], ids=shown)
@pytest.mark.parametrize(("name", "least"), [("linger", "from 0"), ("idle_timeout", "above 0")])
def test_seconds_out_of_range(name: str, least: str, value: float) -> None:
    assert refuse(**{name: value}) == f"ValueError: {name} must be {least} to 1e+09 seconds, not {value}"


def test_idle_timeout_above_zero() -> None:
    for value in (0, 0.0, -0.0):
        assert refuse(idle_timeout=value) == f"ValueError: idle_timeout must be above 0 to 1e+09 seconds, not {value}"


@pytest.mark.parametrize("name", ["linger", "idle_timeout"])
@pytest.mark.parametrize("value", ["5", True, [5], 5j], ids=shown)
def test_seconds_of_another_type(name: str, value: Any) -> None:
    assert refuse(**{name: value}) == f"TypeError: {name} must be a number of seconds, not {type(value).__name__}"


def test_linger_cannot_be_none() -> None:
    assert refuse(linger=None) == "TypeError: linger must be a number of seconds, not NoneType"


def test_net_and_addr_are_looked_at() -> None:
    assert refuse(net="udp").startswith("ValueError: unknown net 'udp'; allowed: tcp, tcp4, tcp6, unix, ")
    assert refuse(addr="localhost").startswith("ValueError: address 'localhost' has no port; allowed: ")
    assert refuse(net=None).startswith("TypeError: net must be a str")


@pytest.mark.parametrize("suffix", ["", "-compat"])
@pytest.mark.parametrize(
    "options",
    [
        {"idle_timeout": 1e9, "max_conns": 2**63 - 1, "max_pending": 2**63 - 1, "linger": 1e9, "keepalive": 32767},
        {"idle_timeout": 5e-324, "max_conns": 1, "max_pending": 0, "linger": 0, "keepalive": 0, "nodelay": False},
        {"idle_timeout": None, "max_conns": None, "linger": 5, "keepalive": None, "frame": None},
    ],
    ids=["largest", "least", "none"],
)
def test_limits_that_are_taken(suffix: str, options: dict[str, Any]) -> None:
    evio.serve("tcp" + suffix, "127.0.0.1:0", ticker=lambda ctx: False, **options)


def test_signature() -> None:
    assert str(inspect.signature(evio.serve, eval_str=False)).replace("'", "") == (
        "(net: str, addr: Address, handle: Handle | None = None, accept: Accept | None = None, "
        "closed: Closed | None = None, ticker: Ticker | None = None, ctx: Any = None, *, "
        "frame: Frame | None = None, idle_timeout: float | None = None, max_conns: int | None = None, "
        "max_pending: int = 67108864, linger: float = 5.0, nodelay: bool = True, keepalive: int | None = 300) -> None"
    )


def test_public_names() -> None:
    assert evio.engine in ("epoll", "kqueue", "selectors")
    assert {"serve", "Wake", "FrameError", "engine", "resp"} <= set(evio.__all__)
    assert all(hasattr(evio, name) for name in evio.__all__)


def test_frame_error() -> None:
    error = evio.FrameError("too big", reply=b"-ERR", messages=[b"one"])
    assert isinstance(error, ValueError)
    assert (str(error), error.reply, error.messages) == ("too big", b"-ERR", [b"one"])
    assert (evio.FrameError("x").reply, evio.FrameError("x").messages) == (None, [])
