"""Situations 27 to 30: what arrives as Redis requests."""

from __future__ import annotations
