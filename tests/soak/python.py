"""Situations 17 to 26: what callbacks, threads, signals and the interpreter do."""

from __future__ import annotations
