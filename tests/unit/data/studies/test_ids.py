from __future__ import annotations

import stat
from pathlib import Path

import pytest

from chexmix_cli.core.data.studies.ids import IdMaker
from chexmix_cli.core.errors import MachineError, SettingsError


def test_hash_depends_on_salt_and_uid_and_on_nothing_else(monkeypatch):
    monkeypatch.setenv("CHEXMIX_ID_SALT", "one")
    first = IdMaker().of_uid("1.2.3")
    assert first == IdMaker().of_uid("1.2.3")
    assert first != IdMaker().of_uid("1.2.4")
    assert len(first) == 20
    assert set(first) <= set("0123456789abcdef")
    monkeypatch.setenv("CHEXMIX_ID_SALT", "two")
    assert IdMaker().of_uid("1.2.3") != first


def test_kept_uids_are_kept_and_contents_are_still_hashed():
    ids = IdMaker(keep_uids=True)
    assert ids.of_uid("1.2.3") == "1.2.3"
    assert ids.of_secret("1.2.3") != "1.2.3"


def test_long_salts_count_whole(monkeypatch):
    monkeypatch.setenv("CHEXMIX_ID_SALT", "x" * 200 + "1")
    first = IdMaker().of_uid("1.2.3")
    monkeypatch.setenv("CHEXMIX_ID_SALT", "x" * 200 + "2")
    assert IdMaker().of_uid("1.2.3") != first


def test_repeated_names_are_numbered():
    ids = IdMaker()
    names = [ids.unique(name) for name in ("a", "b", "a", "a#2", "a", "a#2")]
    assert names == ["a", "b", "a#2", "a#2#2", "a#3", "a#2#3"]
    assert len(set(names)) == len(names)


def test_salt_is_made_once_and_for_its_owner_alone(home: Path, monkeypatch):
    monkeypatch.delenv("CHEXMIX_ID_SALT")
    first = IdMaker().of_uid("1.2.3")
    (file,) = home.iterdir()
    assert file.name == "id-salt"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_bytes()) == 64
    assert IdMaker().of_uid("1.2.3") == first
    file.unlink()
    assert IdMaker().of_uid("1.2.3") != first


def test_nothing_is_written_before_a_hash_is_asked_for(home: Path, monkeypatch):
    monkeypatch.delenv("CHEXMIX_ID_SALT")
    IdMaker().unique("a")
    assert list(home.iterdir()) == []


def test_another_run_that_was_first_wins(home: Path, monkeypatch):
    monkeypatch.delenv("CHEXMIX_ID_SALT")
    exists = Path.exists

    def too_early(self: Path, **options: bool) -> bool:
        if self.name == "id-salt" and not exists(self):
            self.write_text("theirs")  # between the look and the link
            return False
        return exists(self, **options)

    monkeypatch.setattr(Path, "exists", too_early)
    first = IdMaker().of_uid("1.2.3")
    monkeypatch.setenv("CHEXMIX_ID_SALT", "theirs")
    assert IdMaker().of_uid("1.2.3") == first
    assert [file.name for file in home.iterdir()] == ["id-salt"]


def test_without_chexmix_home_the_state_folder_is_used(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("CHEXMIX_ID_SALT")
    monkeypatch.delenv("CHEXMIX_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    IdMaker().of_uid("1.2.3")
    assert (tmp_path / ".local" / "state" / "chexmix" / "id-salt").is_file()


def test_a_home_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("CHEXMIX_ID_SALT")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CHEXMIX_HOME", str(tmp_path / "file"))
    with pytest.raises(MachineError, match="salt of record ids cannot be kept") as caught:
        IdMaker().of_uid("1.2.3")
    assert "CHEXMIX_ID_SALT" in str(caught.value.hint)


def test_empty_salts_are_errors(home: Path, monkeypatch):
    monkeypatch.setenv("CHEXMIX_ID_SALT", "")
    with pytest.raises(SettingsError, match="CHEXMIX_ID_SALT: is empty"):
        IdMaker().of_uid("1.2.3")
    monkeypatch.delenv("CHEXMIX_ID_SALT")
    (home / "id-salt").write_text("\n")
    with pytest.raises(SettingsError, match="file of the salt is empty"):
        IdMaker().of_uid("1.2.3")
