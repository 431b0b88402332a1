"""Files of other tools into trees of masks: one module per format."""
