"""Draws doc/images/viewer.png: `otbsr view` in a headless Chromium, on the Theia scene of Gers.

Usage: tools/draw_viewer.py SENTINEL2 [--model models/f-light-x4] [--out doc/images/viewer.png]
SENTINEL2: a product or image, such as ../shared/data/sentinel2_theia_gers. Needs Chromium and Pillow.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test" / "python"))

from browser import Browser  # noqa: E402
from PIL import Image  # noqa: E402

from otbsr.serving.apply import apply  # noqa: E402
from otbsr.view.layers import open_result  # noqa: E402
from otbsr.view.server import Viewer  # noqa: E402

DRAWN = """new Promise(done => { const look = () => window.otbsrView ? Promise.all(otbsrView.maps.map(map =>
  new Promise(ok => { map.once('rendercomplete', ok); map.render(); }))).then(() => done(true)) : setTimeout(look, 50); look(); })"""


def main() -> None:
    """Super-resolve, open the viewer, look at it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "f-light-x4")
    parser.add_argument("--out", type=Path, default=ROOT / "doc" / "images" / "viewer.png")
    parser.add_argument("--at", type=float, nargs=2, default=(0.52, 0.47), help="centre, shares of width and height from the upper left")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "gers_2m5.tif"
        apply(given.source, given.model, out, validity=True)
        scenes = open_result([out], given.source)
        with Viewer(scenes) as viewer, Browser(Path(scratch) / "profile") as browser:
            threading.Thread(target=viewer.serve_forever, daemon=True).start()
            browser.open(viewer.url, 1100, 700)
            browser.run(DRAWN)
            grid = scenes[0].layers[0].grid
            x, y = grid.left + given.at[0] * (grid.right - grid.left), grid.top - given.at[1] * (grid.top - grid.bottom)
            browser.run(f"otbsrView.view().setResolution(1.25); otbsrView.view().setCenter([{x}, {y}]); true")
            browser.run(DRAWN)
            browser.screenshot(Path(scratch) / "seen.png", whole=False)
            Image.open(Path(scratch) / "seen.png").convert("RGB").quantize(160).save(given.out, optimize=True)
            viewer.shutdown()
    print(given.out)


if __name__ == "__main__":
    main()
