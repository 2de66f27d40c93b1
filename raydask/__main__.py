"""``python -m raydask`` is the command ``raydask``."""

from __future__ import annotations

from raydask.node.cli import main

if __name__ == "__main__":
    main()
