"""Help pages, and answers to wrong arguments, of every verb."""

from __future__ import annotations

import re
import warnings

import pytest

from masktree import __version__, cli
from masktree.cli.options import PictureOptions
from masktree.cli.verb import Option, Verb
from masktree.cli.verbs import VERBS
from masktree.errors import InputError
from masktree.evaluate.datasets import DATASETS
from masktree.train.presets import PRESETS, find_preset
from masktree.trees.instances import MIN_SCORE

ALL = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)


@ALL
def test_every_option_is_on_the_page_of_help_once(verb):
    listed = [name for names in verb.groups.values() for name in names]
    assert sorted(listed) == sorted(verb.options)


@ALL
def test_pages_of_help_are_short_narrow_and_without_python(verb):
    lines = verb.help(80).splitlines()
    assert len(lines) < 82
    assert max(map(len, lines)) <= 80
    page = " ".join(" ".join(lines).split())
    for word in ("None", "False", "True", "INT", "FLOAT", "STR", "Of the", "PATH PATH PATH"):
        assert not re.search(rf"\b{word}\b", page)
    assert "``" not in page
    assert lines[0].startswith(f"usage: masktree {verb.name} ")


@ALL
def test_texts_of_options_are_whole(verb):
    for option in verb.options.values():
        assert re.match(r"[A-Z]|sohes|[a-z]+:|tiny|best|union|labels", option.text), option
        assert option.text.rstrip().endswith("."), option


def test_numbers_in_the_help_of_training_are_those_of_the_presets():
    page = " ".join(VERBS["train"].help(100).split())
    for size, steps, batch, side in (("tiny", "1000", 4, 192), ("small", "20,000", 8, 512)):
        assert re.search(rf"{size}( takes)? {steps} (steps )?of {batch}", page)
        assert f"{side} for {size}" in page
        for kind in PRESETS:
            preset = find_preset(kind, size)
            assert (f"{preset.optimisation.steps:,}".replace("1,000", "1000"), preset.optimisation.batch_size) == (
                steps,
                batch,
            )
            is_tiny_cascade = size == "tiny" and kind in ("hassod", "cutler")
            assert preset.model.image_size == (256 if is_tiny_cascade else side)


def test_the_overview_names_all_verbs_and_the_version_is_told(capsys):
    assert cli.main(["--help"]) == 0
    page = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +[A-Z]", page, re.MULTILINE) for name in VERBS)
    assert cli.main([]) == 2
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"masktree {__version__}"
    assert cli.main(["evaluate", "--pred", "x", "-h"]) == 0
    page = capsys.readouterr().out
    assert all(name in page for name in DATASETS)


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("segment a.jpg -o out --modle run", "an option of masktree segment; got --modle; did you mean --model?"),
        ("segment a.jpg --min_aera=3", "got --min-aera; did you mean --min-area?"),
        ("train labels -o run --step 4", "got --step; did you mean --steps?"),
        ("segment a.jpg -o out --labels-per-image 3", "got --labels-per-image; it has no option like that;"),
        ("segment a.jpg -m foo -o out", "got -m; it has no option like that;"),
        ("segmnt a.jpg", "after masktree; got segmnt; did you mean segment?"),
        ("segment a.jpg", "expected -o PATH after masktree segment; got none"),
        ("self-train run -o out", "expected LABELS after masktree self-train; got none"),
        ("segment a.jpg -o", "expected -o PATH; got -o; add what is missing"),
        ("train a b -o out", "expected LABELS after masktree train; got b as well; omit it"),
        ("segment a.jpg -o out --workers many", "expected a whole number after --workers; got many"),
        ("segment a.jpg -o out --granularity=half", "expected a number after --granularity; got half"),
        ("segment a.jpg -o out --method mastree", "one of masktree, hassod, sohes, unsam, maskcut; got mastree; did"),
        ("evaluate --compare a.json", "expected --compare PATH PATH; got --compare a.json; add what is missing"),
        ("info backbones", "expected TOPIC to be one of all, backbone, preset, labels, model; got backbones"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_answered_in_one_line(capsys, arguments, answer):
    assert cli.main(arguments.split()) == 2
    said = capsys.readouterr().err
    assert answer in said
    assert said.startswith("masktree: expected ")
    assert said.count("\n") == 1


def test_a_warning_is_one_line_without_its_place_in_the_source(capsys, monkeypatch):
    def warn() -> int:
        """Warn."""
        warnings.warn("kernels cannot be kept", RuntimeWarning, stacklevel=1)
        return 0

    monkeypatch.setitem(VERBS, "info", Verb("info", warn, {}))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main(["info"]) == 0
    assert capsys.readouterr().err == "masktree: kernels cannot be kept\n"


def test_nothing_right_is_refused():
    verb = VERBS["self-train"]
    call = verb.parse(
        ["run", "labels", "-o", "out", "--label-weight", "1", "0.5", "--no_teacher_mask_loss", "--seed=7"]
    )
    assert call.args[0] == "run"
    assert call.keywords["teacher"].label_weight == (1.0, 0.5)
    assert call.keywords["teacher"].no_teacher_mask_loss
    assert call.keywords["run"].seed == 7
    call = VERBS["info"].parse(["backbone", "--candidates", "dino-vits8", "texture", "--rank", "photos"])
    assert call.keywords["candidates"] == ("dino-vits8", "texture")
    call = VERBS["segment"].parse(["-o", "out", "a.jpg", "-1.jpg", "--", "-b.jpg"])
    assert call.args == (("a.jpg", "-1.jpg", "-b.jpg"),)


def test_an_option_takes_as_many_values_as_its_metavar_says():
    pair = Option("w", ("--w",), "X X", "Weights.", tuple[float, float], None)
    assert pair.take("--w", ["1", "2", "3"]) == 2
    with pytest.raises(InputError, match=r"expected --w X X; got --w 1;"):
        pair.take("--w", ["1"])
    many = Option("n", ("--n",), "NAME ...", "Names.", tuple[str, ...], ())
    assert [many.take("--n", given) for given in ([], ["a", "b"])] == [0, 2]


def test_the_default_minimum_of_instances_is_that_of_the_library():
    assert PictureOptions().instance_min_score == MIN_SCORE
