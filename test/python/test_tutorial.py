"""doc/tutorial.ipynb runs from its first cell to its last, and what it says is right; the outputs that are kept in it are of that program."""

from __future__ import annotations

import base64
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data" / "sentinel2_theia_gers"
ALLOWED = 0.03  # macro-F1 between machines: threads change the order of sums


def printed(notebook: Any) -> list[str]:
    """The text that each cell printed."""
    return ["".join("".join(output["text"]) for output in cell.get("outputs", ()) if output["output_type"] == "stream") for cell in notebook["cells"]]


def pictures(notebook: Any) -> list[bytes]:
    """All pictures."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ()) if output["output_type"] == "display_data"]
    return [base64.b64decode("".join(output["data"]["image/jpeg"])) for output in outputs]


def summary(notebook: Any) -> dict[str, Any]:
    """What the last cell prints."""
    return json.loads(printed(notebook)[-1])


@pytest.fixture(scope="module")
def kept() -> Any:
    """The notebook as it is committed."""
    return json.loads((ROOT / "doc" / "tutorial.ipynb").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def execute(serving: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Any]:
    """Runs the notebook on a product; world and study are made once."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    spec = importlib.util.spec_from_file_location("tutorial", ROOT / "tools" / "tutorial.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("tutorial")

    def run(product: Path) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OTBSR_TUTORIAL", str(folder))
            patch.setenv("OTBSR_TUTORIAL_PRODUCT", str(product))
            return module.execute()

    return run


def assert_right(notebook: Any, kept: Any) -> None:
    """Consistency within the noise, an interval around the difference, the verdict that it means, and the figures that are kept."""
    said, before = summary(notebook), summary(kept)
    assert said["kind"] == "theia"
    assert abs(said["consistency_bias"]) < 1e-4 and 0 < said["consistency_rmse"] < said["noise_input"] < 0.02
    assert said["low"] < said["value"] < said["high"]
    assert said["verdict"] == ("better" if said["low"] > 0 else "worse" if said["high"] < 0 else "none")
    assert (said["high"] - said["low"]) / 2 < said["detectable"]
    for key in ("value", "low", "high"):
        assert said[key] == pytest.approx(before[key], abs=ALLOWED), key
    assert said["f"] > 2 * said["bicubic-context"]  # the failure that the text names
    text = "\n".join(printed(notebook))
    assert "No difference shown" in text or "helped" in text or "harmed" in text
    assert "mapped buildings without a real one" in text
    assert len(pictures(notebook)) == 2 and all(picture.startswith(b"\xff\xd8") for picture in pictures(notebook))


def test_from_a_product_to_the_answer(execute: Callable[[Path], Any], kept: Any) -> None:
    """Without a product of one's own: on the simulated one, in Theia's layout."""
    notebook = execute(Path("no product"))
    assert "SENTINEL2A" in printed(notebook)[3] and "complete: yes" in printed(notebook)[3]
    assert "spacing 10 x 10 size 150 x 150" in printed(notebook)[6] and "spacing 2.5 x 2.5 size 600 x 600" in printed(notebook)[6]
    assert_right(notebook, kept)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="no real product here")
def test_on_the_real_product(execute: Callable[[Path], Any], kept: Any) -> None:
    """The product that the kept outputs are of."""
    notebook = execute(REAL)
    assert_right(notebook, kept)
    assert summary(notebook)["consistency_rmse"] == pytest.approx(summary(kept)["consistency_rmse"], abs=1e-5)


def test_what_is_kept(kept: Any) -> None:
    """Small pictures, no error, no path of a machine, and the outputs of every cell."""
    assert sum(map(len, pictures(kept))) < 300_000
    text = json.dumps(kept)
    assert "Traceback" not in text and "/work/" not in text and "/root" not in text and "/home" not in text and "/tmp" not in text
    outputs = {output["output_type"] for cell in kept["cells"] for output in cell.get("outputs", ())}
    assert outputs == {"stream", "display_data"}
    assert all(output.get("name", "stdout") == "stdout" for cell in kept["cells"] for output in cell.get("outputs", ()))
    order = [cell["execution_count"] for cell in kept["cells"] if cell["cell_type"] == "code"]
    assert order == list(range(1, len(order) + 1))
