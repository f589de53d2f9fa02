"""Methods: networks, losses, training, baselines, the model folder."""
