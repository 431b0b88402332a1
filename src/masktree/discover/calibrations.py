"""What the scores of each discovery method say about a mask's agreement over views: knots of its ``ScoreCalibration``.

Raw scores, and the agreement at these, as ``recipes/scores.py`` prints them.
"""

from __future__ import annotations

Knots = tuple[tuple[float, ...], tuple[float, ...]]

# 60 photographs, 60,000 masks, mean agreement 0.776, backbone embedded
MASKTREE: Knots = (
    (0.0, 0.001331, 0.002228, 0.002712, 0.003217, 0.003896, 0.004518, 0.005053, 0.00555, 0.006106, 0.006773, 0.007646,
     0.009006, 0.011514, 0.015878, 0.024137, 0.038576, 0.063709, 0.150397, 1.0),
    (0.5604, 0.5614, 0.6236, 0.6818, 0.7404, 0.7584, 0.7827, 0.7984, 0.815, 0.8216, 0.8234, 0.8347, 0.8406, 0.8519,
     0.8721, 0.9041, 0.9462, 0.9581, 0.9784, 0.9794),
)  # fmt: skip
# 24 photographs, 260 masks, mean agreement 0.696, backbone texture
HASSOD: Knots = (
    (0.0, 0.756592, 0.886325, 0.931453, 0.958268, 0.982174, 1.0),
    (0.4379, 0.4389, 0.6176, 0.7375, 0.8313, 0.9038, 0.9048),
)
# 24 photographs, 1,030 masks, mean agreement 0.562, backbone texture
SOHES: Knots = (
    (0.0, 0.598353, 0.711208, 0.771115, 0.805108, 0.832699, 0.855728, 0.87678, 0.892108, 0.906182, 0.917975, 0.93073,
     0.942806, 0.955613, 0.968629, 0.983871, 1.0),
    (0.4251, 0.4261, 0.4354, 0.4364, 0.4758, 0.4816, 0.5048, 0.5058, 0.5068, 0.5078, 0.5632, 0.6546, 0.7142, 0.7391,
     0.7832, 0.8952, 0.8962),
)  # fmt: skip
# 24 photographs, 443 masks, mean agreement 0.581, backbone texture
UNSAM: Knots = (
    (0.0, 0.661403, 0.802116, 0.861266, 0.90155, 0.930585, 0.950998, 0.978346, 1.0),
    (0.3281, 0.3291, 0.4535, 0.5039, 0.5525, 0.6929, 0.7204, 0.785, 0.786),
)
