"""Training on pseudo-labels: data, presets, the loop, and the folder that a run lives in."""
