"""The first weights of a run that does not begin with a backbone alone: the averaged ones of an earlier run."""

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

_PYRAMID = "pyramid."  # where models keep what makes their maps
Settings = TypeVar("Settings", Optimisation, Augmentation)


@dataclass(frozen=True)
class Initialisation:
    """An earlier run, or another trained model.

    Attributes:
        folder: of it.
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
            WeightsError: there is none, or it has no weights yet.
            FormatError: its config.json is damaged.
        """
        folder = find_model(name)
        return cls(folder, read_header(folder), sha256_of(weight_file(folder)))

    @property
    def pretrained(self) -> str | None:
        """Hash of the weights that the run itself began with, as far as they were pretrained; None if not known."""
        return self.header.get("record", {}).get("pretrained_sha256")

    def load_into(self, model: nn.Module) -> str:
        """Give ``model`` the weights, and say in words how many.

        All of them, if the architectures are the same. Else those tensors whose name and shape agree, if all of the
        feature pyramid's do: half a backbone would be worse than none.

        Raises:
            WeightsError: nothing fits, or the weights are damaged.
        """
        found, own = read_tensors(self.folder), model.state_dict()
        fitting = {name: value for name, value in found.items() if name in own and own[name].shape == value.shape}
        missing = [name for name in own if name not in fitting]
        pyramid = [name for name in own if name.startswith(_PYRAMID)]
        if missing and (not pyramid or any(name in missing for name in pyramid)):
            raise WeightsError(
                f"expected in {self.folder} the weights of the same architecture, or at least of the same feature "
                f"pyramid; got no fitting {missing[0]!r} and {len(missing) - 1} more of {len(own)} tensors; use the "
                "backbone and sizes of that run, or leave --from out"
            )
        model.load_state_dict({**own, **fitting})
        if not missing:
            return f"all {len(own)} tensors"
        rooms = sorted({name.split(".")[0] for name in missing})
        return f"{len(fitting)} of {len(own)} tensors; new are {len(missing)} of {', '.join(rooms)}"

    def preset(self) -> Preset:
        """What the run was trained with.

        Raises:
            InputError: no training run wrote the folder.
            FormatError: its config.json is damaged.
        """
        training, path = self.header.get("training"), self.folder / CONFIG
        if training is None:
            raise InputError(
                f"expected the folder of a training run; got {self.folder} of a model without record of its training; "
                "give the output folder of masktree train"
            )
        if not isinstance(training, dict):
            raise FormatError(f"{path}: expected the record of a training; got something else; restore the file")
        optimisation = _settings(Optimisation, training.get("optimisation"), path)
        return Preset(
            read_config(self.folder), optimisation, _settings(Augmentation, training.get("augmentation"), path)
        )

    def unfinished(self) -> str | None:
        """A warning if the run had steps left."""
        done, wanted = self.header.get("step"), self.header.get("training", {}).get("optimisation", {}).get("steps")
        if done is None or wanted is None or done >= wanted:
            return None
        return f"{self.folder} was stopped at step {done} of {wanted}; its averaged weights are taken as they are"


def _settings(kind: Callable[..., Settings], values: Any, path: Path) -> Settings:
    """Settings from their plain values in JSON, where tuples are lists."""
    try:
        return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
    except (TypeError, AttributeError, InputError) as error:
        raise FormatError(
            f"{path}: expected the settings of a training run; got others ({error}); restore the file"
        ) from error
