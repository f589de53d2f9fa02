"""Files are there whole or not at all, and errors of a disk are one line."""

import hashlib
import json
from pathlib import Path

import pytest

from otbsr.errors import OutputError
from otbsr.files import digest, new_file, new_folder, require_replaceable, write_json, write_text


def test_a_file_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "new" / "a.txt"
    with new_file(out) as temporary:
        temporary.write_text("one")
        assert not out.exists() and temporary.parent == out.parent and temporary.name.startswith(".")
    assert out.read_text() == "one" and list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_what_was_there_before_stays_when_the_work_fails(tmp_path: Path, error: BaseException) -> None:
    out = tmp_path / "a.txt"
    out.write_text("before")
    with pytest.raises(type(error)), new_file(out) as temporary:
        temporary.write_text("half")
        raise error
    assert out.read_text() == "before" and list(tmp_path.iterdir()) == [out]


def test_a_folder_takes_the_place_of_the_former_one_when_it_is_filled(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    for name in ("a", "b"):
        with new_folder(out) as temporary:
            (temporary / name).write_text(name)
        assert [path.name for path in out.iterdir()] == [name] and list(out.parent.iterdir()) == [out]
    with pytest.raises(OutputError, match=r"folder: cannot be written \(full\); buy a disk"), new_folder(out, "buy a disk"):
        raise OSError("full")
    with pytest.raises(KeyboardInterrupt), new_folder(out):
        raise KeyboardInterrupt
    assert [path.name for path in out.iterdir()] == ["b"] and list(out.parent.iterdir()) == [out]


def test_errors_of_the_disk_name_file_reason_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/a\.txt: cannot be written \((Not a directory|File exists)\); choose another place$"):
        write_text(tmp_path / "file" / "a.txt", "x", "choose another place")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"folder: cannot be written \(Is a directory\); check the free space$"):
        write_json(tmp_path / "folder", {})
    with pytest.raises(OutputError, match=r"b: cannot be written \(odd\); check"), new_file(tmp_path / "b"):
        raise OSError("odd")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_texts_keep_their_line_ends_and_json_its_content(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "é\r\n\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\r\n\n".encode()
    write_json(tmp_path / "a.json", {"a": [1, "é"]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"a": [1, "é"]}


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 3])
def test_digest(tmp_path: Path, size: int) -> None:
    (tmp_path / "a").write_bytes(b"x" * size)
    assert digest(tmp_path / "a") == hashlib.sha256(b"x" * size).hexdigest()


def test_overwrite_replaces_its_own_kind_only(tmp_path: Path) -> None:
    """A model in place of a model, an empty folder or a file; never in place of a folder of something else."""
    for name, file in (("model", "model.json"), ("images", "a.tif")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    (tmp_path / "empty").mkdir()
    for name in ("none", "model", "empty", "model/model.json"):
        require_replaceable(tmp_path / name, True, "model folder", ("model.json", "saved_model.pb"))
    with pytest.raises(OutputError, match=r"images: is no model folder, and --overwrite replaces nothing else; choose another name"):
        require_replaceable(tmp_path / "images", True, "model folder", ("model.json", "saved_model.pb"))
    for name in ("model", "images", "empty"):
        with pytest.raises(OutputError, match=r"exists already; choose another name or give --overwrite"):
            require_replaceable(tmp_path / name, False, "model folder", ("model.json",))
