"""A study's answer: the measure that was chosen for it before any result, and what the numbers say, in words."""

from __future__ import annotations

import math
from typing import Any

from otbsr.evaluation import statistics

PRIMARY = "macro_f1"
"""The measure that the answer is given in, chosen before any result."""
SECOND = "artificial_f1"
CONTROLLED = ("unsharp", "shuffled")
"""Arms without new information: gaining as much as they do shows none."""
ALPHA = 1 - statistics.LEVEL


def points(value: float | None) -> str:
    """A share's change as points: 0.0123 -> +1.2."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:+.1f}".replace("-", "−")


def spread(change: dict[str, Any]) -> str:
    """An interval as points: [-0.4, +2.1]."""
    return f"[{points(change['low'])}, {points(change['high'])}]"


def verdict(change: dict[str, Any]) -> str:
    """`none`, `better` or `worse`: which side of zero the interval lies on."""
    low, high = change["low"], change["high"]
    return "better" if low is not None and low > 0 else "worse" if high is not None and high < 0 else "none"


def answer(content: dict[str, Any]) -> dict[str, Any]:
    """The answer: two sentences with their numbers, its sign, and a caution where a control gains as much or Holm's correction takes it back."""
    learner, lead, base = content["learners"][0], content["lead"], content["baseline"]
    rows, titles = content["results"][learner], {one["name"]: one["title"] for one in content["arms"]}
    if lead not in rows:
        return {"sentences": [f"{titles[lead]} was not mapped by {learner}: there is no answer."], "verdict": "none", "cautions": []}
    sentences = []
    for key, what in ((PRIMARY, "land-cover map"), (SECOND, "map of artificial surfaces")):
        if key not in rows[lead]["difference"][base]:
            continue
        change = rows[lead]["difference"][base][key]
        numbers = (
            f"{points(change['value'])} points of {'macro-F1' if key == PRIMARY else 'F1'} over {titles[base]} "
            f"({100 * rows[lead]['values'][key]['value']:.1f} against {100 * rows[base]['values'][key]['value']:.1f} %; 95 % interval {spread(change)})"
        )
        start = {"better": f"{titles[lead]} helped the {what}", "worse": f"{titles[lead]} harmed the {what}"}
        start["none"] = f"No difference shown for the {what}: {titles[lead]} changes it by"
        said = verdict(change)
        sentences.append(f"{start[said]} {numbers}." if said == "none" else f"{start[said]}: {numbers}.")
    change = rows[lead]["difference"][base][PRIMARY]
    cautions = []
    if verdict(change) != "none" and change["holm"] is not None and change["holm"] >= ALPHA:
        cautions.append(
            f"Corrected for the {len(rows) - 1} arms compared (Holm), p is {change['holm']:.2f}: the difference is not shown if all arms are looked at."
        )
    control = content["controls"][learner]
    equal = [titles[name] for name in CONTROLLED if name in control["arms"] and not control["arms"][name]["beaten"]]
    if equal and change["value"] > 0:
        cautions.append(f"{' and '.join(equal)} gained as much as {titles[lead]}: no information was shown to be added.")
    return {"sentences": sentences, "verdict": verdict(change), "cautions": cautions, "learner": learner}
