"""COCO's file format: the one reader and the one writer of its JSON, and of the masks in it.

Format: cocodataset.org/#format-data. ``file`` reads any COCO file (annotations, results, SA-1B) image by image,
``annotations`` converts between a :class:`~masktree.trees.masktree.MaskTree` and annotations, ``masks`` reads a
segmentation, ``document`` writes and reads masktree's own files, ``areas`` has COCO's size limits.
"""
