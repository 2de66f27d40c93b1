"""Where the packages lie: all that ``pyproject.toml`` cannot say without listing them.

The engine is found under ``raydask/``; the adapters lie in ``compat/`` and install as
``raydask.compat``.
"""

from __future__ import annotations

from setuptools import find_packages, setup

ENGINE = find_packages(include=["raydask", "raydask.*"])
ADAPTERS = [f"raydask.{name}" for name in find_packages(include=["compat", "compat.*"])]

setup(packages=ENGINE + ADAPTERS)
