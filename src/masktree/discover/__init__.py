"""Discovery of masks: one image and a backbone to one tree of masks, by the methods in ``methods``."""
