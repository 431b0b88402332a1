"""The protocols by name. To add one, write its module and an entry here."""

from __future__ import annotations

from masktree.evaluate import bsds, consistency, hierarchy, points, recall
from masktree.evaluate.protocol import EvaluationProtocol

PROTOCOLS: dict[str, EvaluationProtocol] = {
    "ar": recall.PROTOCOL,
    "points": points.PROTOCOL,
    "bsds": bsds.PROTOCOL,
    "hierarchy": hierarchy.PROTOCOL,
    "consistency": consistency.PROTOCOL,
}
