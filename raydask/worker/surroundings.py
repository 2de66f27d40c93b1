"""What a worker has in common with its driver, and what it must not have in common with others."""

from __future__ import annotations

import os
import sys


def take_over(search_path: list[str], folder: str) -> None:
    """Find modules and files where a driver finds them."""
    known = set(sys.path)
    sys.path.extend(entry for entry in search_path if entry not in known)
    try:
        os.chdir(folder)
    except OSError:
        pass  # the driver's folder is gone; a task that needs it will say so


def reseed() -> None:
    """Give this process random numbers of its own; Python does so for those of its ``random``."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
