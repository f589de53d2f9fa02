"""Description files for QGIS's OTB provider: what otbQgisDescriptor writes, mended where the provider would make something else of it.

A description is a text file: name, one sentence, group, and a line a parameter with its fields between "|":
``QgsProcessingParameterNumber|nodata|label|QgsProcessingParameterNumber.Double|default|optional``. The last field says whether it is optional.
"""

from __future__ import annotations

import re

ZERO_COUNTS = re.compile(r"(^|\.)nodata$|^rand$|^sample\.bm$|^strategy\.split\.\w+prop$")
"""Numbers for which 0 says something else than nothing: QGIS leaves out a number that is 0, but not a text "0"."""
POINTS, ANY_FIELD = "0", "-1"
"""QgsProcessing.TypeVectorPoint, QgsProcessingParameterField.Any."""
VECTORS = {"outtrain", "outvalid", "outtest", "outvec"}
"""Files of points that QGIS can give a format and load as layers; as plain files they would be called *.file, which OTB cannot write."""
FILTERS = {"DensePolygonClassStatistics.out": "XML files (*.xml)", "TrainClassifierFromDeepFeatures.confmatout": "CSV files (*.csv)"}
PREFIX = "QgsProcessingParameter"


def split(text: str) -> tuple[list[str], list[list[str]]]:
    """A description's head (three lines) and the fields of its parameters; those of one option of a choice are optional.

    The dialog asks for those of the chosen option only, but qgis_process and models would ask for all.
    """
    head, lines = text.splitlines()[:3], [line.split("|") for line in text.splitlines()[3:] if line.strip()]
    options = [f"{fields[1]}.{option}." for fields in lines if fields[0] == "OTBParameterChoice" for option in fields[3].split(";")]
    for fields in lines:
        if any(fields[1].startswith(option) for option in options):
            fields[-1] = "True"
    return head, lines


def joined(head: list[str], lines: list[list[str]]) -> str:
    """The inverse of `split`."""
    return "\n".join([*head, *("|".join(fields) for fields in lines)]) + "\n"


def mended_theirs(text: str) -> str:
    """The description of one of OTB's own applications, with the parameters of one option of a choice optional."""
    return joined(*split(text))


def mended(application: str, text: str) -> str:
    """The description `text` of one of our applications as the provider needs it.

    * Numbers whose 0 counts are texts, which also lets them be empty (not given) or nan.
    * Parameters of one option of a choice are optional.
    * A field's list comes from a layer that the application has.
    * Points are vector layers, in and out; other files have the ending that OTB wants.
    * Optional products are not made unless asked for.
    """
    head, lines = split(text)
    keys = [fields[1] for fields in lines]
    for fields in lines:
        kind, key, label = fields[:3]
        optional = fields[-1]
        if kind == f"{PREFIX}Number" and ZERO_COUNTS.search(key):
            default = "None" if fields[4] == "0" else fields[4]
            fields[:] = [f"{PREFIX}String", key, label, default, "False", optional]
        elif kind == f"{PREFIX}Field" and fields[4] not in keys:
            fields[4] = fields[4].rpartition(".")[2]
        elif kind == f"{PREFIX}FileDestination" and key in VECTORS:
            fields[:] = [f"{PREFIX}VectorDestination", key, label, POINTS, "None", optional]
        elif kind == f"{PREFIX}FileDestination":
            fields[3] = FILTERS.get(f"{application}.{key}", fields[3])
        elif (application, key) == ("PatchesExtraction", "vec"):
            fields[:] = [f"{PREFIX}VectorLayer", key, label, POINTS, "None", optional]
        elif (application, key) == ("PatchesExtraction", "field"):
            fields[:] = [f"{PREFIX}Field", key, label, "None", "vec", ANY_FIELD, "False", optional]
        elif key == "outputpixeltype":
            fields[2] = f"{label} (float: the application's own choice)"
        if fields[0].endswith("Destination") and optional == "True":
            fields.append("False")
    return joined(head, lines)
