"""What type checkers are shown: a right and a wrong use of every public name, and annotations that mean something."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest

import evio
from evio import resp

USES = Path(__file__).parents[1] / "typing"

FRAMES = evio.Lines(), evio.Prefixed(4), resp.Commands(), resp.Runs()
MEMBERS = {
    name
    for thing in (evio.Wake, *FRAMES, *(frame.decoder() for frame in FRAMES))
    for name in dir(thing)
    if not name.startswith("_")
} | vars(evio.FrameError("")).keys()


def unused(lines: list[str]) -> list[str]:
    """Return the public names that are not in these lines."""
    names = [f"evio.{name}" for name in evio.__all__] + [f"resp.{name}" for name in resp.__all__]
    names += [f".{name}" for name in MEMBERS]
    text = "\n".join(lines)
    return [name for name in names if not re.search(rf"{re.escape(name)}\b", text)]


def test_every_name_is_used_right() -> None:
    assert unused((USES / "right.py").read_text("utf-8").splitlines()) == []


def test_every_name_is_used_wrong() -> None:
    lines = (USES / "wrong.py").read_text("utf-8").splitlines()
    assert unused([line for line in lines if "# type: ignore[" in line]) == []


@pytest.mark.parametrize(
    "function",
    [
        *(evio.serve, evio.Wake.__call__, evio.FrameError.__init__, evio.Lines.__init__, evio.Prefixed.__init__),
        *(resp.Commands.__init__, resp.Runs.__init__, evio.Lines.decoder),
    ],
)
def test_annotations_are_types(function: object) -> None:
    assert typing.get_type_hints(function)
