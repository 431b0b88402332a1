"""COCO's limits of small, medium and large, in pixels (cocodataset.org/#detection-eval)."""

SMALL_AREA = 32**2  # up to here an object is small
MEDIUM_AREA = 96**2  # and up to here medium
