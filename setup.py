"""Builds the native engine, `evio._native`. Everything else about the package is in pyproject.toml.

Environment:
    EVIO_NO_EXTENSION=1: build without it; the portable engine then serves everything.
    EVIO_FORCE_KQUEUE=1: use kqueue where epoll would be, through libkqueue. CFLAGS and LDFLAGS say where that is.
    CC, CFLAGS, LDFLAGS: as everywhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# The systems with epoll or kqueue. A compiler is expected there; elsewhere the portable engine serves.
SYSTEMS = ("linux", "darwin", "freebsd", "openbsd", "netbsd", "dragonfly")


def asked(variable: str) -> bool:
    return os.environ.get(variable, "0") not in ("", "0")


def extensions() -> list[Extension]:
    if asked("EVIO_NO_EXTENSION") or sys.implementation.name != "cpython" or not sys.platform.startswith(SYSTEMS):
        return []
    kqueue = asked("EVIO_FORCE_KQUEUE")
    threads = [] if sys.platform == "darwin" else ["-pthread"]
    # No -O here: it would come behind the user's CFLAGS, and the interpreter's own flags have one.
    return [
        Extension(
            "evio._native",
            sources=sorted(glob("evio_ext/*/*.c")),
            depends=["setup.py", *sorted(glob("evio_ext/*/*.h"))],
            include_dirs=["evio_ext"],
            define_macros=[("EVIO_FORCE_KQUEUE", "1")] if kqueue else [],
            libraries=["kqueue"] if kqueue else [],
            extra_compile_args=["-std=c11", "-fvisibility=hidden", *threads],
            extra_link_args=threads,
        )
    ]


class BuildNative(build_ext):
    """Says what is missing on the system before the compiler does, at length."""

    def build_extensions(self) -> None:
        missing = self.missing()
        if missing:
            # SystemExit, since setuptools shows every other exception with its traceback.
            sys.exit(
                f"\nerror: evio's native engine cannot be built: {missing}.\n"
                "On Debian and Ubuntu this brings what it needs: apt-get install gcc python3-dev\n"
                "EVIO_NO_EXTENSION=1 in the environment builds evio without it, on purpose.\n"
            )
        super().build_extensions()

    def missing(self) -> str | None:
        compiler = self.compiler.compiler_so
        if shutil.which(compiler[0]) is None:
            return f"there is no C compiler ({compiler[0]})"
        includes = [f"-I{path}" for path in self.compiler.include_dirs]
        command = [*compiler, *includes, "-E", "-xc", "-"]
        tried = subprocess.run(command, input="#include <Python.h>\n", capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            return None
        if "Python.h" in tried.stderr:
            return f"the headers of Python {sys.version_info[0]}.{sys.version_info[1]} (Python.h) are missing"
        return f"the C compiler ({compiler[0]}) does not work:\n{tried.stderr.strip()}"


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildNative})
