"""What the scores of each discovery method say about a mask's agreement over views: knots of its ``ScoreCalibration``.

Raw scores, and the agreement at these, as ``recipes/scores.py`` prints them.
"""

from __future__ import annotations

Knots = tuple[tuple[float, ...], tuple[float, ...]]

# 60 photographs, 45,322 masks, mean agreement 0.685, backbone embedded
MASKTREE: Knots = (
    (0.0, 0.00032, 0.000763, 0.001128, 0.00153, 0.001935, 0.002366, 0.002847, 0.003374, 0.004021, 0.004819, 0.005884,
     0.007483, 0.010177, 0.014546, 0.023187, 0.039242, 0.068114, 0.149238, 1.0),
    (0.5389, 0.5399, 0.5621, 0.5918, 0.598, 0.6142, 0.6396, 0.6553, 0.6781, 0.7009, 0.7219, 0.7475, 0.7717, 0.8116,
     0.8667, 0.9152, 0.9448, 0.952, 0.9708, 0.9718),
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
