"""On what, and with which versions, something was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

import evio


def describe(redis: list[str]) -> dict[str, str]:
    """Return what a reader of the figures should know, by its name.

    Args:
        redis: the names and versions of the Redis servers that took part.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    about = {
        "cpu": f"{os.cpu_count()} of {cpu_model()}",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": first_line(os.environ.get("CC", "cc").split()[0]),
        "evio": f"{evio.__version__} on {evio.engine}",
        "redis": ", ".join(redis) or "none",
    }
    for name in ("uvloop", "gevent"):
        try:
            about[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            about[name] = "none"
    return about


def cpu_model() -> str:
    match = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else platform.processor() or "unknown"


def first_line(compiler: str) -> str:
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0]
