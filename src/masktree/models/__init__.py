"""Networks that are trained on pseudo-labels.

``config`` and ``build``: from a configuration to a model, and folders of saved models; ``saved`` and its names on the
hub. ``structures``: the interface of a model. ``pyramid``: backbones with maps at strides 4 to 32. ``mask2former``: the
models of SOHES and UnSAM. ``cascade``: the model of HASSOD. ``promptable``: clicks, boxes and granularities. ``onnx``:
export. ``inputs``, ``trees`` and ``crops``: from images to inputs, and from detections to mask trees.
"""
