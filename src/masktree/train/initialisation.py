"""Initial weights of a run from an earlier run, or from another trained model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from safetensors import SafetensorError, safe_open
from torch import nn

from masktree.errors import FormatError, InputError, WeightsError
from masktree.io.files import sha256_of
from masktree.models.build import read_tensors
from masktree.models.config import ModelConfig
from masktree.models.saved import CONFIG, find_model, read_config, read_header, weight_file
from masktree.train.augmentation import Augmentation
from masktree.train.optimiser import Optimisation
from masktree.train.presets import Preset, Size, find_preset

_PYRAMID_PREFIX = "pyramid."  # of the feature pyramid's tensors in all models
# Sizes of the presets that decide the shapes of tensors. The numbers of queries and detections are left to the user.
_WIDTHS = (
    "hidden_dim",
    "num_heads",
    "feedforward_dim",
    "decoder_feedforward_dim",
    "pixel_decoder_layers",
    "decoder_layers",
    "prompt_decoder_layers",
    "box_head_dim",
    "mask_head_layers",
)
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
        does_fit = self._fit(model)
        model.load_state_dict(expected | {name: tensors[name] for name, fits in does_fit.items() if fits})
        return _describe_fit(does_fit)

    def check(self, preset: Preset, build_model: Callable[..., Any]) -> str | None:
        """Advice if another size of the preset takes over more of the weights; else None.

        Args:
            preset: of the new run.
            build_model: makes the model of a configuration, as ``masktree.models.build.build_model``.

        Raises:
            WeightsError: as ``load_into``, in a fraction of its time.
        """
        does_fit = self._fit(build_model(preset.model, weights=False))
        size = None if all(does_fit.values()) else _size_like(preset.model, read_config(self.folder))
        if size is None:
            return None
        resized = find_preset(preset.model.kind, size, backbone=preset.model.backbone).model
        would_fit = self._fit(build_model(resized, weights=False))
        if sum(would_fit.values()) <= sum(does_fit.values()):
            return None
        return (
            f"{self.folder} is as wide as --size {size}, which would start with {_describe_fit(would_fit)} of it; this "
            f"run starts with {_describe_fit(does_fit)}"
        )

    def _fit(self, model: nn.Module) -> dict[str, bool]:
        """Whether the weights hold a tensor of that name and shape, for each tensor of ``model``.

        Raises:
            WeightsError: those of its feature pyramid do not fit, or the file is damaged.
        """
        try:
            with safe_open(weight_file(self.folder), "pt") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise WeightsError(
                f"expected tensors in {str(weight_file(self.folder))!r}; got a damaged file ({error}); copy it again"
            ) from error
        does_fit = {name: shapes.get(name) == tuple(value.shape) for name, value in model.state_dict().items()}
        missing = [name for name, fits in does_fit.items() if not fits]
        pyramid = [fits for name, fits in does_fit.items() if name.startswith(_PYRAMID_PREFIX)]
        if missing and not (pyramid and all(pyramid)):
            raise WeightsError(
                f"expected in {self.folder} the weights of the same architecture, or at least of the same feature "
                f"pyramid; got no fitting {missing[0]!r} and {len(missing) - 1} more of {len(does_fit)} tensors; use "
                f"--backbone {read_config(self.folder).backbone}, as that run did, or omit --from"
            )
        return does_fit

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


def _size_like(wanted: ModelConfig, given: ModelConfig) -> Size | None:
    """The size of the presets of ``wanted``'s kind that is as wide and deep as ``given``; None if that is ``wanted``,
    or no size is."""
    widths = {name: value for name, value in asdict(given).items() if name in _WIDTHS and hasattr(wanted, name)}
    if all(getattr(wanted, name) == value for name, value in widths.items()):
        return None
    for size in get_args(Size):
        model = find_preset(wanted.kind, size).model
        if all(getattr(model, name) == value for name, value in widths.items()):
            return size
    return None


def _describe_fit(does_fit: Mapping[str, bool]) -> str:
    """How many tensors fit, and which parts of the network they are."""
    total = Counter(name.split(".")[0] for name in does_fit)
    fitting = Counter(name.split(".")[0] for name, fits in does_fit.items() if fits)
    if fitting == total:
        return f"all {len(does_fit)} tensors"
    whole = [part for part in total if fitting[part] == total[part]]
    partly = [f"{part} ({fitting[part]} of {total[part]})" for part in total if 0 < fitting[part] < total[part]]
    none = [part for part in total if not fitting[part]]
    parts = {"all of": whole, "some of": partly, "none of": none}
    described = "; ".join(f"{amount} {', '.join(names)}" for amount, names in parts.items() if names)
    return f"{fitting.total()} of {len(does_fit)} tensors ({described})"


def _from_json(kind: Callable[..., Settings], values: Any, path: Path) -> Settings:
    """Settings from plain values; JSON has lists for tuples."""
    try:
        return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
    except (TypeError, AttributeError, InputError) as error:
        raise FormatError(
            f"{path}: expected the settings of a training run; got others ({error}); restore the file"
        ) from error
