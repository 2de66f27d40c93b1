"""What the README tells people to type, and what CI runs, is one thing."""

from __future__ import annotations

import re

import raydask
from tests.architecture.source import ROOT

SET_UP = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[{extra}]' && "


def readme_commands() -> list[str]:
    text = ROOT.joinpath("README.md").read_text("utf-8")
    return re.findall(r"^```bash\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)


def test_the_first_command_runs_the_demo_and_the_second_the_tests() -> None:
    first, second, *_ = readme_commands()

    assert first == SET_UP.format(extra="demo") + ".venv/bin/python -m raydask.demo"
    assert second == SET_UP.format(extra="test") + ".venv/bin/python -m pytest"


def test_ci_takes_the_test_command_from_the_readme() -> None:
    script = ROOT.joinpath(".ci/run").read_text("utf-8")
    found = re.search(r'test_command=\$\(grep -xE "(.*)" README.md\)', script)
    assert found is not None
    readme = ROOT.joinpath("README.md").read_text("utf-8").splitlines()

    assert [line for line in readme if re.fullmatch(found[1], line)] == [readme_commands()[1]]
    assert script.rstrip().endswith('eval "$test_command"')


def test_the_version_is_one() -> None:
    project = ROOT.joinpath("pyproject.toml").read_text("utf-8")
    found = re.search(r'^version = "(.*)"$', project, re.MULTILINE)
    assert found is not None

    assert getattr(raydask, "__version__", found[1]) == found[1]
