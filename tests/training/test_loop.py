import errno
import pickle
from pathlib import Path

import pytest
import torch
from full_disk import limit_file_size
from messages import raises_naming
from ranks_bench import CASE_IDS, make_adapter, make_batches, make_recipe, make_segmenter

from t2m_bench.errors import RecipeError, RunFolderError, UserError
from t2m_bench.recipe.schema import AdapterSection, Recipe
from t2m_bench.training.batches import order_cases
from t2m_bench.training.checkpoint import (
    ADAPTER_NAME,
    STATE_NAME,
    load_adapter,
    load_best_adapter,
    load_state,
    load_tensors,
    save_adapter,
    save_tensors,
)
from t2m_bench.training.loop import Trainer
from t2m_bench.training.process_group import ProcessGroup
from t2m_bench.training.shares import share_positions


class StoppedError(Exception):
    """Stands for a kill between two steps."""


def make_trainer(
    folder: Path, recipe: Recipe, stop_at: tuple[int, int] | None = None, val_dice: object = None
) -> Trainer:
    def stop(epoch: int, step: int) -> None:
        if (epoch, step) == stop_at:
            raise StoppedError

    values = iter(val_dice) if val_dice is not None else None
    return Trainer(
        recipe,
        folder,
        make_adapter(recipe),
        make_segmenter(),
        make_batches(recipe),
        ProcessGroup("no", use_gpu=False),
        validate=lambda adapter: next(values) if values else sum(adapter.gates().values()),
        on_step=stop,
    )


STOPS = [("hierarchical", "unscaled", stop_at) for stop_at in ((0, 0), (1, 0), (2, 1))]
STOPS += [(kind, "frozen", (1, 0)) for kind in ("text_prompt", "text_prompt_free")]


@pytest.mark.parametrize(("kind", "start", "stop_at"), STOPS)
def test_a_stopped_run_ends_bit_equal_to_an_undisturbed_one(
    tmp_path: Path, kind: str, start: str, stop_at: tuple[int, int]
) -> None:
    adapter = AdapterSection(kind=kind, start=start)
    recipe = make_recipe(patience=9).model_copy(update={"adapter": adapter})
    undisturbed = make_trainer(tmp_path / "a", recipe).fit()
    every_step = recipe.model_copy(update={"cluster": recipe.cluster.model_copy(update={"checkpoint_minutes": 1e-9})})
    with pytest.raises(StoppedError):
        make_trainer(tmp_path / "b", every_step, stop_at).fit()
    steps = []
    trainer = make_trainer(tmp_path / "b", recipe)
    resumed = Trainer(**{**vars(trainer), "on_step": lambda epoch, step: steps.append((epoch, step))}).fit()
    assert steps[0] == ((stop_at[0], 1) if stop_at[1] == 0 else (stop_at[0] + 1, 0)) if steps else stop_at == (2, 1)
    want, _ = load_tensors(tmp_path / "a" / STATE_NAME)
    got, _ = load_tensors(tmp_path / "b" / STATE_NAME)
    assert want.keys() == got.keys()
    assert all(torch.equal(want[name], got[name]) for name in want)
    losses = [[{k: v for k, v in row.items() if k != "seconds"} for row in p.history] for p in (undisturbed, resumed)]
    assert losses[0] == losses[1]


def test_a_run_that_is_asked_to_stop_saves_its_step_and_goes_on_from_there(tmp_path: Path) -> None:
    """No timed checkpoint is due here, as between two of them on a cluster."""
    recipe, done = make_recipe(patience=9), []
    undisturbed = make_trainer(tmp_path / "a", recipe).fit()
    trainers = [
        Trainer(**{**vars(make_trainer(tmp_path / "b", recipe)), "on_step": lambda *step: done.append(step), **asked})
        for asked in ({"should_stop": lambda: len(done) == 2}, {})
    ]
    assert not trainers[0].fit().finished
    assert done == [(0, 0), (0, 1), (1, 0)]
    assert trainers[1].fit().history[-1]["loss"] == undisturbed.history[-1]["loss"]
    assert done[3:] == [(1, 1), (2, 0), (2, 1)], "no step is repeated"


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path) -> None:
    recipe = make_recipe(epochs=9, patience=2)
    progress = make_trainer(tmp_path, recipe, val_dice=[0.5, 0.7, 0.6, 0.65, 0.9]).fit()
    assert (progress.best_epoch, progress.epoch) == (1, 4)
    note = load_adapter(tmp_path, make_adapter(recipe))
    assert note["epoch"] == 1


def test_an_adapter_of_another_epoch_or_run_is_not_taken_for_the_best(tmp_path: Path) -> None:
    recipe = make_recipe(epochs=3)
    progress = make_trainer(tmp_path, recipe, val_dice=[0.5, 0.7, 0.6]).fit()
    load_best_adapter(tmp_path, make_adapter(recipe), progress)
    for name, other in (("epoch", 2), ("run_hash", "0ther")):
        note = {"run_hash": progress.run_hash, "epoch": 1} | {name: other}
        save_adapter(tmp_path, make_adapter(recipe), note)
        with raises_naming(RunFolderError, tmp_path / ADAPTER_NAME, name, other, STATE_NAME):
            load_best_adapter(tmp_path, make_adapter(recipe), progress)


def test_a_kill_between_adapter_and_state_repeats_the_epoch_and_saves_its_adapter_again(tmp_path: Path) -> None:
    recipe, values = make_recipe(epochs=3), [0.5, 0.7, 0.6]
    undisturbed = make_trainer(tmp_path / "a", recipe, val_dice=values).fit()

    def die(history: list[object]) -> None:  # is called after the adapter and before the state is saved
        if len(history) == 2:
            raise StoppedError

    trainer = make_trainer(tmp_path / "b", recipe, val_dice=values)
    with pytest.raises(StoppedError):
        Trainer(**{**vars(trainer), "on_epoch": die}).fit()
    _, kept = load_state(tmp_path / "b", undisturbed.run_hash)
    assert kept.best_epoch == 0
    with raises_naming(RunFolderError, tmp_path / "b" / ADAPTER_NAME, "epoch", 1, 0):
        load_best_adapter(tmp_path / "b", make_adapter(recipe), kept)
    steps = []
    trainer = make_trainer(tmp_path / "b", recipe, val_dice=values[1:])
    resumed = Trainer(**{**vars(trainer), "on_step": lambda epoch, step: steps.append((epoch, step))}).fit()
    assert steps[0] == (1, 0)
    adapters = [make_adapter(recipe), make_adapter(recipe)]
    for folder, adapter, progress in zip("ab", adapters, (undisturbed, resumed), strict=True):
        load_best_adapter(tmp_path / folder, adapter, progress)
    assert all(torch.equal(*pair) for pair in zip(*(adapter.parameters() for adapter in adapters), strict=True))


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    """By half or so (2.65 to 1.35, seen), most of it the contrastive term; Dice falls a little on random embeddings."""
    history = make_trainer(tmp_path, make_recipe(epochs=6, patience=9)).fit().history
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    assert history[-1]["contrastive_loss"] < 0.5 * history[0]["contrastive_loss"]
    assert history[-1]["dice_loss"] < history[0]["dice_loss"] - 1e-3


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    recipe = make_recipe(epochs=1)
    make_trainer(tmp_path, recipe).fit()
    make_trainer(tmp_path, recipe, stop_at=(0, 0)).fit()


def test_a_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path, make_recipe(epochs=1)).fit()
    with raises_naming(RunFolderError, tmp_path / STATE_NAME, "recipe", make_recipe(epochs=1).compute_run_hash()):
        make_trainer(tmp_path, make_recipe(epochs=2)).fit()


class Planted:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_planted_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    victim = tmp_path / "ran"
    (tmp_path / STATE_NAME).write_bytes(pickle.dumps(Planted(victim)))
    with raises_naming(RunFolderError, tmp_path / STATE_NAME, "checkpoint"):
        make_trainer(tmp_path, make_recipe()).fit()
    assert not victim.exists()


def test_an_adapter_of_another_architecture_is_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path, make_recipe(epochs=1)).fit()
    recipe = make_recipe()
    wider = recipe.model_copy(update={"adapter": recipe.adapter.model_copy(update={"inner_width": 256})})
    with raises_naming(RunFolderError, tmp_path / ADAPTER_NAME, "levels.coarse.attention.query.weight"):
        load_adapter(tmp_path, make_adapter(wider))


def test_an_adapter_with_a_tensor_too_many_is_refused(tmp_path: Path) -> None:
    recipe = make_recipe(epochs=1)
    make_trainer(tmp_path, recipe).fit()
    tensors, note = load_tensors(tmp_path / ADAPTER_NAME)
    save_tensors(tmp_path / ADAPTER_NAME, tensors | {"levels.third.gate_raw": torch.zeros(1)}, note)
    with raises_naming(RunFolderError, tmp_path / ADAPTER_NAME, "levels.third.gate_raw", "(1,)", "absent"):
        load_adapter(tmp_path, make_adapter(recipe))


def test_a_full_disk_is_an_error_of_the_system_and_leaves_the_old_state(tmp_path: Path) -> None:
    path = tmp_path / STATE_NAME
    save_tensors(path, {"a": torch.zeros(1)}, {})
    before = path.read_bytes()
    with limit_file_size(1000), pytest.raises(OSError) as caught:  # noqa: PT011  # writers differ; checked below
        save_tensors(path, {"a": torch.zeros(10_000)}, {})
    assert caught.value.errno == errno.EFBIG or STATE_NAME in str(caught.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


GATE = "levels.fine.gate_raw"
SPOILED_STATES = {
    "no parameter": (f"parameter/{GATE}", None, {}, {f"parameter/{GATE}", "absent"}),
    "no moment": (f"optimizer/exp_avg/{GATE}", None, {}, {f"optimizer/exp_avg/{GATE}", "absent"}),
    "another shape": (f"parameter/{GATE}", torch.zeros(3), {}, {f"parameter/{GATE}", "(3,)", "(1,)"}),
    "too many": ("parameter/other", torch.zeros(3), {}, {"parameter/other", "(3,)", "absent"}),
    "wrong type in the note": ("", None, {"epoch": "two"}, {"epoch", "integer"}),
    "wrong type deep in the note": ("", None, {"sums": [["x"]]}, {"sums.0.0", "number"}),
    "unknown in the note": ("", None, {"moon": 1}, {"moon"}),
    "no mapping in the note": ("", None, None, {"state"}),
}


@pytest.mark.parametrize("name", SPOILED_STATES)
def test_a_spoiled_state_is_refused_by_what_is_wrong_with_it(tmp_path: Path, name: str) -> None:
    key, value, noted, named = SPOILED_STATES[name]
    recipe = make_recipe(epochs=2)
    with pytest.raises(StoppedError):
        make_trainer(tmp_path, recipe, stop_at=(1, 0)).fit()
    tensors, note = load_tensors(tmp_path / STATE_NAME)
    tensors.pop(key, None)
    spoiled = tensors if value is None else tensors | {key: value}
    save_tensors(tmp_path / STATE_NAME, spoiled, [] if noted is None else note | noted)
    with raises_naming(RunFolderError, tmp_path / STATE_NAME, *named):
        make_trainer(tmp_path, recipe).fit()


def test_a_loss_that_is_not_finite_stops_with_a_message(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_recipe())
    with torch.no_grad():
        next(trainer.adapter.parameters()).fill_(float("nan"))
    with raises_naming(UserError, tmp_path, "loss", "nan", "epoch 0", "step 0"):
        trainer.fit()


def test_bf16_trains_beside_fp32_in_one_process(tmp_path: Path) -> None:
    recipe = make_recipe(epochs=1)
    exact = make_trainer(tmp_path / "a", recipe).fit().history[0]
    trainer = make_trainer(tmp_path / "b", recipe)
    rounded = Trainer(**{**vars(trainer), "ranks": ProcessGroup("bf16", use_gpu=False)}).fit().history[0]
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.05)
    assert rounded["loss"] != exact["loss"], "autocast must have had a say"


def test_fp16_needs_a_gpu() -> None:
    with raises_naming(RecipeError, "optim.mixed_precision", "fp16", "bf16"):
        ProcessGroup("fp16", use_gpu=False)


def make_scaled_trainer(folder: Path, recipe: Recipe, stop_at: tuple[int, int] | None = None) -> Trainer:
    """A trainer whose loss is scaled as in fp16, on a CPU, by a scale that doubles every other step."""
    trainer = make_trainer(folder, recipe, stop_at)
    trainer.ranks.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    return trainer


def test_the_loss_scale_goes_on_where_it_was(tmp_path: Path) -> None:
    recipe = make_recipe(patience=9)
    undisturbed = make_scaled_trainer(tmp_path / "a", recipe).fit()
    every_step = recipe.model_copy(update={"cluster": recipe.cluster.model_copy(update={"checkpoint_minutes": 1e-9})})
    with pytest.raises(StoppedError):
        make_scaled_trainer(tmp_path / "b", every_step, stop_at=(1, 0)).fit()
    resumed = make_scaled_trainer(tmp_path / "b", recipe).fit()
    assert undisturbed.scaler["scale"] == 8.0 * 2**3, "six steps"
    assert resumed.scaler == undisturbed.scaler
    want, got = (load_tensors(tmp_path / name / STATE_NAME)[0] for name in "ab")
    assert all(torch.equal(want[name], got[name]) for name in want)


def test_fp16_trains_on_a_gpu_and_resumes_with_its_scale(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here: fp16 was not tried")
    recipe = make_recipe(epochs=2, patience=9)

    def make(folder: Path, recipe: Recipe, stop_at: tuple[int, int] | None = None) -> Trainer:
        trainer = make_trainer(folder, recipe, stop_at)
        ranks = ProcessGroup("fp16", use_gpu=True)
        parts = {"adapter": trainer.adapter.to(ranks.device), "segmenter": trainer.segmenter.to(ranks.device)}
        return Trainer(**{**vars(trainer), **parts, "ranks": ranks})

    undisturbed = make(tmp_path / "a", recipe).fit()
    every_step = recipe.model_copy(update={"cluster": recipe.cluster.model_copy(update={"checkpoint_minutes": 1e-9})})
    with pytest.raises(StoppedError):
        make(tmp_path / "b", every_step, stop_at=(1, 0)).fit()
    resumed = make(tmp_path / "b", recipe).fit()
    assert resumed.scaler == undisturbed.scaler
    assert resumed.history[-1]["loss"] == pytest.approx(undisturbed.history[-1]["loss"], rel=1e-2)


def test_an_epoch_is_a_permutation_that_changes_with_seed_and_epoch() -> None:
    orders = {tuple(order_cases(CASE_IDS, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    assert all(sorted(order) == sorted(CASE_IDS) for order in orders)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_shares_cover_a_batch_once(world_size: int) -> None:
    shares = [share_positions(5, rank, world_size) for rank in range(world_size)]
    assert [position for share in shares for position in share] == list(range(5))
