"""What exists keeps its hashes while the code grows."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_origin

import pytest
from pydantic import Field, create_model
from pydantic_core import PydanticUndefined, to_jsonable_python

from t2m_bench.data.case import Case
from t2m_bench.data.manifest import compute_manifest_hash
from t2m_bench.embedding.prompt_bank import BankSignature
from t2m_bench.embedding.shards.schema import Signature
from t2m_bench.pipeline.sweep import CHANGEABLE_KEYS, SWEEP_NAME, check_unchanged
from t2m_bench.recipe.defaults import (
    FrozenDefaults,
    Value,
    join_lists,
    keep_decisive,
    list_dataclass,
    load_defaults,
    load_first_suite,
    load_lists,
)
from t2m_bench.recipe.schema import (
    UNDECIDING,
    DatasetSection,
    NamedArm,
    PhantomSection,
    Recipe,
    list_default_suite,
    load_recipe,
)
from t2m_bench.recipe.typed_yaml import Section, find_section, list_values
from t2m_bench.search.sweep import Sweep, load_sweep

REPOSITORY = Path(__file__).resolve().parents[2]

# Where one of these differs, every run of the recipe is orphaned: `train` and `bench` would not find it and begin anew.
# - A field was added: give it a default, and name it with that default under `added` in the newest
#   t2m_bench/recipe/defaults_v*.json. The hash then stays as it is.
# - A field was renamed or moved: name it under `renamed` there.
# - A default was changed, or a recipe: the results change too, so the new hash is right. Put it here, and say in the
#   changelog that runs of before are not continued.
SHIPPED = {
    "launch/bus_bra.yaml": ("22275a64", "9891a8c3"),
    "launch/bus_bra_lite.yaml": ("1bbd5ac3", "97a587fc"),
    "launch/demo.yaml": ("66183e49", "86b9810d"),
    "launch/nsclc.yaml": ("51ed9659", "303907fc"),
    "launch/published_bus_bra.yaml": ("4d3d3d79", "6e543f7b"),
    "sweeps/bus_bra.yaml": ("b529fd30", "12b097df"),
    "sweeps/bus_bra_lite.yaml": ("491259e6", "beae6f8b"),
    "sweeps/demo.yaml": ("8f385b5e", "29069115"),
    "sweeps/nsclc.yaml": ("51ed9659", "303907fc"),
}
"""Recipe -> hash of its run, and of its experiment on the data `data`."""

SWEEPS = {"bus_bra_lite": "3325ae2c", "bus_bra": "562d7b8a", "demo": "00a54b3b", "nsclc": "dbc902f6"}
"""Sweep -> hash of what its trials must share; another one cannot be continued."""

CASE = Case(
    "case-1", "patient-1", Path("a.png"), Path("b.png"), 40, 50, (1, 2, 9, 9), {"birads": "4"}, 2, (0.5, 0.5), ("x",),
    "0" * 64, "1" * 64,
)  # fmt: skip

DEMO = REPOSITORY / "launch" / "demo.yaml"


def load_shipped(name: str) -> Recipe:
    path = REPOSITORY / name
    return load_sweep(path).recipe if name.startswith("sweeps/") else load_recipe(path)


def test_every_shipped_recipe_is_pinned() -> None:
    files = [*REPOSITORY.glob("launch/*.yaml"), *REPOSITORY.glob("sweeps/*.yaml")]
    recipes = {str(path.relative_to(REPOSITORY)) for path in files if "\nname: " in path.read_text()}
    assert recipes == SHIPPED.keys()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_keep_their_hashes(name: str) -> None:
    recipe = load_shipped(name)
    assert (recipe.compute_run_hash(), recipe.compute_experiment_hash("data")) == SHIPPED[name]


@pytest.mark.parametrize("name", SWEEPS)
def test_shipped_sweeps_can_be_continued(tmp_path: Path, name: str) -> None:
    check_unchanged(tmp_path, load_sweep(REPOSITORY / "sweeps" / f"{name}.yaml"), {"manifest": "1234"})
    found = json.loads((tmp_path / SWEEP_NAME).read_text())
    assert hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:8] == SWEEPS[name]


def test_what_is_not_in_a_shipped_recipe_keeps_its_hash_too() -> None:
    tuned = (
        "bench.named={text_free: {optim: {learning_rate: 0.1}, adapter: {fine: {heads: 4}}, "
        "differently_tuned: true, trials: 30}}"
    )
    recipe = load_recipe(DEMO, [tuned])
    assert recipe.compute_experiment_hash("data") == "87c3afd8"
    assert recipe.with_arm("text_free", 1).compute_run_hash() == "be13f647"
    assert load_recipe(DEMO, ["dataset.phantom=null"]).compute_run_hash() == "7b10236c"


def test_what_names_the_defaults_of_before_has_the_hashes_of_before() -> None:
    recipe = load_recipe(DEMO, ["adapter.start=unscaled", "first_weights=seed"])
    assert (recipe.compute_run_hash(), recipe.compute_experiment_hash("data")) == ("4021e86d", "07f04d43")


def test_data_and_embeddings_keep_their_hashes() -> None:
    assert compute_manifest_hash([CASE]) == "168ee8e88e7d4ace52e9b834477ee9e927d41f02244f64a7ba70640629ddeae7"
    assert Signature("mini", "0" * 64, "p1", "1" * 64).compute_hash() == "7ba638d2757f"
    assert BankSignature("stand-in", "0" * 64, "cls", "1" * 64).compute_hash() == "e42949263ad6"


def list_defaults(model: type[Section], like: Section | None = None, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each field that has a default, of sections that may be left out too."""
    for name, field in model.model_fields.items():
        default = getattr(like, name, field.get_default(call_default_factory=True))
        is_section = isinstance(default, Section)
        inner = type(default) if is_section else find_section(field.annotation)
        if not is_section and default is not PydanticUndefined:
            yield f"{place}{name}", to_jsonable_python(default)
        if inner is not None:
            many = ".*" if get_origin(field.annotation) is dict else ""
            yield from list_defaults(inner, default if is_section else None, f"{place}{name}{many}.")


def list_dataclass_defaults(kind: type) -> Iterator[tuple[str, Any]]:
    for field in fields(kind):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if default is not MISSING:
            yield field.name, default


def is_below(field: str, sections: Sequence[str]) -> bool:
    return any(field == section or field.startswith(f"{section}.") for section in sections)


CODE = {
    "recipe": {name: value for name, value in list_defaults(Recipe) if not is_below(name, UNDECIDING)},
    "arm": dict(list_defaults(NamedArm)),
    "sweep": {name: value for name, value in list_defaults(Sweep) if not is_below(name, CHANGEABLE_KEYS)},
    "case": dict(list_dataclass_defaults(Case)),
    "shards": dict(list_dataclass_defaults(Signature)),
    "prompt_bank": dict(list_dataclass_defaults(BankSignature)),
}


@pytest.mark.parametrize("kind", CODE)
def test_the_frozen_lists_have_every_default_of_the_code(kind: str) -> None:
    newest = f"t2m_bench/recipe/defaults_v{len(load_lists())}.json"
    raised = f"t2m_bench/recipe/defaults_v{len(load_lists()) + 1}.json"
    frozen = load_defaults(kind)
    known = {name: value for name, value in frozen.current.items() if name not in frozen.renamed.values()}
    code = {frozen.renamed.get(name, name): value for name, value in CODE[kind].items()}
    added = {name: value for name, value in code.items() if name not in frozen.current}
    changed = {name: value for name, value in code.items() if name not in added and value != frozen.current[name]}
    gone = known.keys() - code.keys() - KNOWN_GONE
    assert not added, f'put into {newest}, under "added", "{kind}": {json.dumps(added)}'
    assert not changed, f"write {raised}, with {json.dumps({'defaults': {kind: changed}, 'added': {}, 'renamed': {}})}"
    assert not gone, f'name them in KNOWN_GONE here, or under "renamed", "{kind}" in {newest}: {sorted(gone)}'


KNOWN_GONE: frozenset[str] = frozenset()
"""Fields that the code has no more; the lists keep them, so that hashes stay."""


def test_a_list_is_of_fields_that_were_new_or_changed() -> None:
    first, *later = load_lists()
    assert first["suite"] == load_first_suite()
    for noted in (first, *later):
        assert {"defaults", "added", "renamed"} <= noted.keys()
    assert all("suite" not in noted for noted in later)


def grow(section: type[Section], **new: Any) -> Any:
    """Return a section with further fields: name -> (type, default)."""
    return create_model(f"Grown{section.__name__}", __base__=section, **new)


def grow_recipe(name: str, **new: Any) -> type[Recipe]:
    """Return a recipe one of whose sections has further fields."""
    section = grow(Recipe.model_fields[name].annotation, **new)  # type: ignore[arg-type]  # every section is a class
    default = Recipe.model_fields[name].default
    whole = section() if isinstance(default, Section) else ...
    return create_model("GrownRecipe", __base__=Recipe, **{name: (section, whole)})


GROWN_PHANTOM = grow(PhantomSection, lesions=(int, 1))
GROWN_DATASET = create_model(
    "GrownDataset", __base__=DatasetSection, phantom=(GROWN_PHANTOM | None, None), **{"scanner": (str, "any")}
)
NEW_SECTION = create_model("NewSection", __base__=Section, size=(int, 256), pad=(bool, False))

GROWN: dict[str, tuple[type[Recipe], dict[str, Any]]] = {
    "a field of the recipe": (grow(Recipe, weighting=(str, "even")), {"weighting": "by patient"}),
    "a field of a section": (grow_recipe("optim", nesterov=(bool, False)), {"optim": {"nesterov": True}}),
    "a field of the adapter": (grow_recipe("adapter", rank=(int, 0)), {"adapter": {"rank": 4}}),
    "a field of an inner section": (
        create_model("GrownRecipe", __base__=Recipe, dataset=(GROWN_DATASET, ...)),
        {"dataset": {"phantom": {"lesions": 2}}},
    ),
    "a section": (grow(Recipe, frame=(NEW_SECTION, NEW_SECTION())), {"frame": {"pad": True}}),
    "a section that may be left out": (grow(Recipe, frame=(NEW_SECTION | None, None)), {"frame": {}}),
    "a list": (grow(Recipe, stages=(tuple[str, ...], Field(default_factory=tuple))), {"stages": ["one"]}),
}
"""What is new -> the recipe that has it, and a value that is not its default."""


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return base | {
        key: merge(base.get(key, {}), value) if isinstance(value, dict) else value for key, value in changes.items()
    }


@pytest.mark.parametrize("what", GROWN)
@pytest.mark.parametrize("name", ["launch/demo.yaml", "launch/published_bus_bra.yaml", "launch/nsclc.yaml"])
def test_growth_changes_no_hash_and_another_value_does(name: str, what: str) -> None:
    grown, changes = GROWN[what]
    raw = load_shipped(name).model_dump(mode="json", exclude={"deviations"})
    raw["dataset"]["phantom"] = raw["dataset"]["phantom"] or {"cases": 9}
    before, after = Recipe.model_validate(raw), grown.model_validate(raw)
    assert set(dict(list_defaults(grown))) > set(dict(list_defaults(Recipe))), "it has grown"
    for arm in ("text_free", "hierarchical"):
        assert after.with_arm(arm, 3).compute_run_hash() == before.with_arm(arm, 3).compute_run_hash()
    assert after.compute_experiment_hash("data") == before.compute_experiment_hash("data")
    other = grown.model_validate(merge(raw, changes))
    assert other.compute_run_hash() != before.compute_run_hash()
    assert other.compute_experiment_hash("data") != before.compute_experiment_hash("data")


def test_a_tuned_arm_that_repeats_a_new_default_is_the_same_arm() -> None:
    """A refit writes all that an arm's recipe says, new fields too."""
    grown = grow_recipe("optim", nesterov=(bool, False))
    raw = load_recipe(DEMO).model_dump(mode="json")
    own = {"differently_tuned": True, "trials": 3}
    raw["bench"]["named"] = {"text_free": own | {"optim": {"learning_rate": 0.1}}}
    before = Recipe.model_validate(raw)
    hashes = []
    for said, of_all in ((False, False), (True, False), (False, True), (True, True)):
        changed = merge(raw, {"bench": {"named": {"text_free": {"optim": {"nesterov": said}}}}})
        hashes.append(grown.model_validate(merge(changed, {"optim": {"nesterov": of_all}})))
    assert hashes[0].compute_experiment_hash("d") == before.compute_experiment_hash("d")
    assert hashes[0].with_arm("text_free", 0).compute_run_hash() == before.with_arm("text_free", 0).compute_run_hash()
    assert len({recipe.compute_experiment_hash("d") for recipe in hashes}) == 4


def test_a_new_key_of_a_named_arm_changes_no_hash() -> None:
    arm = grow(NamedArm, colour=(str, ""))
    said = {"differently_tuned": True, "trials": 3}
    frozen = load_defaults("arm")
    plain = keep_decisive(list_values(NamedArm(**said)), frozen)
    assert keep_decisive(list_values(arm(**said)), frozen) == plain == NamedArm(**said).model_dump(mode="json")
    assert keep_decisive(list_values(arm(**said, colour="red")), frozen) == plain | {"colour": "red"}


def test_a_new_attribute_of_a_signature_changes_no_hash() -> None:
    @dataclass(frozen=True)
    class Grown(Signature):
        frame: str = "stretch"

    plain = Signature("mini", "0", "p", "1")
    assert Grown("mini", "0", "p", "1").compute_hash() == plain.compute_hash()
    assert Grown("mini", "0", "p", "1", frame="pad").compute_hash() != plain.compute_hash()


FIRST: dict[str, Any] = {"defaults": {"it": {"a": 1, "b.c": 2, "d": None, "d.e": 5}}, "added": {}, "renamed": {}}


def keep(frozen: FrozenDefaults, **values: Any) -> dict[str, Any]:
    """Return what is kept of values whose code's defaults are all 0; `__` stands for a dot."""
    names = {name.replace("__", "."): value for name, value in values.items()}
    return keep_decisive([Value(tuple(name.split(".")), name, value, 0) for name, value in names.items()], frozen)


def test_a_changed_default_makes_another_hash_where_it_is_relied_on_alone() -> None:
    added = FIRST | {"added": {"it": {"f": 7}}}
    second: dict[str, Any] = {"defaults": {"it": {"a": 9, "f": 8}}, "added": {}, "renamed": {}}
    frozen = join_lists([added, second], "it")
    assert frozen.current == {"a": 9, "b.c": 2, "d": None, "d.e": 5, "f": 8}
    whole = {"a": 1, "b": {"c": 2}, "d": None}
    assert keep(frozen, a=1, b__c=2, d=None, f=7) == whole, "what says the former defaults keeps its hash"
    assert keep(frozen, a=9, b__c=2, d=None, f=8) == whole | {"a": 9, "f": 8}


def test_a_field_that_is_gone_counts_with_its_default_and_one_that_was_renamed_under_its_former_name() -> None:
    frozen = join_lists([FIRST | {"renamed": {"it": {"new.c": "b.c"}}}], "it")
    whole = {"a": 1, "b": {"c": 2}, "d": None}
    assert keep(frozen, a=1, new__c=2, d=None) == whole
    assert keep(frozen, a=1, new__c=3, d=None) == whole | {"b": {"c": 3}}
    assert keep(frozen) == whole
    assert keep(frozen, d={}, d__g=0) == whole | {"d": {"e": 5}}


def test_the_text_of_a_case_counts_where_it_has_one_and_strata_never_do() -> None:
    grown = {**vars(CASE), "strata": {"scanner": "A"}}
    assert compute_manifest_hash([Case(**grown)]) == compute_manifest_hash([CASE])
    for name in ("text", "paraphrase"):
        assert compute_manifest_hash([Case(**{**vars(CASE), name: "A mass."})]) != compute_manifest_hash([CASE])
    kept = keep_decisive(list_dataclass(CASE, vars(CASE)), load_defaults("case"))
    assert vars(CASE).keys() - kept.keys() == {"strata", "text", "paraphrase"}


def test_suites_grow_without_a_new_list() -> None:
    """Conditions and boxes decide no training; each run notes what the defaults were."""
    for name, asked in load_first_suite().items():
        assert set(asked) <= set(list_default_suite()[name])
