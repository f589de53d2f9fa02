"""Draw doc/images/qgis-super-resolution.png again: SuperResolution's dialog in the real QGIS, on an X server without a screen.

    sh tools/system-packages.sh xvfb xauth
    xvfb-run -a -s "-screen 0 1400x1000x24" /usr/bin/python3 tools/qgis_screenshot.py SETUP IMAGE MODEL PICTURE

Run by the distribution's Python, which has QGIS. SETUP is a folder made by `otbsr qgis-setup`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["QT_QPA_PLATFORM"] = "xcb"

from qgis_files import start


def main(setup: Path, image: Path, model: Path, picture: Path) -> None:
    """Open the dialog, fill it in, save what is on the screen."""
    application = start(setup)
    from processing.gui.AlgorithmDialog import AlgorithmDialog
    from qgis.core import QgsApplication, QgsProject, QgsRasterLayer
    from qgis.PyQt.QtCore import QTimer
    from qgis.PyQt.QtWidgets import QMainWindow

    QgsProject.instance().addMapLayer(QgsRasterLayer(str(image), image.stem))
    window = QMainWindow()
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("otb:SuperResolution")
    dialog = AlgorithmDialog(algorithm, parent=window)
    dialog.setParameters({"in": QgsProject.instance().mapLayersByName(image.stem)[0].id(), "model": str(model), "out": "/data/sr_2m5.tif"})
    dialog.resize(900, 640)
    dialog.show()

    def save() -> None:
        if not dialog.grab().save(str(picture)):
            raise SystemExit(f"{picture}: cannot be written")
        dialog.close()
        application.quit()

    QTimer.singleShot(1500, save)
    application.exec_()


if __name__ == "__main__":
    main(*(Path(word).absolute() for word in sys.argv[1:5]))
    os._exit(0)  # QGIS's own clean-up crashes now and then
