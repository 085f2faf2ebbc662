from pathlib import Path

import pytest
import torch
from messages import raises_naming

from t2m_bench.errors import RecipeError
from t2m_bench.models.arm import count_trainable_parameters
from t2m_bench.models.fusion import build_adapter
from t2m_bench.recipe.schema import Recipe, load_recipe, parse_noted_recipe, parse_recipe

LARGEST_SEED = 2**63 - 1


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
    with raises_naming(RecipeError, "optim.epoch", "epochs"):
        load_recipe(recipe_file, ["optim.epoch=3"])


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optim.epochs=many", {"optim.epochs", "integer", "many"}),
        ("adapter.coarse.heads=3", {"adapter.coarse.heads", 3, "width"}),
        ("adapter.fine.gate_init=1.0", {"adapter.fine.gate_init", "1.0", 1}),
        ("adapter.kind=gatd", {"adapter.kind", "gatd"}),
        ("noequals", {"noequals", "field.name=value"}),
        ("name.deeper=1", {"name.deeper=1", "name", "section"}),
        ("seed=9223372036854775808", {"seed", LARGEST_SEED}),
        ("bench.seeds=[9223372036854775808]", {"bench.seeds.0", LARGEST_SEED}),
        ("dataset.split_seed=9223372036854775808", {"dataset.split_seed", LARGEST_SEED}),
        ("optim.epochs=true", {"optim.epochs", "true"}),
        ("optim.learning_rate=true", {"optim.learning_rate", "true"}),
        ("optim.learning_rate=.inf", {"optim.learning_rate", "finite"}),
        ("loss.temperature=.nan", {"loss.temperature", "nan"}),
        ("bench.arms=[]", {"bench.arms", 1}),
        ("bench.seeds=[]", {"bench.seeds", 1}),
        ("bench.seeds=[0, 1, 0]", {"bench.seeds", 0, "once"}),
        ("bench.arms=[gated, gated]", {"bench.arms", "gated", "once"}),
        ("bench.folds=[1, 7, 7]", {"bench.folds", 7, "once"}),
        ("bench.conditions=right,wrong,wrong", {"bench.conditions", "wrong", "once"}),
        ("bench.boxes=tight,loose_20,loose_20", {"bench.boxes", "loose_20", "once"}),
        ("name=2024-13-45", {"name=2024-13-45", "month"}),
        ("name=0x_", {"name=0x_", "16"}),
        ("name=!!bool x", {"name=!!bool x"}),
        ("name=!!timestamp x", {"name=!!timestamp x"}),
        ('bench.arms="gated,[b"', {"bench.arms", "[b"}),
        ("bench.boxes='tight,2024-13-45'", {"bench.boxes", "2024-13-45"}),
        ("cluster.num_train_workers=x", {"cluster.num_train_workers", "x", "[min, max]"}),
        ("cluster.num_train_workers=[1, 2, 3]", {"cluster.num_train_workers", "[1, 2, 3]", "[min, max]"}),
        ("cluster.num_train_workers=[0, 2]", {"cluster.num_train_workers", "[0, 2]", "[min, max]"}),
        ("cluster.num_train_workers=true", {"cluster.num_train_workers"}),
    ],
)
def test_bad_overrides_name_the_field(recipe_file: Path, override: str, named: set[object]) -> None:
    with raises_naming(RecipeError, *named):
        load_recipe(recipe_file, [override])


@pytest.mark.parametrize("text", ["[1, 2]", "name: [", "name: trial\n", "\x00", "name: 2024-13-45", "[" * 5000])
def test_unusable_files_are_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with raises_naming(RecipeError, path):
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
    ("overrides", "named"),
    [
        (
            ["cluster.num_train_workers=0", "cluster.deepspeed=zero1"],
            {"cluster.deepspeed", "cluster.num_train_workers"},
        ),
        (["cluster.num_train_workers=[2,1]"], {"cluster.num_train_workers", "[2, 1]"}),
        (
            ["optim.mixed_precision=fp16", "cluster.use_gpu=true", "cluster.deepspeed=zero2"],
            {"optim.mixed_precision", "fp16", "cluster.deepspeed"},
        ),
    ],
)
def test_workers_that_make_no_sense_are_refused(overrides: list[str], named: set[str]) -> None:
    with raises_naming(RecipeError, *named):
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


def test_the_output_norm_starts_unscaled_and_a_change_of_norm_changes_the_start_too(recipe_file: Path) -> None:
    output = load_recipe(recipe_file, ["adapter.norm=output"])
    assert output.adapter.start == "unscaled"
    assert output.with_values({"adapter.norm": "branch"}).adapter.start == "frozen"
    assert output.with_values({"adapter.norm": "branch", "adapter.start": "unscaled"}).adapter.start == "unscaled"
    assert load_recipe(recipe_file).with_values({"adapter.norm": "output"}).adapter == output.adapter
    with raises_naming(RecipeError, "adapter.start", "adapter.norm"):
        load_recipe(recipe_file, ["adapter.norm=output", "adapter.start=frozen"])


def test_a_recipe_noted_before_a_field_came_counts_as_then(recipe_file: Path) -> None:
    then = load_recipe(recipe_file, ["adapter.start=unscaled", "first_weights=seed"])
    noted = then.model_dump(mode="json")
    del noted["first_weights"], noted["adapter"]["start"]
    assert parse_noted_recipe(noted, "run.json") == then
    assert parse_recipe(noted, "a recipe") == load_recipe(recipe_file)
    assert then.compute_run_hash() != load_recipe(recipe_file).compute_run_hash()


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
    ("bench", "named"),
    [
        ("bench.named={fast: {optim: {learning_rate: 0.1}}}", {"bench.named", "optim", "differently_tuned"}),
        ("bench.named={wide: {adapter: {inner_widht: 4}}}", {"bench.named.wide", "inner_widht"}),
        ("bench.named={wide: {adapter: {fine: {heads: 3}}}}", {"bench.named.wide", "heads", 3, "width"}),
        ("bench.named={gated: {adapter: {}}}", {"bench.named.gated", "name"}),
        (
            "bench.named={gated: {adapter: {kind: label}, differently_tuned: true, trials: 2}}",
            {"bench.named.gated", "kind"},
        ),
        ("bench.named={floor_box: {differently_tuned: true, trials: 2}}", {"bench.named.floor_box", "name"}),
        ("bench.named={fast: {differently_tuned: true}}", {"bench.named", "trials"}),
        ("bench.arms=[hierarchicl]", {"bench.arms", "hierarchicl", "hierarchical"}),
        ("bench.boxes=[tight, jitter20]", {"bench.boxes", "jitter20", "jitter_P"}),
        ("bench.boxes=[loose_20]", {"bench.boxes", "tight", "bench.conditions"}),
        ("bench.conditions=[wrong]", {"bench.conditions", "right", "bench.boxes"}),
    ],
)
def test_a_suite_that_compares_nothing_fairly_is_refused(recipe_file: Path, bench: str, named: set[object]) -> None:
    with raises_naming(RecipeError, *named):
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


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("bench.arms=text_free,gated", ("text_free", "gated")),
        ("bench.arms=gated", ("gated",)),
        ("bench.arms=[text_free, gated]", ("text_free", "gated")),
        ("bench.seeds=0,1,2", (0, 1, 2)),
        ("bench.folds=3", (3,)),
        ("dataset.ct.window=1500,-600", (1500.0, -600.0)),
        ("dataset.ct.window=lung", "lung"),
    ],
)
def test_a_list_may_be_written_with_commas(recipe_file: Path, override: str, found: object) -> None:
    recipe: object = load_recipe(recipe_file, [override])
    for name in override.partition("=")[0].split("."):
        recipe = getattr(recipe, name)
    assert recipe == found
