import sys
from pathlib import Path

import optuna
import pytest
import yaml
from messages import check_names, raises_naming

from t2m_bench.cli import main
from t2m_bench.errors import RecipeError
from t2m_bench.recipe.typed_yaml import load_mapping, validate
from t2m_bench.search.samplers import build_distribution
from t2m_bench.search.sweep import Sweep, apply_params, load_sweep

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
    ("override", "named"),
    [
        (
            "space.adapter.fine.head.choices=[1,2]",
            {"space.adapter.fine.head", "adapter.fine.heads"},
        ),
        ("space.dataset.test_fold.choices=[1,2]", {"space.dataset.test_fold", "field"}),
        ("space.adapter.gated.gate_init.low=0.95", {"space.adapter.gated.gate_init", 0.95, 0.9}),
        ("space.adapter.gated.gate_init.hi=0.9", {"space.adapter.gated.gate_init.hi", "high"}),
        ("space.adapter.gated.gate_init.high=1.0", {"space.adapter.gated.gate_init", "1.0", 1}),
        ("space.adapter.fine.heads.choices=[4]", {"space.adapter.fine.heads", "choices", "[4]"}),
        ("space.adapter.fine.heads.choices=[4, 7]", {"space.adapter.fine.heads", 7, "width"}),
        (
            "space.adapter.fine.heads={low: 1, high: 8, integer: true, choices: null}",
            {"space.adapter.fine.heads", 3, "width"},
        ),
        ("space.adapter.fine.tokens={low: 1, high: 4}", {"space.adapter.fine.tokens", "1.954929658551372", "integer"}),
        (
            "space.adapter.inner_width={low: 64, high: 4096, integer: true}",
            {"space.adapter.inner_width", "heads", "width"},
        ),
        (
            "space.adapter.fine.heads.when={adapter.kind: text_free}",
            {"space.adapter.fine.heads.when", "adapter.kind", "text_free", "hierarchical"},
        ),
        (
            "space.adapter.fine.heads.when={loss.contrastive_weight: 1.0}",
            {"space.adapter.fine.heads.when", "loss.contrastive_weight", "choices"},
        ),
        (
            "space.adapter.fine.heads.when={adapter.kind: []}",
            {"space.adapter.fine.heads.when", "adapter.kind", "value"},
        ),
        ("space.adapter.fine.heads.choices=[1, 1.0, 2]", {"space.adapter.fine.heads", "choices", "[1, 1.0, 2]"}),
        ("space.loss.temperature={low: 0.1, high: 0.2, step: 5}", {"space.loss.temperature", "step", 5}),
        ("sampler={kind: nsga2, startup_trials: 1}", {"sampler.startup_trials", "nsga2", 2}),
        ("space.loss.contrastive_weight.low=0", {"space.loss.contrastive_weight", "log", 0}),
        ("space.optim.epochs={low: 1, high: 3, integer: true}", {"space.optim.epochs", "scheduler.kind"}),
        ("objectives.val_dise=maximize", {"objectives.val_dise", "val_dice"}),
        ("objectives={test_dice: maximize}", {"objectives.test_dice"}),
        ("objectives={val_dice: maximize, val_reliance: minimize}", {"objectives", "scheduler.kind", "none"}),
        ("storage=postgresql://user:secret@host/db", {"storage", "postgresql", "journal", "sqlite"}),
        ("sampler.kind=cma_es", {"sampler.kind", "cma_es", "tpe"}),
        ("sampler.kind=grid", {"space.optim.learning_rate", "grid", "step"}),
        ("refit.overrides=[dataset.test_fold=2]", {"refit.overrides", "dataset.test_fold"}),
        ("refit.overrides=[optim.learning_rate=0.1]", {"refit.overrides", "optim.learning_rate", "axis"}),
        ("refit.overrides=['bench.seeds=[1]']", {"refit.overrides", "bench.seeds", "refit.seeds"}),
        ("trial=3", {"trial", "trials"}),
        ("recipe=../launch/none.yaml", {"none.yaml", "recipe"}),
    ],
)
def test_bad_sweeps_are_refused_by_name(override: str, named: set[object]) -> None:
    with raises_naming(RecipeError, *named) as found:
        load_sweep(DEMO, [f"sweep.{override}"])
    assert "secret" not in str(found.value)


KIND = "adapter.kind: {choices: [gated, hierarchical]}"
BAD_AXES: dict[str, set[object]] = {
    "optim.learning_rate: {low: 0.01, high: 0.001}": {"optim.learning_rate", 0.01, 0.001},
    "optim.learning_rate: {low: 0.01, high: 0.01}": {"optim.learning_rate", 0.01},
    "optim.learning_rate: {low: 0, high: 0.001, log: true}": {"optim.learning_rate", "low", 0, "log"},
    "optim.learning_rate: {low: -1, high: 0.001}": {"optim.learning_rate", -1},
    "optim.learning_rate: {lo: 0.1, high: 1}": {"optim.learning_rate.lo", "low"},
    "optim.learning_rates: {low: 0.1, high: 1}": {"optim.learning_rates", "optim.learning_rate"},
    "optim: {weight_decay: {low: 0, high: 1}, epoch: {low: 1, high: 2}}": {"optim.epoch", "optim.epochs"},
    "dataset.test_fold: {choices: [1, 2]}": {"dataset.test_fold"},
    "adapter.norm: {choices: []}": {"adapter.norm", "choices = []"},
    "adapter.norm: {choices: [branch]}": {"adapter.norm", "['branch']"},
    "adapter.norm: {choices: [branch, branch]}": {"adapter.norm", "['branch', 'branch']"},
    "adapter.norm: {choices: [branch, 3]}": {"adapter.norm", 3, "output"},
    "adapter.norm: {choices: [branch, null]}": {"adapter.norm.choices.1", "None"},
    "adapter.norm: {choices: branch}": {"adapter.norm.choices", "'branch'"},
    "adapter.norm: {choices: [yes, no]}": {"adapter.norm", "True", "quotes"},
    "adapter.fine.heads: {choices: [1, '2']}": {"adapter.fine.heads", "'2'", "quotes"},
    "adapter.fine.heads: {choices: [1, 2.5]}": {"adapter.fine.heads", 2.5},
    "adapter.fine.heads: {choices: [1, true]}": {"adapter.fine.heads", "True"},
    "optim.weight_decay: {low: 0.1, high: 0.2, step: 5}": {"optim.weight_decay", "step", 5},
    "optim.weight_decay: {low: 0.1, high: 0.2, step: 0}": {"optim.weight_decay.step", 0},
    "optim.weight_decay: {low: .nan, high: 0.2}": {"optim.weight_decay.low", "nan"},
    "optim.weight_decay: {low: 0.1, high: .inf}": {"optim.weight_decay.high", "inf"},
    "optim.weight_decay: {choices: [0.1, .nan]}": {"optim.weight_decay.choices.1", "nan"},
    "optim.weight_decay: {low: a, high: 0.2}": {"optim.weight_decay.low", "'a'"},
    "optim.weight_decay: {low: '0.1', high: 0.2}": {"optim.weight_decay.low", "'0.1'", "quotes"},
    "optim.weight_decay: {low: false, high: true}": {"optim.weight_decay.low", "False", "optim.weight_decay.high"},
    "optim.weight_decay: {low: 0.1, high: 0.2, log: 1}": {"optim.weight_decay.log", 1},
    "optim.weight_decay: {low: 0.1}": {"optim.weight_decay", 0.1, "high"},
    "optim.weight_decay: 0.1": {"optim.weight_decay", 0.1},
    "optim.weight_decay: {low: 0.1, high: 0.2, choices: [0.1, 0.2]}": {"optim.weight_decay", "choices", 0.2},
    "optim.weight_decay: {choices: [0.1, 0.2], log: true}": {"optim.weight_decay", "[0.1, 0.2]", "log"},
    "optim.weight_decay: {choices: [0.1, 0.2], step: 0.1}": {"optim.weight_decay", "[0.1, 0.2]", "step"},
    "optim.weight_decay: {low: 0.1, high: 0.2, when: {adapter.norm: output}}": {"optim.weight_decay", "adapter.norm"},
    "optim.weight_decay: {low: 0.1, high: 0.2, when: {adapter.kind: label}}": {"optim.weight_decay", "'label'"},
    "optim.weight_decay: {low: 0.1, high: 0.2, when: gated}": {"optim.weight_decay.when", "'gated'"},
    "optim.weight_decay: {choices: [0, 1], when: {optim.weight_decay: 0}}": {"optim.weight_decay.when"},
    "adapter.norm: {choices: [branch, output], when: {adapter.start: unscaled}}\n"
    "  adapter.start: {choices: [frozen, unscaled], when: {adapter.norm: branch}}": {"adapter.norm", "adapter.start"},
    "optim.warmup_steps: {low: 0.5, high: 10, integer: true}": {"optim.warmup_steps", 0.5},
    "optim.warmup_steps: {low: 0, high: 10}": {"optim.warmup_steps", "integer"},
    "optim.warmup_steps: {low: 0, high: 9, integer: true, step: 0.5}": {"optim.warmup_steps", 0.5},
    "optim.warmup_steps: {low: 010, high: 100, integer: true}": {"optim.warmup_steps.low", "010", 10, 8},
    "loss.temperature: {low: 0.0, high: 1.0}": {"loss.temperature", 0.0},
    "adapter.coarse.gate_init: {low: 0.1, high: 0.9, when: {adapter.kind: gated}}": {
        "adapter.coarse.gate_init",
        "gated",
    },
}


@pytest.mark.parametrize("axis", BAD_AXES)
def test_a_bad_axis_is_one_message_with_file_axis_and_value_before_any_work(
    axis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, runs = tmp_path / "bad.yaml", tmp_path / "runs"
    recipe = REPOSITORY / "launch" / "demo.yaml"
    path.write_text(f"name: s\nrecipe: {recipe}\ntrials: 2\nscheduler: {{kind: none}}\nspace:\n  {KIND}\n  {axis}\n")
    monkeypatch.setattr(sys, "argv", ["t2m-bench", "sweep", str(path), "--runs", str(runs)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    check_names(said.err, path, *BAD_AXES[axis])
    assert len(said.err.splitlines()) == 1
    assert not runs.exists()


def test_a_range_that_a_step_does_not_fill_ends_at_its_last_step() -> None:
    """As in Optuna and numpy: no reader refuses it."""
    axis = load_sweep(DEMO, ["sweep.space.optim.weight_decay={low: 0.0, high: 1.0, step: 0.3}"]).sweep.space[
        "optim.weight_decay"
    ]
    assert axis.list_values() == [0.0, 0.3, 0.6, 0.9]


def test_the_recipes_seed_and_draw_are_the_sweeps_unless_it_has_its_own() -> None:
    sweep = load_sweep(DEMO, ["seed=7", "dataset.split_seed=3"]).sweep
    assert (sweep.seeds, sweep.split_seeds) == ((7,), (3,))
    assert load_sweep(DEMO, ["sweep.seeds=[1, 2]"]).sweep.seeds == (1, 2)
    with raises_naming(RecipeError, "seed", "sweep.seeds=[7]"):
        load_sweep(DEMO, ["sweep.seeds=[1, 2]", "seed=7"])
    with raises_naming(RecipeError, "dataset.split_seed", "sweep.split_seeds=[3]"):
        load_sweep(DEMO, ["sweep.split_seeds=[1, 2]", "dataset.split_seed=3"])


def test_a_range_of_very_many_integers_is_probed_in_a_moment() -> None:
    axis = "{low: 0, high: 1000000000000, integer: true, step: 5}"
    space = load_sweep(DEMO, [f"sweep.space.optim.warmup_steps={axis}"]).sweep.space
    low, within, high = space["optim.warmup_steps"].list_probes()
    assert (low, high) == (0, 10**12)
    assert 0 < within < high
    assert within % 5 == 0


def test_one_worker_trials_use_a_gpu_where_both_keys_say_so() -> None:
    for one, found in (("cluster.use_gpu=true", ("true", 0)), ("sweep.resources.gpus=0.5", ("false", 0.5))):
        with raises_naming(RecipeError, "cluster.use_gpu", "resources.gpus", *found):
            load_sweep(DEMO, [one])
    assert load_sweep(DEMO, ["cluster.use_gpu=true", "sweep.resources.gpus=0.5"]).recipe.cluster.use_gpu
    assert load_sweep(DEMO, ["cluster.use_gpu=true", "cluster.num_train_workers=2"]).recipe.cluster.use_gpu


def test_draws_that_would_train_on_each_others_test_images_are_refused() -> None:
    leaky = ["dataset.split_by=image", "allow_leakage=true"]
    assert load_sweep(DEMO, leaky).sweep.split_seeds == (0,)
    with raises_naming(RecipeError, "split_seeds", "dataset.split_by", "image"):
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
    with raises_naming(RecipeError, "trials", 7, 6):
        load_sweep(path)
    path.write_text(yaml.safe_dump(raw | {"trials": 6}))
    assert load_sweep(path).sweep.space["optim.warmup_steps"].list_values() == [0, 10, 20]


def test_a_grid_of_floats_lies_within_its_range(tmp_path: Path) -> None:
    """0.1 + 2 x 0.1 is more than 0.3 in binary, which Optuna takes for a value outside."""
    axis = load_sweep(DEMO, ["sweep.space.prompts.text_dropout={low: 0.1, high: 0.7, step: 0.1}"]).sweep.space
    found = axis["prompts.text_dropout"]
    assert found.list_values() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    for value in found.list_values() or []:  # Optuna refuses one that lies outside
        optuna.trial.create_trial(params={"x": value}, distributions={"x": build_distribution(found)}, value=0.0)


def test_a_grid_of_very_many_points_is_refused_in_a_moment(tmp_path: Path) -> None:
    space = {"optim.warmup_steps": {"low": 0, "high": 10**12, "integer": True}}
    raw = {"name": "grid", "recipe": str(REPOSITORY / "launch" / "demo.yaml"), "space": space}
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(raw | {"sampler": {"kind": "grid"}, "trials": 7}))
    with raises_naming(RecipeError, "sampler.kind", 1000000000001):
        load_sweep(path)


def test_the_trials_of_a_sweep_keep_their_number_of_workers() -> None:
    with raises_naming(RecipeError, "cluster.num_train_workers", "[1, 2]", "trials"):
        load_sweep(DEMO, ["cluster.num_train_workers=[1, 2]"])


def test_a_trial_is_the_recipe_with_its_values_in_place() -> None:
    loaded = load_sweep(DEMO)
    recipe = apply_params(loaded.raw, {"adapter.fine.heads": 1, "optim.learning_rate": 0.005}, "trial 0")
    assert (recipe.adapter.fine.heads, recipe.optim.learning_rate) == (1, 0.005)
    assert recipe.adapter.fine.tokens == loaded.recipe.adapter.fine.tokens
    assert apply_params(loaded.raw, {}, "trial 1") == loaded.recipe
    assert apply_params(loaded.raw, {"adapter.preset": "published"}, "trial 2").adapter.norm == "output"
