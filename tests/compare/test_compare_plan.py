"""What a comparison plans: contenders from text, varied fields, equal budgets and protocols, what is left to run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kinfolk.compare import ComparisonConfig, Contender, Variation, contender
from kinfolk.compare.plan import check_comparable, differing_fields, planned_references, planned_runs, total_steps
from kinfolk.recipes import recipe, smoke, with_field
from kinfolk.train import from_yaml, to_yaml

SIMCLR, SUPCON = (Contender(name, smoke(recipe(f"{name}-digits"))) for name in ("simclr", "supcon"))


def refuse(config: ComparisonConfig) -> None:
    runs = planned_runs(config, Path("nowhere"))
    check_comparable(config, runs, total_steps(runs))


def with_steps(one: Contender, **changes: object) -> Contender:
    return replace(one, config=replace(one.config, **changes))


def test_a_contender_is_a_recipe_with_a_name_and_changed_fields() -> None:
    plain, named = contender("simclr-digits"), contender("DCL=simclr-digits")
    assert (plain.name, named.name) == ("simclr", "DCL")
    changed = contender("cool=simclr-digits method.temperature=0.05 batch-size=64 evaluation.protocols='[knn]'")
    assert (changed.config.method.temperature, changed.config.batch_size) == (0.05, 64)
    assert changed.config.evaluation.protocols == ("knn",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("simclr-digit", "no recipe 'simclr-digit' .did you mean simclr-digits"),
        ("simclr-digits temperature", "changes are written field=value; found 'temperature'"),
        ("simclr-digits method.temprature=1", "no key 'temprature' .did you mean 'temperature'"),
        ("simclr-digits batch_size=many", "config.batch_size must be an int, found 'many'"),
        ("simclr-digits head.layers=2", "head.layers cannot be set: there is no head"),
        ("a/b=simclr-digits", "a contender's name begins with a letter"),
        ("simclr-digits 'x", "cannot be taken apart"),
    ],
)
def test_a_contender_that_cannot_be_read_says_why(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contender(text)


def test_a_missing_config_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"no run at no/such\.yaml"):
        contender("mine=no/such.yaml")


def test_every_kind_of_field_can_be_varied() -> None:
    config = recipe("simclr-digits")
    assert with_field(config, "derived", "none") == config
    assert with_field(config, "derived", "imbalanced rule=long-tail").derived[0].rule == "long-tail"
    assert with_field(config, "optimizer", "sgd learning_rate=0.1").optimizer.kind == "sgd"
    assert with_field(recipe("xclr-digits"), "relation", "none").relation is None
    assert with_field(config, "data", "fashion-mnist").source.kind == "fashion-mnist"
    assert with_field(config, "evaluation.linear_probe.l2.0", "0.5").evaluation.linear_probe.l2[0] == 0.5
    with pytest.raises(ValueError, match="is a list of 8"):
        with_field(config, "evaluation.linear_probe.l2.9", "0.5")


def test_plans_have_every_run_once_seed_by_seed_with_equal_views() -> None:
    config = ComparisonConfig(
        "c", (SIMCLR, SUPCON), (0, 3), varied=Variation("batch_size", ("32", "64")), image_views=640
    )
    runs = planned_runs(config, Path("out"))
    assert [(run.contender, run.setting, run.seed) for run in runs[:4]] == [
        ("simclr", "32", 0),
        ("supcon", "32", 0),
        ("simclr", "64", 0),
        ("supcon", "64", 0),
    ]
    assert len({run.key for run in runs}) == len({run.folder for run in runs}) == 8
    assert [(run.config.seed, run.config.batch_size) for run in runs[-2:]] == [(3, 64)] * 2
    steps = total_steps(runs)
    assert [steps[run.key] for run in runs[:4]] == [10, 10, 5, 5]
    check_comparable(config, runs, steps)
    assert not any(run.config.evaluation.baselines for run in runs)


def test_references_are_measured_once_for_all_settings_on_the_same_data() -> None:
    by_batch = ComparisonConfig("c", (SIMCLR,), varied=Variation("batch_size", ("32", "64")))
    assert [one.settings for one in planned_references(by_batch, Path("out"))] == [("32", "64")]
    changes = ("none", "imbalanced", "imbalanced supervised=true", "label-noise", "label-noise clean_probe=true")
    by_data = ComparisonConfig("c", (SIMCLR,), varied=Variation("derived", changes))
    found = planned_references(by_data, Path("out"))
    assert [one.settings for one in found] == [
        ("none", "imbalanced", "label-noise clean_probe=true"),  # the same probes, whatever pretraining sees
        ("imbalanced supervised=true",),
        ("label-noise",),
    ]
    assert len({one.file for one in found}) == 3
    assert str(found[0]) == "references for none, imbalanced, label-noise clean_probe=true"


def test_references_are_measured_anew_where_a_protocol_looks_at_the_pretraining_set() -> None:
    varied = Variation("derived", ("none", "imbalanced"))
    for protocols, count in (("[knn]", 1), ("[shot_accuracy]", 2), ("[graph_agreement]", 2)):
        seen = replace(SIMCLR, config=with_field(SIMCLR.config, "evaluation.protocols", protocols))
        assert len(planned_references(ComparisonConfig("c", (seen,), varied=varied), Path("out"))) == count
    # only the end can be left out: here noise finds a probe part that it spares, and without one it would not
    noisy = replace(SIMCLR, config=with_field(SIMCLR.config, "derived", "imbalanced"))
    later = ComparisonConfig("c", (noisy,), varied=Variation("derived", ("none", "label-noise")))
    assert len(planned_references(later, Path("out"))) == 2


def test_references_are_measured_anew_for_other_views_where_alignment_is_asked_for() -> None:
    varied = Variation("views.rotation", ("0", "10"))
    for protocols, count in (("[knn]", 1), ("[knn, geometry]", 2)):
        seen = replace(SIMCLR, config=with_field(SIMCLR.config, "evaluation.protocols", protocols))
        assert len(planned_references(ComparisonConfig("c", (seen,), varied=varied), Path("out"))) == count


def test_unequal_budgets_are_refused_with_both_counts() -> None:
    longer = with_steps(SUPCON, epochs=3)
    with pytest.raises(ValueError, match=r"simclr, seed 0 sees 1,024 image views \(8 steps x 64 samples x 2 views\)"):
        refuse(ComparisonConfig("c", (SIMCLR, longer)))
    refuse(ComparisonConfig("c", (SIMCLR, longer), image_views=1024))


def test_budgets_that_differ_between_settings_are_refused_too() -> None:
    varied = Variation("epochs", ("2", "4"))
    with pytest.raises(
        ValueError, match=r"simclr, 2, seed 0 sees 1,024 image views .* and simclr, 4, seed 0 sees 2,048"
    ):
        refuse(ComparisonConfig("c", (SIMCLR,), varied=varied))


@pytest.mark.parametrize(
    ("field", "text", "named"),
    [
        ("encoder.width", "12", r"encoder\.width: 8 and 12"),
        ("evaluation.knn.k", "5", r"evaluation\.knn\.k: 20 and 5"),
        ("derived", "few-labels per_class=9", r"derived.*few-labels"),
        ("precision", "fp32", r"precision: 'auto' and 'fp32'"),
    ],
)
def test_other_protocols_data_or_encoders_are_refused_by_field(field: str, text: str, named: str) -> None:
    other = replace(SUPCON, config=with_field(SUPCON.config, field, text))
    with pytest.raises(ValueError, match=f"simclr and supcon cannot be compared, since these fields differ: .*{named}"):
        refuse(ComparisonConfig("c", (SIMCLR, other)))


def test_a_training_set_below_one_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be from 1 to the number of samples; found batch_size 4096"):
        refuse(ComparisonConfig("c", (with_steps(SIMCLR, batch_size=4096),)))


def test_what_differs_between_contenders_is_listed_with_values() -> None:
    found = differing_fields(ComparisonConfig("c", (SIMCLR, with_steps(SUPCON, batch_size=32))))
    assert {name: text.split()[0] for name, text in found["method"].items()} == {"simclr": "simclr", "supcon": "supcon"}
    assert not [name for name in found if name.startswith("method.")]
    assert found["batch_size"] == {"simclr": "64", "supcon": "32"}
    assert "encoder.width" not in found
    longer = ComparisonConfig("c", (SIMCLR, with_steps(SUPCON, epochs=9)))
    assert "epochs" in differing_fields(longer)
    assert "epochs" not in differing_fields(replace(longer, image_views=640))
    assert "name" not in found


def test_parts_of_other_kinds_are_told_in_one_line() -> None:
    """Beside the defaults, or beside the first contender's where it is of that kind."""
    texts = {"one": "simclr temperature=0.5", "two": "simclr temperature=0.7", "three": "moco queue_size=512"}
    contenders = [replace(SIMCLR, name=n, config=with_field(SIMCLR.config, "method", t)) for n, t in texts.items()]
    related = [replace(c, config=with_field(c.config, "relation", "labels")) for c in contenders[:1]] + contenders[1:]
    found = differing_fields(ComparisonConfig("c", tuple(related)))
    assert found["method"] == texts
    assert found["relation"] == {"one": "labels", "two": "none", "three": "none"}
    assert list(found) == ["method", "relation"]
    alike = differing_fields(ComparisonConfig("c", tuple(contenders[:2])))
    assert alike == {"method.temperature": {"one": "0.5", "two": "0.7"}}


def test_equal_numbers_do_not_differ_however_they_are_written() -> None:
    texts = {"a": "20", "b": "20.0"}
    both = [replace(SIMCLR, name=one, config=with_field(SIMCLR.config, "views.rotation", texts[one])) for one in texts]
    assert differing_fields(ComparisonConfig("c", tuple(both))) == {}


def test_a_run_s_folder_is_a_contender_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text(to_yaml(SUPCON.config))
    monkeypatch.chdir(tmp_path)
    assert contender("mine").name == "supcon"
    assert contender("labels=mine").config == SUPCON.config


def test_a_comparison_round_trips_through_yaml() -> None:
    config = ComparisonConfig(
        "c",
        (SIMCLR, SUPCON),
        (1, 2),
        baseline="supcon",
        varied=Variation("derived", ("none", "imbalanced")),
        image_views=9,
    )
    assert from_yaml(to_yaml(config), ComparisonConfig) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contenders": ()}, "needs contenders with names that differ; found none"),
        ({"contenders": (SIMCLR, replace(SUPCON, name="SimCLR"))}, "names that differ; found simclr, SimCLR"),
        ({"seeds": (1, 1)}, r"each once; found \(1, 1\)"),
        ({"baseline": "moco"}, "one of simclr, supcon; found 'moco'"),
        ({"image_views": 0}, "at least 1; found 0"),
        ({"varied": Variation("batch_size", ("-1", "1"))}, "must differ in letters or digits"),
        (
            {
                "contenders": (replace(SIMCLR, name="a"), replace(SIMCLR, name="a b")),
                "varied": Variation("derived", ("b c", "c")),
            },
            "two runs would be called 'a-b-c'",
        ),
    ],
)
def test_comparisons_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ComparisonConfig("c", (SIMCLR, SUPCON)), **changes)


def test_a_variation_needs_values_that_differ() -> None:
    with pytest.raises(ValueError, match="batch_size must be varied over at least one value, each once"):
        Variation("batch_size", ("32", "32"))
