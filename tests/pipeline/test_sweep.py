"""What a sweep makes of its winners, without a trial."""

from pathlib import Path

import optuna
from messages import raises_naming
from optuna.trial import TrialState

from t2m_bench.errors import RecipeError, RunFolderError
from t2m_bench.pipeline.signals import StopRequest
from t2m_bench.pipeline.sweep import check_unchanged, make_free_sweep, make_refit_recipe, run_study, search
from t2m_bench.search.samplers import Sampling
from t2m_bench.search.study import complete, load_studies, open_study
from t2m_bench.search.sweep import LoadedSweep, apply_params, load_sweep
from t2m_bench.terminal import Terminal

DEMO = Path(__file__).resolve().parents[2] / "sweeps" / "demo.yaml"


def test_a_refit_gives_each_arm_its_own_values_and_says_how_many_trials_chose_them() -> None:
    loaded = load_sweep(DEMO, ["sweep.refit.seeds=[3,4]"])
    best = apply_params(
        loaded.raw, {"adapter.kind": "gated", "optim.learning_rate": 0.005, "adapter.gated.gate_init": 0.7}, "trial 1"
    )
    free = make_free_sweep(loaded, 40)
    assert free is not None
    assert free.recipe.adapter.kind == "text_free"
    names = ("adapter.coarse.gate_init", "adapter.fine.gate_init", "adapter.fine.heads", "optim.learning_rate")
    assert tuple(free.sweep.space) == names
    assert (loaded.sweep.trials, free.sweep.trials) == (24, 40)  # as many as were run, not as were asked for last
    own = apply_params(free.raw, {"optim.learning_rate": 0.002}, "trial 2")
    trials = {"text_free": 24, "gated": 24}
    recipe = make_refit_recipe(loaded.sweep, best, {"text_free": own, "gated": best}, trials)
    assert recipe.bench.arms == ("text_free", "gated")
    assert recipe.bench.seeds == (3, 4)
    assert recipe.name == loaded.recipe.name  # so that shards are used again
    for arm, tuned in (("text_free", own), ("gated", best)):
        trained = recipe.with_arm(arm, 3)
        assert (trained.adapter, trained.optim) == (tuned.adapter, tuned.optim)
        assert (trained.loss, trained.prompts) == (tuned.loss, tuned.prompts)
        assert recipe.bench.named[arm].trials == 24
    other = make_refit_recipe(loaded.sweep, best, {"text_free": free.recipe, "gated": best}, trials)
    assert recipe.compute_experiment_hash("data") != other.compute_experiment_hash("data")


def test_a_refit_may_train_longer_than_a_trial_and_a_wrong_wish_is_told_before_the_search() -> None:
    loaded = load_sweep(DEMO, ["sweep.refit.overrides=[optim.epochs=12]"])
    assert loaded.recipe.optim.epochs == 3
    best = apply_params(loaded.raw, {"adapter.kind": "gated", "optim.learning_rate": 0.005}, "trial 1")
    recipe = make_refit_recipe(loaded.sweep, best, {"gated": best}, {"gated": 24})
    assert recipe.optim.epochs == recipe.with_arm("gated", 0).optim.epochs == 12
    assert recipe.with_arm("gated", 0).optim.learning_rate == 0.005
    with raises_naming(RecipeError, "refit", "optim.epoch", "epochs"):
        load_sweep(DEMO, ["sweep.refit.overrides=[optim.epoch=12]"])


def test_a_refit_of_arms_chosen_by_different_measures_is_refused_before_the_search(tmp_path: Path) -> None:
    """A winner by size beside a text_free chosen by Dice is no comparison."""
    overrides = ["sweep.objectives={trainable_parameters: minimize}", "sweep.scheduler.kind=none"]
    loaded = load_sweep(DEMO, overrides)
    with raises_naming(RecipeError, "--refit", "trainable_parameters", "val_dice"):
        search(loaded, tmp_path, Terminal(), StopRequest(), refit=True)
    assert not list(tmp_path.iterdir())


def test_trials_of_a_killed_process_end_where_fewer_are_asked_for_now(tmp_path: Path) -> None:
    loaded = load_sweep(DEMO, [], trials=1)
    study = open_study(tmp_path, loaded.sweep, "demo")
    for _ in range(2):
        trial = Sampling(loaded.sweep).ask(study)
    complete(study, 0, [0.9], {})
    assert study.trials[trial.number].state is TrialState.RUNNING
    run_study(study, loaded, [], tmp_path, Terminal(), StopRequest())
    assert study.trials[trial.number].state is TrialState.FAIL


def test_text_free_searches_the_weights_of_dice_and_bce_too() -> None:
    loaded = load_sweep(DEMO, ["sweep.space.loss.bce_weight={low: 0.1, high: 2.0}"])
    free = make_free_sweep(loaded, 24)
    assert free is not None
    assert "loss.bce_weight" in free.sweep.space
    assert "loss.contrastive_weight" not in free.sweep.space


def begin(folder: Path, trials: int, *overrides: str) -> LoadedSweep:
    """Open a sweep's study as `search` does, and ask it for trials."""
    loaded = load_sweep(DEMO, overrides)
    check_unchanged(folder, loaded, {"manifest": "1234"})
    study = open_study(folder, loaded.sweep, "demo")
    for _ in range(trials):
        study.ask()
    return loaded


def test_a_sweep_without_a_trial_may_be_changed_and_one_with_trials_may_not(tmp_path: Path) -> None:
    begin(tmp_path, 0, "sweep.storage=sqlite", "cluster.num_train_workers=512", "dataset.validation=test")
    begin(tmp_path, 0, "sweep.objectives={trainable_parameters: minimize}")
    begin(tmp_path, 1)
    (study,) = load_studies(tmp_path).values()
    assert study.metric_names == ["val_dice"]
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    begin(tmp_path, 0, "sweep.trials=99", "sweep.concurrency=2")
    with raises_naming(RunFolderError, tmp_path, "sweep.storage", '"journal"', '"sqlite"', "wide", "false", "true"):
        begin(tmp_path, 0, "sweep.storage=sqlite", "cluster.num_train_workers=512")
    with raises_naming(RunFolderError, tmp_path, "sweep.seeds", "[0]", "[0, 1]"):
        begin(tmp_path, 0, "sweep.seeds=[0, 1]")
    assert len(load_studies(tmp_path)["demo"].trials) == 1


def test_objectives_in_another_order_are_others(tmp_path: Path) -> None:
    both = ("sweep.objectives={val_reliance: minimize, val_dice: maximize}", "sweep.scheduler.kind=none")
    begin(tmp_path, 1, *both)
    begin(tmp_path, 0, *both)
    with raises_naming(RunFolderError, "sweep.objectives", '[["val_reliance', '[["val_dice'):
        begin(tmp_path, 0, "sweep.objectives={val_dice: maximize, val_reliance: minimize}", both[1])
    assert load_studies(tmp_path)["demo"].metric_names == ["val_reliance", "val_dice"]
