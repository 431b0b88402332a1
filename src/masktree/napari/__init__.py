"""Plugin of napari (napari.org): a reader and a writer of trees, and a widget that makes them.

``napari.yaml`` is its manifest (npe2). Nothing here is imported but by napari.
"""
