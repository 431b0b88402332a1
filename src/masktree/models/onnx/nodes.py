"""Nodes of an ONNX graph that is written operator by operator, for computations that torch cannot export.

Such are loops that stay loops in the file: eight iterations of k-means take one node there instead of hundreds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

Value = str  # name of a tensor in a graph


class Nodes:
    """The nodes of a graph so far; an operator of ONNX is called as a method: ``op.Add(a, b)``.

    Inputs are values of the graph, None for one that is left out, or constants: NumPy arrays, a float for float32 or an
    int or bool of their own type. Attributes are given by name.

    >>> op = Nodes()
    >>> doubled = op.Mul(op.Cast("x", to=onnx.TensorProto.FLOAT), 2.0)
    >>> print(*(node.op_type for node in op.nodes))
    Cast Mul
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._names = itertools.count()

    def __getattr__(self, op_type: str) -> Callable[..., Value]:
        """A function that adds a node with one output and returns the output."""
        if not op_type[0].isupper():
            raise AttributeError(op_type)
        return lambda *inputs, **attributes: self.add(op_type, inputs, 1, **attributes)[0]

    def add(self, op_type: str, inputs: Sequence[Any], count: int, /, **attributes: Any) -> list[Value]:
        """The ``count`` outputs of a new node."""
        names = [self._name(value) for value in inputs]
        outputs = [self.new_value() for _ in range(count)]
        self.nodes.append(onnx.helper.make_node(op_type, names, outputs, **attributes))
        return outputs

    def name_value(self, value: Value, name: str) -> None:
        """Give a value a second name."""
        self.nodes.append(onnx.helper.make_node("Identity", [value], [name]))

    def new_value(self) -> Value:
        """A name that is not used yet."""
        return f"value_{next(self._names)}"

    def loop(
        self,
        num_iterations: int | Value,
        state: Sequence[Value],
        body: Callable[..., tuple[Sequence[Value], Sequence[Value]]],
    ) -> list[Value]:
        """A ``Loop`` node.

        Args:
            num_iterations: how often ``body`` is run; a value is an int64 scalar.
            state: values before the first iteration.
            body: called once, to add the nodes of an iteration, with the number of the iteration and the state. Returns
                the next state, and values of which those of all iterations are stacked.

        Returns:
            The state after the last iteration, then the stacked values.
        """
        start = len(self.nodes)
        iteration, condition, *inputs = (self.new_value() for _ in range(2 + len(state)))
        next_state, stacked = body(iteration, *inputs)
        next_condition = self.Identity(condition)
        nodes = self.nodes[start:]
        del self.nodes[start:]
        graph = onnx.helper.make_graph(
            nodes,
            "iteration",
            [
                onnx.helper.make_tensor_value_info(iteration, onnx.TensorProto.INT64, []),
                onnx.helper.make_tensor_value_info(condition, onnx.TensorProto.BOOL, []),
                *(onnx.ValueInfoProto(name=name) for name in inputs),
            ],
            [onnx.ValueInfoProto(name=name) for name in (next_condition, *next_state, *stacked)],
        )
        return self.add("Loop", [num_iterations, np.array(True), *state], len(state) + len(stacked), body=graph)

    def _name(self, value: Any) -> Value:
        if value is None:
            return ""
        if isinstance(value, str):
            return value
        name = self.new_value()
        array = np.asarray(value, np.float32) if type(value) is float else np.asarray(value)
        self.initializers.append(onnx.numpy_helper.from_array(array, name))
        return name
