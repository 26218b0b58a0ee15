"""The C module, where there is one."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

#: `evio._native`, or None where it was not built. A broken one is an error that the user should see.
native: Any = import_module("evio._native") if find_spec("evio._native") is not None else None
