"""Situations 31 to 37: the append-only file of the Redis clone."""

from __future__ import annotations
