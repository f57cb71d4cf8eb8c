"""Folders that only this user may change: created so, and refused otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pywatt_host.net.private_folders import make_exclusive, make_private, replaceable, unsafe

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
OTHER = 12345


def test_a_new_folder_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert make_private(tmp_path / "a" / "b") == ""
        assert make_exclusive(tmp_path / "c") == ""
    finally:
        os.umask(before)
    for name in ("a/b", "c"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700
    assert make_private(tmp_path / "a" / "b") == ""
    assert make_exclusive(tmp_path / "c") == ""


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o720])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    for check in (make_private, unsafe, replaceable):
        assert check(folder) == f"other users may write to it (mode {mode:04o})"
    assert make_exclusive(folder) == f"other users may access it (mode {mode:04o})"
    assert folder.stat().st_mode & 0o777 == mode


def test_a_folder_among_those_of_others_must_not_be_readable_either(tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen").chmod(0o755)
    assert make_exclusive(tmp_path / "seen") == "other users may access it (mode 0755)"


def test_a_link_is_refused_and_nothing_is_made_behind_it(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    for check in (make_private, make_exclusive, unsafe):
        assert check(tmp_path / "link") == "it is a symbolic link"
    assert make_exclusive(tmp_path / "nowhere") == "it is a symbolic link"
    assert not (tmp_path / "missing").exists()
    assert replaceable(tmp_path / "link") == ""


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert make_exclusive(tmp_path / "file") == unsafe(tmp_path / "file") == "it is not a folder"


def test_a_parent_in_which_others_can_replace_the_folder_is_refused(tmp_path: Path) -> None:
    parent = tmp_path / "temporary"
    parent.mkdir()
    parent.chmod(0o777)
    assert make_exclusive(parent / "ours") == f"{parent}: other users may write to it (mode 0777)"
    assert not (parent / "ours").exists()
    parent.chmod(0o1777)
    assert make_exclusive(parent / "ours") == ""


@as_root
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", OTHER, OTHER)
    for check in (make_private, make_exclusive, unsafe, replaceable):
        assert check(tmp_path / "theirs") == f"it belongs to another user (uid {OTHER})"


@as_root
def test_a_group_may_pass_and_no_other_group(tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    for _ in range(2):
        assert make_exclusive(folder, OTHER) == ""
        status = folder.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, OTHER, 0o710)
    assert make_exclusive(folder, OTHER + 1) == "other users may access it (mode 0710)"
    assert make_exclusive(folder) == "other users may access it (mode 0710)"
