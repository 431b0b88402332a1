"""Evaluation of masks as the field does it, and comparison of results.

``harness`` evaluates predictions by one of the ``protocols`` (``recall``, ``points``, ``bsds``, ``hierarchy``,
``consistency``: what each image adds and how it is summed up). ``datasets`` reads ground truth, ``predictions`` reads
predictions; ``compare`` tests a difference and ``report`` writes a page with pictures. Ground truth is used for
reports only: nothing here fits weights or chooses parameters by it.
"""
