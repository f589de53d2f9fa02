"""The simulator: a vector landscape, its materials' spectra, and the sensors that look at it."""
