"""Runs the tests under sanitizers, in a virtual environment in which evio is built with them: `make sanitize`.

    sanitized.py address | thread [pytest's arguments]

That environment, build/address or build/thread, has an interpreter of its own: the one that this script
runs in, linked anew with the sanitizers' runtime in it. So nothing is preloaded. What the tests start by
way of sys.executable is under the sanitizers too, and other programs, such as redis-server, run as they
always do. Everything but evio comes from the environment that this script runs in.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: What compilers call them.
SANITIZERS = {"address": "address,undefined", "thread": "thread"}

#: Not these: what measures memory or time measures the sanitizer, and what is shipped is built without one.
SELECTED = {
    "address": ["-m", "not measures", "--ignore=tests/unit/test_packaging.py"],
    "thread": ["-m", "threads and not measures"],
}

MAIN = r"""
#include <Python.h>

/* sitecustomize says in which processes nothing can be said of leaks. */
int evio_without_leaks;
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) { return evio_without_leaks; }

int main(int argc, char **argv) { return Py_BytesMain(argc, argv); }
"""

# Runs in every process. A leak that is reported, or a build that is not the sanitized one, is in a file of REPORTS.
SITECUSTOMIZE = r"""
import atexit, os, sys, threading

def nothing_can_be_said():
    if threading.active_count() > 1:  # what the interpreter holds for threads that the end cuts short stays
        return True
    if "_testcapi" in sys.modules:  # nor all that it had when it was told that there is no memory
        return True
    with open("/proc/self/status") as lines:  # one process cannot be traced by two, strace and the search for leaks
        return any(line.startswith("TracerPid:") and line.split()[1] != "0" for line in lines)

def at_exit():
    if nothing_can_be_said():
        import ctypes
        ctypes.c_int.in_dll(ctypes.CDLL(None), "evio_without_leaks").value = 1
    native = sys.modules.get("evio._native")
    if native is not None and not native.__file__.startswith(sys.prefix):
        with open(f"{sys.prefix}/reports/build.{os.getpid()}", "w") as report:
            print(f"{sys.argv} ran {native.__file__}, which is not sanitized", file=report)

atexit.register(at_exit)
"""


def variable(name: str) -> str:
    """Return what the interpreter was configured with."""
    return str(sysconfig.get_config_var(name) or "")


def build_interpreter(path: Path, sanitizers: str) -> None:
    """Link the interpreter's library, the sanitizers' runtime and a main function."""
    command = [
        *shlex.split(os.environ.get("CC", "cc")),
        f"-fsanitize={sanitizers}",
        f"-I{sysconfig.get_path('include')}",
        *("-xc", "-", "-o", str(path)),
        *(f"-L{variable(name)}" for name in ("LIBDIR", "LIBPL")),
        f"-Wl,-rpath,{variable('LIBDIR')}",
        f"-lpython{variable('LDVERSION')}",
        *shlex.split(f"{variable('LIBS')} {variable('SYSLIBS')} {variable('LINKFORSHARED')}"),
    ]
    subprocess.run(command, input=MAIN, text=True, check=True)


def build_evio(packages: Path, sanitizers: str) -> None:
    """Build evio as it always is, but with its assertions and the sanitizers."""
    flags = f"-O1 -g -UNDEBUG -fno-omit-frame-pointer -fsanitize={sanitizers} -fno-sanitize-recover=all"
    folders = ["--build-lib", str(packages), "--build-temp", str(packages / "temporary")]
    command = [sys.executable, "setup.py", "--quiet", "build_py", *folders[:2], "build_ext", *folders]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"CFLAGS": flags}, check=True)


def build(environment: Path, sanitizers: str) -> Path:
    """Bring an environment up to date, and return its interpreter."""
    packages = environment / f"lib/python{variable('LDVERSION')}/site-packages"
    packages.mkdir(parents=True, exist_ok=True)
    (environment / "pyvenv.cfg").write_text(Path(sys.prefix, "pyvenv.cfg").read_text())
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (packages / "sitecustomize.py").write_text(SITECUSTOMIZE)
    interpreter = environment / "bin/python"
    if not interpreter.exists() or interpreter.stat().st_mtime < Path(__file__).stat().st_mtime:
        interpreter.parent.mkdir(exist_ok=True)
        build_interpreter(interpreter, sanitizers)
    build_evio(packages, sanitizers)
    return interpreter


def main() -> int:
    kind, *arguments = sys.argv[1:]
    environment = ROOT / "build" / kind
    interpreter = build(environment, SANITIZERS[kind])
    reports = environment / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir()
    variables = {
        # The folder that a process is started in comes first on its path, and the ordinary evio is in it.
        "PYTHONSAFEPATH": "1",
        # Python's own allocator keeps its objects where no sanitizer sees their ends.
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": f"detect_leaks=1:log_path={reports}/address",
        # Beside the other one this takes no log_path: what it finds ends the process, and is on stderr.
        "UBSAN_OPTIONS": "print_stacktrace=1",
        # The interpreter is not instrumented: only its locks and what it does to our memory are seen.
        "TSAN_OPTIONS": f"ignore_noninstrumented_modules=1:die_after_fork=0:log_path={reports}/thread",
    }
    ran = subprocess.run(
        [interpreter, "-m", "pytest", "--numprocesses", "auto", "--capture=sys", *SELECTED[kind], *arguments],
        cwd=ROOT,
        env=os.environ | variables,
        check=False,
    )
    found = sorted(reports.iterdir())
    for report in found:
        print(f"\n{report}:\n{report.read_text(errors='replace')}")
    print(f"{len(found)} reports of sanitizers")
    return ran.returncode or bool(found)


if __name__ == "__main__":
    sys.exit(main())
