"""Harmonisation: the straight line per band that takes one sensor's reflectance to another's, fitted so that outliers do not matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

TUKEY = 4.685
"""Residuals beyond so many standard deviations have no weight: 95 % efficient for normal noise (Beaton and Tukey 1974)."""


@dataclass(frozen=True)
class Fit:
    """Result of `robust_fit`: coefficients [k], their covariance [k, k], robust standard deviation of the residuals, weights [n] in 0..1."""

    coefficients: Vector
    covariance: Vector
    scale: float
    weights: Vector


def robust_fit(design: NDArray[np.floating], values: NDArray[np.floating], prior: NDArray[np.floating] | None = None, iterations: int = 12) -> Fit:
    """Linear fit by iterated reweighted least squares with Tukey's biweight, started from least absolute values.

    design: [n, k]; values: [n]; prior: [n] weights that the observations have anyway. The scale is 1.4826 times the median absolute
    residual. A singular system gives the coefficients of least norm.
    """
    a, y = np.asarray(design, np.float64), np.asarray(values, np.float64)
    own = np.ones(y.size) if prior is None else np.asarray(prior, np.float64)
    weights = own.copy()
    coefficients: Vector = np.zeros(a.shape[1])
    scale = 0.0
    normal = np.zeros((a.shape[1], a.shape[1]))
    tiny = float(np.finfo(np.float32).eps) * max(float(np.abs(y).max(initial=0.0)), 1e-300)
    for iteration in range(iterations):
        weighted = a * weights[:, None]
        normal = weighted.T @ a
        new: Vector = np.asarray(np.linalg.lstsq(normal, weighted.T @ y, rcond=1e-14)[0], np.float64)
        change = np.abs(a[:: max(1, y.size // 500)] @ (new - coefficients)).max(initial=0.0)
        coefficients = new
        residual = np.abs(y - a @ coefficients)
        scale = max(1.4826 * float(np.median(residual[own > 0])) if (own > 0).any() else 0.0, tiny)
        if iteration >= 4 and change < 1e-4 * scale:
            break
        # Least absolute values at first: a start that few outliers turn.
        absolute = iteration < 3
        weights = own / np.maximum(residual / scale, 0.3) if absolute else own * np.square(np.clip(1 - np.square(residual / (TUKEY * scale)), 0, None))
    if scale <= tiny and y.size > a.shape[1] and (own > 0).all():  # an exact fit, or more than half of the values equal
        scale = max(float(np.sqrt(np.average(np.square(residual), weights=np.maximum(weights, 1e-12)))), tiny)
    covariance: Vector = np.asarray(scale**2 * np.linalg.pinv(normal, rcond=1e-14, hermitian=True), np.float64)
    return Fit(coefficients, covariance, scale, weights)
