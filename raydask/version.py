"""The version of this raydask; processes of different versions do not talk to each other."""

from __future__ import annotations

VERSION = "0.1.0"
