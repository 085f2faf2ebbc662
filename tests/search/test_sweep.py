from pathlib import Path

import pytest
import yaml

from t2m_bench.errors import RecipeError
from t2m_bench.search.samplers import build_distribution
from t2m_bench.search.sweep import Sweep, apply_params, load_sweep
from t2m_bench.typed_yaml import load_mapping, validate

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "sweeps" / "demo.yaml"


@pytest.mark.parametrize("path", sorted((REPOSITORY / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_sweeps_are_sound(path: Path) -> None:
    sweep = validate(Sweep, load_mapping(path, "sweep", "sweeps"), "sweep", str(path))
    assert path.read_text().startswith("#")
    if (path.parent / sweep.recipe).is_file():
        assert load_sweep(path).sweep == sweep
    else:
        assert path.stem == sweep.recipe.stem == "nsclc"


def test_plain_overrides_address_the_recipe_and_others_the_sweep() -> None:
    loaded = load_sweep(DEMO, ["adapter.fine.tokens=3", "sweep.sampler.seed=5", "optim.epochs=7"], trials=9)
    assert loaded.recipe.adapter.fine.tokens == 3
    assert loaded.recipe.optim.epochs == 7  # the command line comes after the sweep's own overrides
    assert (loaded.sweep.sampler.seed, loaded.sweep.trials) == (5, 9)


def test_an_override_reaches_into_an_axis() -> None:
    sweep = load_sweep(DEMO, ["sweep.space.adapter.fine.heads.choices=[2, 16]"]).sweep
    assert sweep.space["adapter.fine.heads"].choices == (2, 16)
    assert sweep.space["adapter.fine.heads"].when == {"adapter.kind": "hierarchical"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "space.adapter.fine.head.choices=[1,2]",
            r"adapter\.fine\.head is not a field .* did you mean adapter\.fine\.heads",
        ),
        ("space.dataset.test_fold.choices=[1,2]", "is not a field of the recipe that can be searched"),
        ("space.adapter.gated.gate_init.low=0.95", r"gate_init: the range from 0\.95 to 0\.9 is empty"),
        ("space.adapter.gated.gate_init.hi=0.9", r"gate_init\.hi is not a field of the sweep; did you mean high"),
        ("space.adapter.gated.gate_init.high=1.0", r"gate_init = 1\.0: .*less than 1"),
        ("space.adapter.fine.heads.choices=[4]", r"heads: choices = \[4\]: one choice is no axis"),
        ("space.adapter.fine.heads.choices=[4, 7]", r"adapter\.fine\.heads = 7 does not divide"),
        ("space.adapter.fine.heads={low: 1, high: 8, integer: true, choices: null}", r"heads = 3 does not divide"),
        ("space.adapter.fine.tokens={low: 1, high: 4}", r"fine\.tokens = 1\.95.*integer"),
        ("space.adapter.inner_width={low: 64, high: 4096, integer: true}", r"does not divide the inner width"),
        ("space.adapter.fine.heads.when={adapter.kind: text_free}", "adapter.kind is never 'text_free'"),
        ("space.adapter.fine.heads.when={loss.contrastive_weight: 1.0}", "must be an axis with choices"),
        ("space.adapter.fine.heads.when={adapter.kind: []}", r"heads\.when: adapter\.kind has no value"),
        ("space.adapter.fine.heads.choices=[1, 1.0, 2]", r"heads: choices = \[1, 1\.0, 2\]: one stands twice"),
        ("space.loss.temperature={low: 0.1, high: 0.2, step: 5}", r"step = 5 is wider than the range"),
        ("sampler={kind: nsga2, startup_trials: 1}", "a generation of nsga2 has at least 2 trials"),
        ("space.loss.contrastive_weight.low=0", "a log range lies above 0"),
        ("space.optim.epochs={low: 1, high: 3, integer: true}", "with a scheduler all trials have the same epochs"),
        ("objectives.val_dise=maximize", r"val_dise is not an objective; did you mean val_dice"),
        ("objectives={test_dice: maximize}", "test_dice is not an objective"),
        ("objectives={val_dice: maximize, val_reliance: minimize}", "set scheduler.kind to none"),
        ("storage=postgresql://user:secret@host/db", "a study lies in the run folder"),
        ("sampler.kind=cma_es", "takes one objective and at least two ranges"),
        ("sampler.kind=grid", "a grid needs choices, integers or a step"),
        ("refit.overrides=[dataset.test_fold=2]", "dataset.test_fold is not for the refit alone"),
        ("refit.overrides=[optim.learning_rate=0.1]", "optim.learning_rate is an axis of the space"),
        ("refit.overrides=['bench.seeds=[1]']", r"refit sets bench.seeds itself; refit\.seeds"),
        ("trial=3", r"trial is not a field of the sweep; did you mean trials"),
        ("recipe=../launch/none.yaml", "there is no such recipe"),
    ],
)
def test_bad_sweeps_are_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as found:
        load_sweep(DEMO, [f"sweep.{override}"])
    assert "secret" not in str(found.value)


def test_the_recipes_seed_and_draw_are_the_sweeps_unless_it_has_its_own() -> None:
    sweep = load_sweep(DEMO, ["seed=7", "dataset.split_seed=3"]).sweep
    assert (sweep.seeds, sweep.split_seeds) == ((7,), (3,))
    assert load_sweep(DEMO, ["sweep.seeds=[1, 2]"]).sweep.seeds == (1, 2)
    with pytest.raises(RecipeError, match=r"seed: the sweep has seeds of its own.*sweep\.seeds=\[7\]"):
        load_sweep(DEMO, ["sweep.seeds=[1, 2]", "seed=7"])
    with pytest.raises(RecipeError, match=r"dataset\.split_seed: .*sweep\.split_seeds=\[3\]"):
        load_sweep(DEMO, ["sweep.split_seeds=[1, 2]", "dataset.split_seed=3"])


def test_a_range_of_very_many_integers_is_probed_in_a_moment() -> None:
    axis = "{low: 0, high: 1000000000000, integer: true, step: 5}"
    space = load_sweep(DEMO, [f"sweep.space.optim.warmup_steps={axis}"]).sweep.space
    low, within, high = space["optim.warmup_steps"].list_probes()
    assert (low, high) == (0, 10**12)
    assert 0 < within < high
    assert within % 5 == 0


def test_one_worker_trials_use_a_gpu_where_both_keys_say_so() -> None:
    both = r"cluster\.use_gpu = .* and resources\.gpus = .*set both or neither"
    for one in ("cluster.use_gpu=true", "sweep.resources.gpus=0.5"):
        with pytest.raises(RecipeError, match=both):
            load_sweep(DEMO, [one])
    assert load_sweep(DEMO, ["cluster.use_gpu=true", "sweep.resources.gpus=0.5"]).recipe.cluster.use_gpu
    assert load_sweep(DEMO, ["cluster.use_gpu=true", "cluster.num_train_workers=2"]).recipe.cluster.use_gpu


def test_draws_that_would_train_on_each_others_test_images_are_refused() -> None:
    leaky = ["dataset.split_by=image", "allow_leakage=true"]
    assert load_sweep(DEMO, leaky).sweep.split_seeds == (0,)
    with pytest.raises(RecipeError, match="one would train on the test images of another"):
        load_sweep(DEMO, [*leaky, "sweep.split_seeds=[0, 1]"])


def test_a_grid_is_as_large_as_its_axes_say(tmp_path: Path) -> None:
    space = {
        "optim.warmup_steps": {"low": 0, "high": 20, "integer": True, "step": 10},
        "adapter.norm": {"choices": ["branch", "output"]},
    }
    raw = {
        "name": "grid",
        "recipe": str(REPOSITORY / "launch" / "demo.yaml"),
        "space": space,
        "sampler": {"kind": "grid"},
    }
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(raw | {"trials": 7}))
    with pytest.raises(RecipeError, match="the grid has 6 points"):
        load_sweep(path)
    path.write_text(yaml.safe_dump(raw | {"trials": 6}))
    assert load_sweep(path).sweep.space["optim.warmup_steps"].list_values() == [0, 10, 20]


def test_a_grid_of_floats_lies_within_its_range(tmp_path: Path) -> None:
    """0.1 + 2 x 0.1 is more than 0.3 in binary, which Optuna takes for a value outside."""
    axis = load_sweep(DEMO, ["sweep.space.prompts.text_dropout={low: 0.1, high: 0.7, step: 0.1}"]).sweep.space
    found = axis["prompts.text_dropout"]
    assert found.list_values() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert all(build_distribution(found)._contains(value) for value in found.list_values() or [])


def test_a_grid_of_very_many_points_is_refused_in_a_moment(tmp_path: Path) -> None:
    space = {"optim.warmup_steps": {"low": 0, "high": 10**12, "integer": True}}
    raw = {"name": "grid", "recipe": str(REPOSITORY / "launch" / "demo.yaml"), "space": space}
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(raw | {"sampler": {"kind": "grid"}, "trials": 7}))
    with pytest.raises(RecipeError, match="1000000000001 points are too many to list"):
        load_sweep(path)


def test_the_trials_of_a_sweep_keep_their_number_of_workers() -> None:
    with pytest.raises(RecipeError, match=r"num_train_workers = \[1, 2\]: the trials of a sweep keep"):
        load_sweep(DEMO, ["cluster.num_train_workers=[1, 2]"])


def test_a_trial_is_the_recipe_with_its_values_in_place() -> None:
    loaded = load_sweep(DEMO)
    recipe = apply_params(loaded.raw, {"adapter.fine.heads": 1, "optim.learning_rate": 0.005}, "trial 0")
    assert (recipe.adapter.fine.heads, recipe.optim.learning_rate) == (1, 0.005)
    assert recipe.adapter.fine.tokens == loaded.recipe.adapter.fine.tokens
    assert apply_params(loaded.raw, {}, "trial 1") == loaded.recipe
    assert apply_params(loaded.raw, {"adapter.preset": "published"}, "trial 2").adapter.norm == "output"
