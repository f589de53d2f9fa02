"""Make the files for QGIS again: python/otbsr/qgis/super_resolve_classify_compare.model3 and land_cover.qml.

Run by the distribution's Python, which has QGIS: python3 tools/qgis_files.py SETUP, where SETUP is a folder made by `otbsr qgis-setup`
(the model names algorithms, and QGIS writes only what it knows).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TO = ROOT / "python" / "otbsr" / "qgis"
sys.path.insert(0, "/usr/share/qgis/python/plugins")
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["QT_HASH_SEED"] = "0"  # the same order of attributes each time
os.environ["QGIS_CUSTOM_CONFIG_PATH"] = tempfile.mkdtemp()

from qgis.core import (  # noqa: E402
    QgsApplication,
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
)
from qgis.PyQt.QtCore import QPointF  # noqa: E402

Source = QgsProcessingModelChildParameterSource
CHOICES = {
    "classifier__libsvm__k": "linear",
    "classifier__libsvm__m": "csvc",
    "classifier__boost__t": "real",
    "classifier__ann__t": "reg",
    "classifier__ann__f": "sig",
    "classifier__ann__term": "all",
}
"""OTB's defaults: QGIS takes every choice for mandatory, also those of other learners."""
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
    registry = QgsApplication.processingRegistry()
    if registry.providerById("otb") is None:
        from otbprovider.OtbAlgorithmProvider import OtbAlgorithmProvider

        registry.addProvider(OtbAlgorithmProvider())
    ProcessingConfig.setSettingValue("OTB_FOLDER", str(setup))
    ProcessingConfig.setSettingValue("OTB_APP_FOLDER", str(setup / "lib" / "otb" / "applications"))
    registry.providerById("otb").refreshAlgorithms()
    return application


STYLE = """<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22" styleCategories="Symbology">
  <pipe>
    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">
      <colorPalette>
{entries}
      </colorPalette>
    </rasterrenderer>
  </pipe>
  <blendMode>0</blendMode>
</qgis>
"""


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

    def step(self, key: str, algorithm: str, title: str, column: int, products: dict[str, str], **parameters: object) -> None:
        """An algorithm: its parameters (values or sources) and the products that the model gives out, {output: title}."""
        child = QgsProcessingModelChildAlgorithm(algorithm)
        child.setChildId(key)
        child.setDescription(title)
        child.setPosition(QPointF(220 + 420 * column, 200 + 110 * self.rows["step"]))
        self.rows["step"] += 1
        for name, value in parameters.items():
            sources = value if isinstance(value, list) else [value]
            child.addParameterSources(name.replace("__", "."), [one if isinstance(one, Source) else Source.fromStaticValue(one) for one in sources])
        outputs = {}
        for output, shown in products.items():
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
        image_out = {"out": f"{shown} image"}
        builder.step(f"super_{arm}", "otb:SuperResolution", f"{shown} image", column, image_out, **{"in": image, "model": models[arm]})
        super_resolved = Source.fromChildOutput(f"super_{arm}", "out")
        learner = {"io__il": [super_resolved], "io__vd": [training], "io__valid": [test], "sample__vfn": field, "classifier": "rf", "rand": 1, **CHOICES}
        builder.step(f"train_{arm}", "otb:TrainImagesClassifier", f"Train on the {title} image", column, {}, **learner)
        classified = {"out": f"{shown} map"}
        parameters = {"in": super_resolved, "model": Source.fromChildOutput(f"train_{arm}", "io.out"), "outputpixeltype": 0}
        builder.step(f"map_{arm}", "otb:ImageClassifier", f"Classify the {title} image", column, classified, **parameters)
        counted = {"out": f"{shown} confusion matrix"}
        reference = {"format": "confusionmatrix", "ref": "vector", "ref__vector__in": test, "ref__vector__field": field}
        builder.step(
            f"matrix_{arm}",
            "otb:ComputeConfusionMatrix",
            f"Compare the {title} map",
            column,
            counted,
            **{"in": Source.fromChildOutput(f"map_{arm}", "out")},
            **reference,
        )
    both = [Source.fromChildOutput(f"map_{arm}", "out") for arm in ("base", "sr")]
    expression = {"exp": "im1b1 == im2b1 ? 0 : im2b1", "outputpixeltype": 0}
    builder.step("changes", "otb:BandMath", "Where the maps differ", 2, {"out": "Changes"}, il=both, **expression)
    return builder.model


def write_style() -> None:
    """Colours and names of the study's classes; 0 is transparent. The legend is read by the project's own Python, which has its packages."""
    code = "import json; from otbsr.world.landscape import LEGEND; print(json.dumps([[int(c), n, rgb] for c, (n, rgb, _) in LEGEND.items()]))"
    words = [os.environ.get("OTBSR_PYTHON", str(ROOT / ".venv" / "bin" / "python")), "-c", code]
    legend = json.loads(subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT / "python")}, capture_output=True, check=True).stdout)
    entries = "\n".join(f'        <paletteEntry value="{value}" label="{name}" color="{colour}" alpha="255"/>' for value, name, colour in legend)
    (TO / "land_cover.qml").write_text(STYLE.format(entries=entries), encoding="utf-8")


if __name__ == "__main__":
    qgis = start(Path(sys.argv[1]).absolute())
    model = build_model()
    valid, problems = model.validate()
    if not valid:
        raise SystemExit("\n".join(problems))
    if not model.toFile(str(TO / "super_resolve_classify_compare.model3")):
        raise SystemExit("the model cannot be written")
    write_style()
