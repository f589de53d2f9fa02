"""Pairs: from aligned images to patches for training."""
