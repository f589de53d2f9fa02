"""Make the files for QGIS again: python/otbsr/qgis/super_resolve_classify_compare.model3 and land_cover.qml.

Run by the distribution's Python, which has QGIS: python3 tools/qgis_files.py SETUP, where SETUP is a folder made by `otbsr qgis-setup`
(the model names algorithms, and QGIS writes only what it knows).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TO = ROOT / "python" / "otbsr" / "qgis"
sys.path.insert(0, "/usr/share/qgis/python/plugins")
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["QGIS_CUSTOM_CONFIG_PATH"] = tempfile.mkdtemp()

from qgis.core import (  # noqa: E402
    QgsApplication,
    QgsColorRampShader,
    QgsPalettedRasterRenderer,
    QgsProcessing,
    QgsProcessingModelAlgorithm,
    QgsProcessingModelChildAlgorithm,
    QgsProcessingModelChildParameterSource,
    QgsProcessingModelOutput,
    QgsProcessingModelParameter,
    QgsProcessingParameterField,
    QgsProcessingParameterFile,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterVectorLayer,
    QgsRasterLayer,
)
from qgis.PyQt.QtCore import QPointF  # noqa: E402
from qgis.PyQt.QtGui import QColor  # noqa: E402

Source = QgsProcessingModelChildParameterSource
HELP = (
    "Super-resolves an image by a model and by a baseline (models/bicubic-x4), trains OTB's random forest on each with the same polygons, makes a land-cover "
    "map of each, and counts both against other polygons. The maps share one grid. The change map has the new class where the two differ, and 0 elsewhere. "
    "One pair of maps says little: otbsr study gives intervals."
)


def start(setup: Path) -> QgsApplication:
    """QGIS with the OTB provider of a folder made by `otbsr qgis-setup`."""
    application = QgsApplication([], True)
    application.initQgis()
    from processing.core.Processing import Processing
    from processing.core.ProcessingConfig import ProcessingConfig

    Processing.initialize()
    from otbprovider.OtbAlgorithmProvider import OtbAlgorithmProvider

    application.otb = OtbAlgorithmProvider()  # QGIS's registry does not keep it alive
    ProcessingConfig.initialize()
    ProcessingConfig.setSettingValue("OTB_FOLDER", str(setup))
    ProcessingConfig.setSettingValue("OTB_APP_FOLDER", str(setup / "lib" / "otb" / "applications"))
    QgsApplication.processingRegistry().addProvider(application.otb)
    application.otb.refreshAlgorithms()
    return application


class Builder:
    """A graphical model, step by step: `given` adds an input, `step` an algorithm."""

    def __init__(self, name: str, title: str) -> None:
        self.model = QgsProcessingModelAlgorithm(title, "otbsr")
        self.model.setName(name)
        self.model.setHelpContent({"ALG_DESC": HELP, "ALG_CREATOR": "The otbsr developers"})
        self.rows = {"input": 0, "step": 0}

    def given(self, parameter: object) -> Source:
        """An input of the model."""
        place = QgsProcessingModelParameter(parameter.name())
        place.setPosition(QPointF(120 + 230 * self.rows["input"], 60))
        self.rows["input"] += 1
        self.model.addModelParameter(parameter, place)
        return Source.fromModelParameter(parameter.name())

    def step(self, key: str, algorithm: str, title: str, column: int, products: dict[str, tuple[str, str]], **parameters: object) -> None:
        """An algorithm: its parameters (values or sources) and the products that the model gives out, {output: (name, title)}."""
        child = QgsProcessingModelChildAlgorithm(algorithm)
        child.setChildId(key)
        child.setDescription(title)
        child.setPosition(QPointF(220 + 420 * column, 200 + 110 * self.rows["step"]))
        self.rows["step"] += 1
        for name, value in parameters.items():
            sources = value if isinstance(value, list) else [value]
            child.addParameterSources(
                name.replace("__", "."), [one if isinstance(one, Source) else Source.fromStaticValue(one) for one in sources]
            )
        outputs = {}
        for output, (name, shown) in products.items():
            made = QgsProcessingModelOutput(shown, shown)
            made.setChildId(key)
            made.setChildOutputName(output.replace("__", "."))
            made.setPosition(child.position() + QPointF(210, 60))
            outputs[shown] = made
        child.setModelOutputs(outputs)
        self.model.addChildAlgorithm(child)


def build_model() -> QgsProcessingModelAlgorithm:
    """Super-resolve, classify, compare."""
    builder = Builder("super_resolve_classify_compare", "Super-resolve, classify, compare")
    image = builder.given(QgsProcessingParameterRasterLayer("image", "Image with the models' bands (Sentinel-2, 10 m)"))
    folder = QgsProcessingParameterFile.Folder
    models = {
        "sr": builder.given(QgsProcessingParameterFile("model", "Model folder", folder)),
        "base": builder.given(QgsProcessingParameterFile("baseline", "Model folder of the baseline (models/bicubic-x4)", folder)),
    }
    training = builder.given(QgsProcessingParameterVectorLayer("training", "Training polygons", [QgsProcessing.TypeVectorPolygon]))
    field = builder.given(QgsProcessingParameterField("field", "Field of the class (integers, 1 to 255)", None, "training"))
    test = builder.given(QgsProcessingParameterVectorLayer("test", "Test polygons (same field)", [QgsProcessing.TypeVectorPolygon]))
    for column, (arm, title) in enumerate((("base", "baseline"), ("sr", "super-resolved"))):
        shown = title.capitalize()
        image_out = {"out": (f"image_{arm}", f"{shown} image")}
        builder.step(f"super_{arm}", "otb:SuperResolution", f"{shown} image", column, image_out, **{"in": image, "model": models[arm]})
        super_resolved = Source.fromChildOutput(f"super_{arm}", "out")
        trained = {"io__out": ("classifier", f"{shown} classifier")} if arm == "none" else {}
        learner = {"io__il": [super_resolved], "io__vd": [training], "io__valid": [test], "sample__vfn": field, "classifier": "rf", "rand": 1}
        builder.step(f"train_{arm}", "otb:TrainImagesClassifier", f"Train on the {title} image", column, trained, **learner)
        classified = {"out": (f"map_{arm}", f"{shown} map")}
        parameters = {"in": super_resolved, "model": Source.fromChildOutput(f"train_{arm}", "io.out"), "outputpixeltype": 0}
        builder.step(f"map_{arm}", "otb:ImageClassifier", f"Classify the {title} image", column, classified, **parameters)
        counted = {"out": (f"matrix_{arm}", f"{shown} confusion matrix")}
        reference = {"ref": "vector", "ref__vector__in": test, "ref__vector__field": field}
        builder.step(f"matrix_{arm}", "otb:ComputeConfusionMatrix", f"Compare the {title} map", column, counted, **{"in": Source.fromChildOutput(f"map_{arm}", "out")}, **reference)
    both = [Source.fromChildOutput(f"map_{arm}", "out") for arm in ("base", "sr")]
    expression = {"exp": "im1b1 == im2b1 ? 0 : im2b1", "outputpixeltype": 0}
    builder.step("changes", "otb:BandMath", "Where the maps differ", 2, {"out": ("changes", "Changes")}, il=both, **expression)
    return builder.model


def write_style(to: Path) -> None:
    """Paletted colours and names of the study's classes, with 0 transparent."""
    sys.path.insert(0, str(ROOT / "python"))
    legend = json.loads(os.environ["OTBSR_LEGEND"])
    classes = [QgsPalettedRasterRenderer.Class(one["code"], QColor(one["colour"]), one["name"]) for one in legend]
    with tempfile.TemporaryDirectory() as folder:
        from osgeo import gdal

        file = gdal.GetDriverByName("GTiff").Create(f"{folder}/map.tif", 8, 8, 1, gdal.GDT_Byte)
        file = None
        layer = QgsRasterLayer(f"{folder}/map.tif", "land cover")
        layer.setRenderer(QgsPalettedRasterRenderer(layer.dataProvider(), 1, classes))
        message, good = layer.saveNamedStyle(str(to), QgsRasterLayer.Symbology)
        del layer, file
    assert good, message


if __name__ == "__main__":
    qgis = start(Path(sys.argv[1]).absolute())
    model = build_model()
    valid, problems = model.validate()
    print("model:", "valid" if valid else problems)
    assert model.toFile(str(TO / "super_resolve_classify_compare.model3"))
    write_style(TO / "land_cover.qml")
    assert QgsColorRampShader
