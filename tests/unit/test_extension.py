"""The extension keeps no state of its own: all is in the module, of which each interpreter has one, or in a loop."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from evio._extension import native

#: What CPython wants writable: it fills some of these in, under a lock of its own, and reads the others.
TABLES = re.compile(r"\w+_(spec|slots|methods|members|getset)|module_(def|slots)")

#: What the compiler and its sanitizers add.
OTHERS = re.compile(r"[_.].*|completed\..*")


@pytest.mark.skipif(native is None or sys.platform != "linux", reason="there is no extension, or no GNU nm")
def test_nothing_static_is_writable() -> None:
    listing = subprocess.run(
        ["nm", "--format=sysv", native.__file__], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    symbols = [[field.strip() for field in line.split("|")] for line in listing if line.count("|") == 6]
    writable = {symbol[0] for symbol in symbols if re.match(r"\.(t?data|t?bss)(?!\.rel\.ro)|\*COM\*", symbol[6])}
    assert "module_def" in writable
    assert {name for name in writable if not TABLES.fullmatch(name) and not OTHERS.fullmatch(name)} == set()
