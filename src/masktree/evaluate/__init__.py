"""Measuring as the field does, and comparing measurements.

``harness`` runs a protocol over a data set. ``recall``, ``points``, ``bsds``, ``nesting`` and ``stability`` say what
one image adds and how that is summed up; ``datasets`` reads ground truths and ``predictions`` results; ``compare`` and
``page`` tell what came of it. No number here is used to fit or to choose anything.
"""
