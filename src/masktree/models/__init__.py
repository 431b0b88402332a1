"""Networks that learn to find the masks of phase 1: backbones with a pyramid, decoders, heads, losses.

Importing this package imports torch; transformers is imported where a Mask2Former is built.
"""
