"""Ground truth of the benchmarks in the papers, read from the original downloads, class-agnostic.

Counts stand beside each data set with where they come from; a split without a trustworthy count has None. A reader that
finds another count fails, unless it is told not to check. Which split or file a paper evaluated is stated where its
authors published it (HASSOD's and UnSAM's configurations), and left open where they did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from masktree.errors import InputError
from masktree.evaluate.datasets.dataset import Counts, Dataset, DatasetReading

if TYPE_CHECKING:
    from masktree.evaluate.ground_truth import GroundTruth

__all__ = ["DATASETS", "Dataset", "read_ground_truth", "read_list"]

_COCO_IMAGES = "photographs under their Flickr licences"

DATASETS: dict[str, Dataset] = {
    "json": Dataset(
        title="COCO-style file",
        licence="as the owner of the file states",
        source="yours",
        layout="a JSON file with images and annotations, or a folder with annotations.json; parent_id makes a tree",
        reader="coco:read_json_file",
    ),
    "coco": Dataset(
        title="COCO 2017",
        licence=f"annotations CC BY 4.0; {_COCO_IMAGES}",
        source="Lin et al., ECCV 2014 (arXiv 1405.0312); cocodataset.org",
        layout="instances_{split}.json, or a folder with it or with annotations/instances_{split}.json",
        reader="coco:read_instances",
        # Annotations with crowds; counted by users in cocodataset/cocoapi issue 117 (36,335 and 849,949 without).
        counts={"val2017": Counts(5_000, 36_781), "train2017": Counts(118_287, 860_001)},
    ),
    "lvis": Dataset(
        title="LVIS v1",
        licence=f"annotations CC BY 4.0; {_COCO_IMAGES}",
        source="Gupta, Dollar, Girshick, CVPR 2019 (arXiv 1908.03195); lvisdataset.org",
        layout="lvis_v1_{split}.json, or a folder with it, with annotations/ or with lvis/ that has it",
        reader="lvis:read_lvis",
        # lvisdataset.org/dataset, as quoted in lvis-dataset/lvis-api issues 19 and 32.
        counts={"val": Counts(19_809, 244_707), "train": Counts(100_170, 1_270_141)},
    ),
    "lvis_cocofied": Dataset(
        title="LVIS v1, classes of COCO",
        licence=f"annotations CC BY 4.0; {_COCO_IMAGES}",
        source="LVIS v1 by datasets/prepare_cocofied_lvis.py of facebookresearch/detectron2",
        layout="lvis_v1_{split}_cocofied.json, or a folder with it, with annotations/ or with lvis/ that has it",
        reader="lvis:read_lvis_cocofied",
        counts={"val": Counts(19_809, None)},  # images are those of LVIS
    ),
    "coco_lvis": Dataset(
        title="COCO and LVIS without duplicates",
        licence=f"annotations CC BY 4.0; {_COCO_IMAGES}",
        source="Cao et al., NeurIPS 2023 (HASSOD, arXiv 2402.03311), from COCO 2017 and LVIS v1",
        layout="a folder with instances_{split}.json and lvis_v1_val.json, or with annotations/ that has them",
        reader="lvis:read_coco_lvis",
        counts={"val2017": Counts(5_000, None)},  # HASSOD states "about 20 annotations per image" and no number
    ),
    "ade20k": Dataset(
        title="ADE20K instances",
        licence="annotations BSD 3-Clause; images for non-commercial research and education",
        source="Zhou et al., IJCV 2019 (doi 10.1007/s11263-018-1140-0); github.com/CSAILVision/placeschallenge",
        layout="ADEChallengeData2016, or a folder with annotations_instance/{split}/*.png",
        reader="regions:read_ade20k",
        # github.com/CSAILVision/placeschallenge: files up to ADE_val_00002000 and ADE_train_00020210.
        counts={"validation": Counts(2_000, None), "training": Counts(20_210, None)},
    ),
    "entityseg": Dataset(
        title="EntitySeg, low resolution",
        licence="Adobe Research License: non-commercial research only",
        source="Qi et al., ICCV 2023 (arXiv 2211.05776); github.com/adobe-research/EntitySeg-Dataset",
        layout="entityseg_{split}_lr.json, or a folder with it or with annotations/ that has it",
        reader="coco:read_entityseg",
        # The paper's split; of these numbers the project page (luqi.info/entityv2.github.io) repeats the sum, 33,227.
        counts={"val": Counts(1_314, None), "train": Counts(31_913, None)},
    ),
    "sa1b": Dataset(
        title="SA-1B",
        licence="SA-1B Dataset Research License: research only",
        source="Kirillov et al., ICCV 2023 (arXiv 2304.02643); ai.meta.com/datasets/segment-anything",
        layout="a folder with sa_*.json as unpacked, a pack (.tar) or a folder of packs; list the held-out images",
        reader="sa1b:read_sa1b",
    ),
    "partimagenet": Dataset(
        title="PartImageNet",
        licence="images under ImageNet's terms: non-commercial research and education; none stated for annotations",
        source="He et al., ECCV 2022 (arXiv 2112.00933); github.com/TACJu/PartImageNet",
        layout="a folder with annotations/{split}/{split}.json (parts) and annotations/{split}_whole/{split}.json",
        reader="parts:read_partimagenet",
        # README of TACJu/PartImageNet, table of splits; val is what HASSOD's and UnSAM's configurations name.
        counts={"val": Counts(2_957, None), "test": Counts(4_598, None), "train": Counts(16_540, None)},
    ),
    "paco": Dataset(
        title="PACO-LVIS",
        licence=f"annotations as the PACO repository states; {_COCO_IMAGES}",
        source="Ramanathan et al., CVPR 2023 (arXiv 2301.01795); github.com/facebookresearch/paco",
        layout="paco_lvis_v1_{split}.json, or a folder with it or with annotations/ that has it",
        reader="parts:read_paco",
        # facebookresearch/paco, docs/PACO_DATASET.md: object segments + part segments.
        counts={
            "val": Counts(2_410, 10_794 + 20_945),
            "test": Counts(9_443, 45_861 + 86_041),
            "train": Counts(45_790, 217_117 + 395_071),
        },
    ),
    "objects365": Dataset(
        title="Objects365 v2, boxes",
        licence="annotations CC BY 4.0; images for academic use, under their Flickr licences",
        source="Shao et al., ICCV 2019 (doi 10.1109/ICCV.2019.00852); objects365.org",
        layout="zhiyuan_objv2_{split}.json, or a folder with it, with annotations/ or with {split}/ that has it",
        reader="coco:read_objects365",
        # Counted by several public projects in the file itself.
        counts={"val": Counts(80_000, 1_240_587), "train": Counts(1_742_292, None)},
    ),
    "coco_panoptic": Dataset(
        title="COCO 2017 panoptic",
        licence=f"annotations CC BY 4.0; {_COCO_IMAGES}",
        source="Kirillov et al., CVPR 2019 (arXiv 1801.00868); cocodataset.org",
        layout="a folder with panoptic_{split}.json and panoptic_{split}/*.png, or with annotations/ that has both",
        reader="regions:read_panoptic",
        counts={"val2017": Counts(5_000, None), "train2017": Counts(118_287, None)},  # the images of COCO 2017
    ),
    "bsds500": Dataset(
        title="BSDS500, regions of all annotators",
        licence="non-commercial research and education",
        source="Arbelaez et al., TPAMI 2011 (doi 10.1109/TPAMI.2010.161); www2.eecs.berkeley.edu, segbench",
        layout="a folder (BSDS500 or BSDS500/data) with images/{split}/*.jpg and groundTruth/{split}/*.mat",
        reader="regions:read_bsds500",
        counts={"test": Counts(200, None), "val": Counts(100, None), "train": Counts(200, None)},
    ),
}


def read_ground_truth(
    dataset: str,
    path: str | Path,
    *,
    split: str | None = None,
    check_counts: bool = True,
    only: Sequence[str] | None = None,
) -> GroundTruth:
    """Read the ground truth of a benchmark.

    Args:
        dataset: a name of ``DATASETS``; "json" is any COCO-style file.
        path: the file or folder that the data set's layout tells.
        split: the split that papers report if not given.
        check_counts: fail where the files do not have the split's published numbers of images and annotations.
        only: names of the images to read; counts are still those of the whole files.

    Raises:
        InputError: unknown data set or split, missing files, another count than published, a name that is none.
        FormatError: a damaged file (with image and annotation where there is one).
    """
    from masktree.evaluate.ground_truth import GroundTruth  # not above: the command line lists DATASETS

    if dataset not in DATASETS:
        raise InputError(
            f"expected a data set of {', '.join(DATASETS)}; got {dataset!r}; read your own COCO-style file as json"
        )
    entry, path = DATASETS[dataset], Path(path)
    split = _split(dataset, entry, split)
    names = None if only is None else frozenset(only)
    reading = entry.read(path, split, names)
    if check_counts and entry.counts:
        _check(path, f"{entry.title}, {split},", reading, entry.counts[split])
    unknown = sorted((names or frozenset()) - {image.name for image in reading.images})
    if unknown:
        raise InputError(
            f"{path}: expected names of images of {entry.title}; got {unknown[0]!r} and {len(unknown) - 1} more that "
            "are none; correct the list, with names as the data set's files have them"
        )
    return GroundTruth(dataset, entry.licence, tuple(reading.images))


def read_list(path: str | Path) -> list[str]:
    """Names from a text file, one a line; empty lines and lines that begin with # are passed over.

    Raises:
        InputError: no such file, no UTF-8 text, no name in it, or a name twice.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a text file with one name a line; got {error}; check the path") from error
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise InputError(f"{path}: expected one image name a line; got none; write the list first")
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise InputError(f"{path}: expected each name once; got {twice!r} twice; remove one")
    return names


def _split(dataset: str, entry: Dataset, split: str | None) -> str:
    if split is None:
        return entry.splits[0] if entry.splits else ""
    if split not in entry.splits:
        known = f"one of {', '.join(entry.splits)}" if entry.splits else "none, since its files are one split"
        raise InputError(f"expected as split of {dataset} {known}; got {split!r}; change --split or leave it out")
    return split


def _check(path: Path, what: str, reading: DatasetReading, expected: Counts) -> None:
    for kind, published, found in zip(Counts._fields, expected, reading.found, strict=True):
        if published is not None and found is not None and found != published:
            raise InputError(
                f"{path}: expected {what} to have {published:,} {kind}; got {found:,}; "
                "download it again, or accept another version with --no-check-counts"
            )
