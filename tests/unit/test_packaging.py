"""What is shipped: the source distribution is complete, the wheel holds the package and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import evio

ROOT = Path(__file__).parents[2]

EXTENSION = f"evio/_native{sysconfig.get_config_var('EXT_SUFFIX')}"
BUILT = evio.engine != "selectors"
needs_the_extension = pytest.mark.skipif(not BUILT, reason="no extension is built here")

#: In a checkout, and made anew from it: these are not shipped. Nor are what building leaves in the source distribution.
NOT_SHIPPED = {".gitignore"}
MADE = {"PKG-INFO", "setup.cfg"} | {
    f"evio.egg-info/{name}" for name in ("PKG-INFO", "SOURCES.txt", "dependency_links.txt", "top_level.txt")
}

# The system's own, so that what the tests run under (sanitizers, a forced poller) is not built in.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("CC", "CFLAGS", "LDFLAGS", "LD_PRELOAD", "PYTHONPATH") and not name.startswith("EVIO_")
} | {"EVIO_NO_EXTENSION": "" if BUILT else "1"}


def build(source: Path, into: Path, hook: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call one of the build backend's hooks, as pip does, with nothing from the network."""
    code = f"import setuptools.build_meta as backend; backend.{hook}({str(into)!r})"
    into.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=source,
        env=ENVIRONMENT | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy without what building and testing have left there."""
    generated = shutil.ignore_patterns(
        ".git", ".venv", "build", "dist", "*.so", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
    )
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("checkout") / "evio", ignore=generated)


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    built = build(shutil.copytree(checkout, folder / "copy"), folder, "build_sdist")
    assert built.returncode == 0, built.stderr
    name = f"evio-{evio.__version__}"
    subprocess.run(["tar", "-xf", f"{name}.tar.gz"], cwd=folder, check=True)
    return folder / name


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> zipfile.ZipFile:
    """The wheel that is built from the source distribution."""
    built = build(sdist, sdist / "dist", "build_wheel")
    assert built.returncode == 0, built.stderr
    (file,) = (sdist / "dist").glob("*.whl")
    return zipfile.ZipFile(file)


def files(folder: Path, *patterns: str) -> set[str]:
    return {
        file.relative_to(folder).as_posix() for pattern in patterns for file in folder.glob(pattern) if file.is_file()
    }


def test_sdist_is_the_checkout(sdist: Path, checkout: Path) -> None:
    assert files(sdist, "**/*") == (files(checkout, "**/*") - NOT_SHIPPED) | MADE


def test_wheel_holds_the_package_alone(wheel: zipfile.ZipFile) -> None:
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == files(ROOT, "evio/*.py", "evio/*.pyi", "evio/py.typed") | ({EXTENSION} if BUILT else set())


def test_metadata(wheel: zipfile.ZipFile) -> None:
    info = f"evio-{evio.__version__}.dist-info"
    metadata = message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert metadata["Version"] == evio.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["License-File"] == "LICENSE"
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    assert metadata.get_all("Requires-Dist") is None
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Summary"]
    assert metadata["Keywords"]
    assert metadata.get_all("Project-URL")
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    tag = message_from_bytes(wheel.read(f"{info}/WHEEL"))["Tag"]
    assert (tag == "py3-none-any") == (not BUILT)


@needs_the_extension
def test_wheel_runs_on_the_native_engine(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import evio; print(evio.__file__, evio.engine)"
    ran = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    engine = "epoll" if sys.platform == "linux" else "kqueue"
    assert ran.stdout.split() == [str(tmp_path / "evio/__init__.py"), engine]


def test_without_the_extension_on_purpose(sdist: Path, tmp_path: Path) -> None:
    source = shutil.copytree(sdist, tmp_path / "source", ignore=shutil.ignore_patterns("build", "dist"))
    # Neither is one needed, nor is one taken that an earlier build has left in place.
    (source / EXTENSION).touch()
    built = build(source, tmp_path / "dist", "build_wheel", EVIO_NO_EXTENSION="1", CC="no-such-compiler")
    assert built.returncode == 0, built.stderr
    (file,) = (tmp_path / "dist").glob("*-none-any.whl")
    assert not [name for name in zipfile.ZipFile(file).namelist() if "_native." in name and not name.endswith(".pyi")]


WITHOUT_HEADERS = """#!/bin/sh
for word; do
    shift
    case $word in -I*) ;; *) set -- "$@" "$word" ;; esac
done
exec cc "$@"
"""


@needs_the_extension
def test_a_missing_compiler_is_named(sdist: Path, tmp_path: Path) -> None:
    built = build(sdist, tmp_path, "build_wheel", CC="no-such-compiler")
    assert built.returncode != 0
    assert "there is no C compiler (no-such-compiler)" in built.stderr
    check_advice(built.stderr)


@needs_the_extension
def test_missing_headers_are_named(sdist: Path, tmp_path: Path) -> None:
    compiler = tmp_path / "cc-without-headers"
    compiler.write_text(WITHOUT_HEADERS, "utf-8")
    compiler.chmod(0o755)
    built = build(sdist, tmp_path, "build_wheel", CC=str(compiler))
    assert built.returncode != 0
    assert "(Python.h) are missing" in built.stderr
    check_advice(built.stderr)


def check_advice(printed: str) -> None:
    assert "apt-get install gcc python3-dev" in printed
    assert "EVIO_NO_EXTENSION=1" in printed
    assert "Traceback" not in printed
