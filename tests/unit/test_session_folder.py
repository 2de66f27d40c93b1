"""Where sessions are looked for."""

from __future__ import annotations

from pathlib import Path

from raydask.session_folder import session_folders


def test_only_the_folders_of_sessions_are_found(tmp_path: Path) -> None:
    session = tmp_path / "s-1126-101010-abcdefgh"
    session.mkdir()
    (tmp_path / "other").mkdir()
    assert session_folders(tmp_path) == [session]


def test_a_root_that_is_gone_has_none(tmp_path: Path) -> None:
    assert session_folders(tmp_path / "gone") == []
