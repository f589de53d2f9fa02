"""Many products: their names, their results' names, and what is said when some fail."""

from pathlib import Path

import pytest

from otbsr.errors import GridError, InputError, UsageError
from otbsr.serving import batch as module
from otbsr.serving.batch import Batch, apply_all, find_products, name_of, outputs


def test_products_from_arguments_patterns_and_lists(tmp_path: Path) -> None:
    for name in ("b.tif", "a.tif", "c[1].tif"):
        (tmp_path / name).touch()
    a, b, odd = (tmp_path / name for name in ("a.tif", "b.tif", "c[1].tif"))
    assert find_products([tmp_path / "?.tif", b]) == [a, b]
    assert find_products([odd]) == [odd], "a file's own name is no pattern"
    assert find_products([tmp_path / "absent.tif"]) == [tmp_path / "absent.tif"]
    (tmp_path / "list.txt").write_text("# tiles\n\n b.tif \nc[1].tif\n")
    assert find_products([a], tmp_path / "list.txt") == [a, b, odd]
    for wrong in ({"given": [tmp_path / "*.jp2"]}, {"given": [], "listed": tmp_path / "no"}, {"given": []}):
        with pytest.raises(InputError):
            find_products(**wrong)


def test_results_names(tmp_path: Path) -> None:
    safe = Path("/data/S2A_MSIL2A_20230614T105031_N0509_R051_T31TCJ_20230614T165000.SAFE.zip")
    assert name_of(safe) == "S2A_MSIL2A_20230614T105031_N0509_R051_T31TCJ_20230614T165000" and name_of(Path("a.b.tif")) == "a.b"
    products = [Path("x/a.tif"), Path("x/b.SAFE")]
    assert outputs(products, tmp_path / "new" / "deep") == [tmp_path / "new" / "deep" / "a.tif", tmp_path / "new" / "deep" / "b.tif"]
    assert outputs(products, tmp_path / "{name}_2m5.vrt") == [tmp_path / "a_2m5.vrt", tmp_path / "b_2m5.vrt"]
    for out, given, text in (
        (tmp_path / "one.tif", products, "is one file for 2 products"),
        (tmp_path, [Path("x/a.tif"), Path("y/a.SAFE")], "would both become"),
        (tmp_path / "{name}" / "sr.tif", products, "in a folder's name"),
    ):
        with pytest.raises(UsageError, match=text):
            outputs(given, out)


@pytest.mark.parametrize("at_once", [1, 3])
def test_one_that_fails_does_not_keep_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    def fake(product: Path, _model: object, out: Path, **options: object) -> str:
        if product.name == "b":
            raise GridError("b has no grid")
        options["report"]("super-resolution", 0.5)
        return str(out)

    monkeypatch.setattr(module, "apply", fake)
    monkeypatch.setattr(module, "is_finished", lambda out, *_words, **_more: out.name == "c")
    shares, told = [], []
    products = [Path(name) for name in "abcd"]
    batch = apply_all(products, "m", products, at_once=at_once, report=lambda _s, v: shares.append(v), failure=lambda p, e: told.append((p.name, str(e))))
    assert sorted(batch.done) == ["a", "d"] and batch.skipped == [Path("c")] and told == [("b", "b has no grid")]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)
    with pytest.raises(GridError, match="1 of 4 products failed"):
        batch.require_success()
    Batch(done=[], skipped=[Path("c")]).require_success()
