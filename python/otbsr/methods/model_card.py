"""The model card: what a person reads of a model before use, written from its sidecar."""

from __future__ import annotations

from otbsr.methods.model_folder import Sidecar

KINDS = {
    "fidelity": ("Fidelity method", "It sharpens what the input hints at, and texture within a parcel is smoothed."),
    "perceptual": ("Perceptual method (GAN)", "It draws texture that is likely, not texture that is there: do not measure or count in it; compare it with F."),
}


def card(sidecar: Sidecar, parameters: int) -> str:
    """The model card, from the sidecar."""
    t, m, bands = sidecar.training, sidecar.metrics, sidecar.output.bands
    rows = "\n".join(f"| {b} | {x:.2f} | {y:.2f} | {y - x:+.2f} |" for b, x, y in zip(bands, m["psnr_bands_bicubic"], m["psnr_bands"], strict=True))
    past = ", then ".join(f"{run['steps']} steps on {run.get('data') or 'data not recorded'}" for run in t["history"])
    before = f"\nIt started from weights trained for {past}." if past else ""
    kind, limits = KINDS[sidecar.method]
    return f"""# {sidecar.name}

{kind}: a purely local residual network over bicubic, {parameters:,} parameters, x{sidecar.factor}, bands {" ".join(bands)},
{sidecar.input.spacing:g} m to {sidecar.input.spacing / sidecar.factor:g} m. In and out: reflectance x 10000. Margin {sidecar.margin} input pixels.

**Trained on** {t["data"] or "patches described in model.json"}:
{t["pairs"]} pairs, {t["steps"]} steps, {t["seconds"] / 60:.0f} minutes, seed {t["seed"]}.{before}

**Quality** on {m["data"]}, PSNR in dB (reflectance, MAX = 1):

| band | bicubic | this model | difference |
|---|---|---|---|
{rows}
| mean | {m["psnr_bicubic"]:.2f} | {m["psnr"]:.2f} | {m["gain_over_bicubic_db"]:+.2f} |

**Limits.** {limits} An object that left no trace at {sidecar.input.spacing:g} m does not come back. What was measured above holds for data like its
training data, and for no other.
"""
