"""Settings come from the environment, typed."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from raydask.config import Config, from_environment
from raydask.errors import UsageError


def test_defaults_stand_where_the_environment_says_nothing() -> None:
    assert from_environment({"PATH": "/bin", "RAYDASK_UNKNOWN": "1"}) == Config()


def test_each_setting_has_its_variable() -> None:
    for field in msgspec.structs.fields(Config):
        text = {str: "x", bool: "true"}.get(field.type, "7")
        config = from_environment({f"RAYDASK_{field.name.upper()}": text})
        value = getattr(config, field.name)

        assert str(value).lower() in (text, "7.0")
        assert type(value) is field.type


def test_a_text_of_the_wrong_type_names_the_variable() -> None:
    with pytest.raises(UsageError, match="RAYDASK_SLAB_SIZE='much'"):
        from_environment({"RAYDASK_SLAB_SIZE": "much"})


def test_the_page_of_settings_has_all_with_their_defaults() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "settings.md").read_text("utf-8")
    settings = page[: page.index("Beside the settings")]
    rows = dict(re.findall(r"^\| `RAYDASK_([A-Z_]+)` \| (.*?) ?\| ", settings, re.MULTILINE))
    for name, default in msgspec.structs.asdict(Config()).items():
        shown = rows.pop(name.upper()).strip("`")
        assert msgspec.convert(shown, type(default), strict=False) == default, name
    assert not rows
