"""Evaluation: image quality, land-cover maps by OTB's learners, statistics with intervals, the study and its report."""
