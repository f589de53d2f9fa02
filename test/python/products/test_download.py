"""Downloads: resumed, restarted, checked and refused, against a server of our own."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Site, serving

from otbsr.errors import InputError, OutputError, ProcessingError, UsageError
from otbsr.products.download import Remote, digest_of, fetch, fetch_all, remote_of, zenodo_files

CONTENT = random.Random(1).randbytes(300_000)
SHA = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    site.files["/a/data.zip"] = CONTENT
    with serving(site):
        yield site


def remote(site: Site, checksum: str | None = SHA) -> Remote:
    return remote_of(f"{site.url}/a/data.zip?token=1", checksum)


def test_whole_file_once(site: Site, tmp_path: Path) -> None:
    steps: list[float] = []
    out = fetch(remote(site), tmp_path / "new", report=lambda _, share: steps.append(share))
    assert out == tmp_path / "new" / "data.zip" and out.read_bytes() == CONTENT
    assert [path.name for path in out.parent.iterdir()] == ["data.zip"] and steps[-1] == 1.0
    assert fetch(remote(site), tmp_path / "new") == out and len(site.asked) == 1


def test_broken_transfers_go_on_where_they_stopped(site: Site, tmp_path: Path) -> None:
    site.drop_after = [100_000, 50_000]
    assert fetch(remote(site), tmp_path, wait=0).read_bytes() == CONTENT
    assert [entry[2] for entry in site.asked] == [None, "bytes=100000-", "bytes=150000-"]


def test_an_interrupted_command_goes_on(site: Site, tmp_path: Path) -> None:
    site.drop_after = [120_000]
    with pytest.raises(ProcessingError, match=r"transfer broke 1 times \(.*\); the same command goes on"):
        fetch(remote(site), tmp_path, attempts=1)
    assert (tmp_path / "data.zip.part").stat().st_size == 120_000 and not (tmp_path / "data.zip").exists()
    assert fetch(remote(site), tmp_path, attempts=1).read_bytes() == CONTENT
    assert site.asked[-1][2] == "bytes=120000-"
    assert [path.name for path in tmp_path.iterdir()] == ["data.zip"]


def test_without_ranges_it_starts_again(site: Site, tmp_path: Path) -> None:
    site.ranges, site.drop_after = False, [120_000]
    assert fetch(remote(site), tmp_path, wait=0).read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_starts_again(site: Site, tmp_path: Path) -> None:
    site.drop_after = [120_000]
    with pytest.raises(ProcessingError):
        fetch(remote(site, None), tmp_path, attempts=1)
    site.etag, site.files["/a/data.zip"] = '"2"', CONTENT[::-1]
    assert fetch(remote(site, None), tmp_path, attempts=1).read_bytes() == CONTENT[::-1]
    site.drop_after, site.etag = [120_000], ""
    with pytest.raises(ProcessingError):
        fetch(remote(site, None), tmp_path / "b", attempts=1)
    site.files["/a/data.zip"] = CONTENT[:1000]  # now shorter than what is there
    assert fetch(remote(site, None), tmp_path / "b", attempts=2, wait=0).read_bytes() == CONTENT[:1000]


def test_part_that_was_whole_is_taken(site: Site, tmp_path: Path) -> None:
    site.drop_after = [299_999]
    with pytest.raises(ProcessingError):
        fetch(remote(site), tmp_path, attempts=1)
    (tmp_path / "data.zip.part").write_bytes(CONTENT)
    assert fetch(remote(site), tmp_path, attempts=1).read_bytes() == CONTENT


def test_part_of_another_address_is_not_used(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.zip.part").write_bytes(b"x" * 1000)
    (tmp_path / "data.zip.part.json").write_text(json.dumps({"url": "http://elsewhere/data.zip"}))
    assert fetch(remote(site), tmp_path).read_bytes() == CONTENT and site.asked[0][2] is None


def test_busy_server_is_asked_again_and_refusals_are_told(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429, 200]
    assert fetch(remote(site), tmp_path, wait=0).read_bytes() == CONTENT
    with pytest.raises(InputError, match="answers 404 Not Found; check the address"):
        fetch(Remote(f"{site.url}/none", "n"), tmp_path)
    site.statuses = [403]
    with pytest.raises(InputError, match="answers 403 Forbidden; give a token with --token-file"):
        fetch(Remote(f"{site.url}/a/data.zip", "m"), tmp_path)
    fetch(Remote(f"{site.url}/a/data.zip", "m"), tmp_path, {"Authorization": "Bearer secret"})
    assert site.headers[-1]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("checksum", ["sha256:" + "0" * 64, "md5:" + "f" * 32, "1220" + "0" * 64])
def test_wrong_checksum_leaves_nothing(site: Site, tmp_path: Path, checksum: str) -> None:
    with pytest.raises(InputError, match=r"what arrived has (sha256|md5) .*, expected [0f]+, it was removed"):
        fetch(remote(site, checksum), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_wrong_length_leaves_nothing(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 300000 bytes, expected 5"):
        fetch(Remote(f"{site.url}/a/data.zip", "d", 5), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_file_of_that_name_is_kept(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"exists and has sha256 .*; move it away, or replace it with --overwrite"):
        fetch(remote(site), tmp_path)
    assert (tmp_path / "data.zip").read_bytes() == b"mine"
    assert fetch(remote(site, MD5), tmp_path, overwrite=True).read_bytes() == CONTENT


def test_small_disk_is_told_before_a_byte(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 64 << 20))
    with pytest.raises(OutputError, match=r"0\.00 GB are missing, the disk has 0\.07 GB free"):
        fetch(remote(site), tmp_path)
    with pytest.raises(OutputError, match=r"2\.00 GB are missing"):
        fetch_all([Remote(f"{site.url}/a/data.zip", "big", 2 * 10**9)], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["ftp://a/b", "file:///etc/passwd", "data.zip", "http://"])
def test_addresses(url: str) -> None:
    with pytest.raises(UsageError, match="expected http"):
        remote_of(url)


def test_names_stay_in_the_folder(site: Site, tmp_path: Path) -> None:
    for name in ("../x", "a/b", "..", ""):
        with pytest.raises(InputError, match="leads out of the folder"):
            fetch(Remote(f"{site.url}/a/data.zip", name), tmp_path)
    with pytest.raises(InputError, match="leads out of the folder"):
        remote_of("http://host/a/..%2F..%2Fx")
    with pytest.raises(InputError, match="several files of one name"):
        fetch_all([remote(site), remote(site)], tmp_path)


@pytest.mark.parametrize(("text", "kind"), [("MD5:" + "a" * 32, "md5"), ("b" * 64, "sha256"), ("1220" + "c" * 64, "sha256"), ("d50110" + "d" * 32, "md5")])
def test_checksums_as_publishers_write_them(text: str, kind: str) -> None:
    assert digest_of(text)[0] == kind and set(digest_of(text)[1]) == {text[-1]}


def test_bad_checksums() -> None:
    for text in ("sha256:12", "crc:1", "zz", "sha256:" + "g" * 64):
        with pytest.raises(UsageError, match="checksum is"):
            digest_of(text)


def test_zenodo_record(site: Site, tmp_path: Path) -> None:
    def record(_path: str, _body: object) -> object:
        link = {"self": f"{site.url}/a/data.zip"}
        return {"files": [{"key": "data.zip", "size": 300_000, "checksum": MD5, "links": link}, {"key": "other.csv", "size": 5, "links": link}]}

    site.handlers["/api/records/12"] = record
    files = zenodo_files("12", ["*.zip"], f"{site.url}/api/records")
    assert files == [Remote(f"{site.url}/a/data.zip", "data.zip", 300_000, MD5)]
    assert fetch_all(files, tmp_path)[0].read_bytes() == CONTENT
    with pytest.raises(InputError, match=r"no file matches \*\.7z; there are data\.zip, other\.csv"):
        zenodo_files("12", ["*.7z"], f"{site.url}/api/records")
    with pytest.raises(InputError, match="cannot be fetched"):
        zenodo_files("13", ["*"], f"{site.url}/api/records")
    site.handlers["/api/records/14"] = lambda *_: {"message": "gone"}
    with pytest.raises(InputError, match="not as of a Zenodo record"):
        zenodo_files("14", ["*"], f"{site.url}/api/records")


def test_no_server_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(ProcessingError, match="transfer broke 2 times"):
        fetch(Remote("http://127.0.0.1:9/x", "x"), tmp_path, attempts=2, wait=0)
