from pathlib import Path

import pytest
import torch

from t2m_bench.config import Recipe, load_recipe, parse_recipe
from t2m_bench.errors import RecipeError
from t2m_bench.models.fusion import build_adapter, count_trainable_parameters


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: trial\ndataset:\n  root: data/trial\n")
    return path


def test_dotted_overrides_reach_nested_fields(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["adapter.fine.heads=4", "adapter.fine.gate_init=0.7"])
    assert recipe.adapter.fine.heads == 4
    assert recipe.adapter.fine.gate_init == 0.7
    assert recipe.adapter.coarse.heads == 4


def test_a_typo_is_answered_with_the_nearest_name(recipe_file: Path) -> None:
    with pytest.raises(RecipeError, match=r"optim\.epoch is not a field.*did you mean epochs"):
        load_recipe(recipe_file, ["optim.epoch=3"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.epochs=many", r"optim\.epochs: .*integer.*many"),
        ("adapter.coarse.heads=3", r"adapter\.coarse\.heads = 3 does not divide"),
        ("adapter.fine.gate_init=1.0", r"adapter\.fine\.gate_init: .*less than 1"),
        ("adapter.kind=gatd", r"adapter\.kind: .*gatd"),
        ("noequals", "write it as field.name=value"),
        ("name.deeper=1", "name is a value, not a section"),
        ("seed=9223372036854775808", r"seed: .*less than or equal to 9223372036854775807"),
        ("bench.seeds=[9223372036854775808]", r"bench\.seeds\.0: .*less than or equal to"),
        ("dataset.split_seed=9223372036854775808", r"dataset\.split_seed: .*less than or equal to"),
        ("optim.epochs=true", r"optim\.epochs: true and false mean nothing here"),
        ("optim.learning_rate=true", r"optim\.learning_rate: true and false mean nothing here"),
        ("optim.learning_rate=.inf", r"optim\.learning_rate: .*finite"),
        ("loss.temperature=.nan", r"loss\.temperature: "),
        ("bench.arms=[]", r"bench\.arms: .*at least 1"),
        ("bench.seeds=[]", r"bench\.seeds: .*at least 1"),
        ("bench.seeds=[0, 1, 0]", r"bench\.seeds: 0 stands more than once"),
        ("bench.arms=[gated, gated]", r"bench\.arms: gated stands more than once"),
        ("cluster.num_train_workers=x", r"num_train_workers = x: write a number of workers \(0 .*or \[min, max\]"),
        ("cluster.num_train_workers=[1, 2, 3]", r"= \[1, 2, 3\]: write a number"),
        ("cluster.num_train_workers=[0, 2]", r"= \[0, 2\]: write a number"),
        ("cluster.num_train_workers=true", "mean nothing here|write a number of workers"),
    ],
)
def test_bad_overrides_name_the_field(recipe_file: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe_file, [override])


@pytest.mark.parametrize("text", ["[1, 2]", "name: [", "name: trial\n", "\x00"])
def test_unusable_files_are_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"bad\.yaml"):
        load_recipe(path)


def test_arms_and_seeds_share_an_experiment_but_not_a_run(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    other = recipe.with_arm("text_free", seed=3)
    assert other.compute_experiment_hash("d") == recipe.compute_experiment_hash("d")
    assert other.compute_run_hash() != recipe.compute_run_hash()
    slower = load_recipe(recipe_file, ["optim.learning_rate=0.5"])
    assert slower.compute_experiment_hash("d") != recipe.compute_experiment_hash("d")
    assert recipe.compute_experiment_hash("other data") != recipe.compute_experiment_hash("d")


def test_the_largest_seed_is_one_that_torch_takes(recipe_file: Path) -> None:
    torch.Generator().manual_seed(load_recipe(recipe_file, [f"seed={2**63 - 1}"]).seed)


def test_the_published_preset_says_in_the_resolved_recipe_what_it_does(recipe_file: Path) -> None:
    published = load_recipe(recipe_file, ["adapter.preset=published"])
    assert published.adapter.norm == "output"
    assert published.adapter.inner_width == 256
    assert published.prompts.text_dropout == 0.0
    levels = [published.adapter.gated, published.adapter.coarse, published.adapter.fine]
    assert [level.heads for level in levels] == [1, 4, 8]
    assert [level.tokens for level in levels] == [1, 1, 2]
    assert [round(level.gate_init, 3) for level in levels] == [0.731, 0.622, 0.690]
    again = Recipe.model_validate(published.model_dump(mode="json"))
    assert again == published


def test_what_the_user_sets_goes_before_the_published_preset(recipe_file: Path) -> None:
    changes = ["adapter.norm=branch", "adapter.fine.heads=2", "prompts.text_dropout=0.2"]
    recipe = load_recipe(recipe_file, ["adapter.preset=published", *changes])
    assert (recipe.adapter.norm, recipe.prompts.text_dropout) == ("branch", 0.2)
    assert (recipe.adapter.fine.heads, round(recipe.adapter.fine.gate_init, 3)) == (2, 0.690)
    plain = load_recipe(recipe_file)
    assert (plain.adapter.norm, plain.prompts.text_dropout, plain.adapter.fine.gate_init) == ("branch", 0.1, 0.8)


def test_where_it_runs_changes_no_hash(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    moved = load_recipe(recipe_file, ["cluster.num_train_workers=2", "dataset.root=elsewhere"])
    assert isinstance(moved, Recipe)
    assert moved.compute_run_hash() == recipe.compute_run_hash()
    assert moved.compute_experiment_hash("d") == recipe.compute_experiment_hash("d")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cluster.num_train_workers=0", "cluster.deepspeed=zero1"], "needs workers"),
        (["cluster.num_train_workers=[2,1]"], "min <= max"),
        (
            ["optim.mixed_precision=fp16", "cluster.use_gpu=true", "cluster.deepspeed=zero2"],
            "not offered with cluster.deepspeed",
        ),
    ],
)
def test_workers_that_make_no_sense_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(Path("launch/demo.yaml"), [*overrides])


def test_a_named_arm_changes_the_adapter_alone(recipe_file: Path) -> None:
    named = "bench.named={wide: {adapter: {kind: hierarchical, fine: {heads: 4}}}}"
    recipe = load_recipe(recipe_file, [named, "bench.arms=[hierarchical, wide]"])
    wide = recipe.with_arm("wide", seed=2)
    assert (wide.adapter.fine.heads, wide.adapter.fine.tokens, wide.seed) == (4, 2, 2)
    assert wide.optim == recipe.optim
    assert wide.compute_run_hash() != recipe.with_arm("hierarchical", seed=2).compute_run_hash()


PUBLISHED = "bench.named={theirs: {adapter: {kind: hierarchical, preset: published}}}"


def test_a_named_arm_of_the_published_preset_is_what_the_preset_says(recipe_file: Path) -> None:
    theirs = load_recipe(recipe_file, [PUBLISHED]).with_arm("theirs", 0)
    assert theirs.adapter == load_recipe(recipe_file, ["adapter.preset=published"]).adapter
    adapter = build_adapter(theirs.adapter, 768, torch.Generator())
    assert count_trainable_parameters(adapter) == 1_118_466  # Talk2MedSAM's code
    assert theirs.prompts.text_dropout == 0.1, "shared by all arms that do not say that they are tuned differently"


def test_what_the_recipe_says_holds_for_a_named_arm_of_another_preset(recipe_file: Path) -> None:
    said = load_recipe(recipe_file, [PUBLISHED, "adapter.fine.heads=2", "adapter.gated.gate_init=0.7"])
    theirs = said.with_arm("theirs", 0).adapter
    assert (theirs.fine.heads, round(theirs.fine.gate_init, 3), theirs.fine.tokens) == (2, 0.690, 2)
    assert (theirs.gated.gate_init, theirs.norm, theirs.inner_width) == (0.7, "output", 256)
    whole = parse_recipe(said.model_dump(mode="json"), "its own resolved form")
    assert whole.with_arm("theirs", 0) == said.with_arm("theirs", 0)
    back = "bench.named={ours: {adapter: {kind: hierarchical, preset: default, coarse: {heads: 8}}}}"
    ours = load_recipe(recipe_file, [back, "adapter.preset=published"]).with_arm("ours", 0).adapter
    assert (ours.norm, ours.inner_width, ours.fine.gate_init) == ("branch", 128, 0.8)
    assert (ours.coarse.heads, ours.coarse.gate_init) == (8, 0.5)


def test_a_clean_preset_among_deviations_brings_its_own_defaults(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["adapter.preset=published", "adapter.fine.heads=2"])
    clean = recipe.with_values({"adapter.preset": "default"}).adapter
    assert (clean.norm, clean.inner_width, clean.fine.gate_init, clean.fine.heads) == ("branch", 128, 0.8, 2)
    assert recipe.with_values({}) == recipe


@pytest.mark.parametrize(
    ("bench", "message"),
    [
        ("bench.named={fast: {optim: {learning_rate: 0.1}}}", "which all arms share; say differently_tuned: true"),
        ("bench.named={wide: {adapter: {inner_widht: 4}}}", r"bench\.named\.wide: inner_widht: Extra inputs"),
        ("bench.named={wide: {adapter: {fine: {heads: 3}}}}", r"bench\.named\.wide: .*heads = 3 does not divide"),
        ("bench.named={gated: {adapter: {}}}", "choose a name"),
        ("bench.named={gated: {adapter: {kind: label}, differently_tuned: true, trials: 2}}", "and no other kind"),
        ("bench.named={floor_box: {differently_tuned: true, trials: 2}}", "choose a name"),
        ("bench.named={fast: {differently_tuned: true}}", "say trials: how many its sweep had"),
        ("bench.arms=[hierarchicl]", r"hierarchicl is no arm; did you mean hierarchical\?"),
        ("bench.boxes=[tight, jitter20]", "jitter20 is no box; write tight"),
        ("bench.boxes=[loose_20]", "bench.boxes needs tight"),
        ("bench.conditions=[wrong]", "bench.conditions needs right"),
    ],
)
def test_a_suite_that_compares_nothing_fairly_is_refused(recipe_file: Path, bench: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe_file, [bench])


def test_a_differently_tuned_arm_says_so(recipe_file: Path) -> None:
    named = "bench.named={fast: {optim: {learning_rate: 0.1}, differently_tuned: true, trials: 30}}"
    recipe = load_recipe(recipe_file, [named])
    assert recipe.with_arm("fast", 0).optim.learning_rate == 0.1
    assert recipe.bench.named["fast"].trials == 30


def test_an_arm_may_be_tuned_under_its_own_name_in_an_experiment_of_its_own(recipe_file: Path) -> None:
    named = "bench.named={text_free: {optim: {learning_rate: 0.1}, differently_tuned: true, trials: 30}}"
    recipe, shared = load_recipe(recipe_file, [named]), load_recipe(recipe_file)
    tuned = recipe.with_arm("text_free", 0)
    assert (tuned.adapter.kind, tuned.optim.learning_rate) == ("text_free", 0.1)
    assert recipe.with_arm("gated", 0).optim == shared.optim
    assert recipe.compute_experiment_hash("data") != shared.compute_experiment_hash("data")


def test_folds_share_an_experiment_but_not_a_run(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["bench.folds=[1, 3]"])
    assert recipe.folds == (1, 3)
    assert load_recipe(recipe_file, ["dataset.test_fold=4"]).folds == (4,)
    other = recipe.with_fold(3)
    assert other.compute_experiment_hash("d") == recipe.compute_experiment_hash("d")
    assert other.compute_run_hash() != recipe.compute_run_hash()
