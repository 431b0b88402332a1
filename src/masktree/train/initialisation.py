"""Initial weights of a run from an earlier run, or from another trained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from masktree.errors import FormatError, InputError, WeightsError
from masktree.io.files import sha256_of
from masktree.models.build import read_tensors
from masktree.models.saved import CONFIG, find_model, read_config, read_header, weight_file
from masktree.train.augmentation import Augmentation
from masktree.train.optimiser import Optimisation
from masktree.train.presets import Preset

_PYRAMID_PREFIX = "pyramid."  # of the feature pyramid's tensors in all models
Settings = TypeVar("Settings", Optimisation, Augmentation)


@dataclass(frozen=True)
class Initialisation:
    """An earlier run, or another trained model.

    Attributes:
        folder: of the model.
        header: content of its config.json.
        sha256: of its weight file, lower-case hexadecimal.
    """

    folder: Path
    header: Mapping[str, Any]
    sha256: str

    @classmethod
    def open(cls, name: str | Path) -> Initialisation:
        """The model in a folder, or ``owner/name`` on the hub.

        Raises:
            WeightsError: no such model, or no weights yet.
            FormatError: its config.json is damaged.
        """
        folder = find_model(name)
        return cls(folder, read_header(folder), sha256_of(weight_file(folder)))

    @property
    def pretrained_sha256(self) -> str | None:
        """Hash of the pretrained weights that the run itself started from; None if unknown."""
        value = self.header.get("record", {}).get("pretrained_sha256")
        return value if isinstance(value, str) else None

    def load_into(self, model: nn.Module) -> str:
        """Load the weights into ``model``; returns a description of how many.

        All of them for the same architecture. Else those tensors whose name and shape agree, if all of the feature
        pyramid's do: half a backbone is worse than none.

        Raises:
            WeightsError: nothing fits, or the weights are damaged.
        """
        tensors, expected = read_tensors(self.folder), model.state_dict()
        fitting = {
            name: value for name, value in tensors.items() if name in expected and expected[name].shape == value.shape
        }
        missing = [name for name in expected if name not in fitting]
        pyramid = [name for name in expected if name.startswith(_PYRAMID_PREFIX)]
        if missing and (not pyramid or any(name in missing for name in pyramid)):
            raise WeightsError(
                f"expected in {self.folder} the weights of the same architecture, or at least of the same feature "
                f"pyramid; got no fitting {missing[0]!r} and {len(missing) - 1} more of {len(expected)} tensors; use "
                "the backbone and sizes of that run, or omit --from"
            )
        model.load_state_dict({**expected, **fitting})
        if not missing:
            return f"all {len(expected)} tensors"
        modules = sorted({name.split(".")[0] for name in missing})
        return f"{len(fitting)} of {len(expected)} tensors; not in {', '.join(modules)} ({len(missing)})"

    def preset(self) -> Preset:
        """The settings of the run.

        Raises:
            InputError: the folder was not written by a training run.
            FormatError: its config.json is damaged.
        """
        training, path = self.header.get("training"), self.folder / CONFIG
        if training is None:
            raise InputError(
                f"expected the folder of a training run; got {self.folder} of a model without record of its training; "
                "give the output folder of masktree train"
            )
        if not isinstance(training, dict):
            raise FormatError(f"{path}: expected the settings of a training run; got something else; restore the file")
        return Preset(
            read_config(self.folder),
            _from_json(Optimisation, training.get("optimisation"), path),
            _from_json(Augmentation, training.get("augmentation"), path),
        )

    def unfinished_warning(self) -> str | None:
        """A warning if the run was stopped before its last step; else None."""
        optimisation = self.header.get("training", {}).get("optimisation")
        done, steps = self.header.get("step"), optimisation.get("steps") if isinstance(optimisation, dict) else None
        if not isinstance(done, int) or not isinstance(steps, int) or done >= steps:
            return None
        return f"{self.folder} was stopped at step {done} of {steps}; its averaged weights are used as they are"


def _from_json(kind: Callable[..., Settings], values: Any, path: Path) -> Settings:
    """Settings from plain values; JSON has lists for tuples."""
    try:
        return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
    except (TypeError, AttributeError, InputError) as error:
        raise FormatError(
            f"{path}: expected the settings of a training run; got others ({error}); restore the file"
        ) from error
