"""The fixtures that make every test run on every engine, or every codec, that this build has."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from unit.twins import CODECS, Codec

import evio

# Machines are noisy: how long an example takes says nothing.
settings.register_profile("evio", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("evio")

ENGINES = ("compat",) if evio.engine == "selectors" else ("native", "compat")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn: "native" or "compat"."""
    return str(request.param)


@pytest.fixture
def suffix(engine: str) -> str:
    """What a net is given behind it to run on the engine."""
    return "-compat" if engine == "compat" else ""


@pytest.fixture
def tcp(suffix: str) -> str:
    return "tcp" + suffix


@pytest.fixture
def unix(suffix: str) -> str:
    return "unix" + suffix


@pytest.fixture(params=("tcp", "unix"))
def net(request: pytest.FixtureRequest, suffix: str) -> str:
    """Both kinds of sockets on each engine."""
    return str(request.param) + suffix


@pytest.fixture(params=CODECS, scope="session")  # so that hypothesis may use it
def codec(request: pytest.FixtureRequest) -> Codec:
    """Each codec in turn: that in C and that in Python."""
    return Codec(request.param)
