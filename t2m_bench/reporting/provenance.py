"""States what a reader must know before the first number, the audit's findings, and the origin of the numbers."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from t2m_bench.commit import NO_COMMIT
from t2m_bench.data.audit import describe_unknown_field
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.recipe.arms import ARMS
from t2m_bench.recipe.conditions import CONDITIONS
from t2m_bench.recipe.datasets import DATA_SETS
from t2m_bench.recipe.encoders import IMAGE_ENCODERS
from t2m_bench.recipe.measures import DICE, MEASURE_TABLE
from t2m_bench.reporting.arms import REFERENCE, is_trained
from t2m_bench.reporting.completeness import find_suite, list_missing
from t2m_bench.reporting.geometry import list_geometry_warnings
from t2m_bench.reporting.image_audit import mark_flagged
from t2m_bench.reporting.results import Results
from t2m_bench.reporting.table import Table, make_table
from t2m_bench.statistics.crossed import CLAIM_SEEDS
from t2m_bench.statistics.intervals import compute_patient_means

FIRST_WEIGHTS = {
    "seed": "the seed: runs of one seed start every fold from the same weights",
    "seed_and_fold": "seed and fold",
}

T_STAGE = "t_stage"
CLASS_SHAPE = "floor_class_mask"


def list_grave_warnings(results: Results) -> list[str]:
    """Return what makes every figure doubtful: leakage, flagged images, a suite that is not whole."""
    warnings = []
    if results.experiment["allow_leakage"]:
        leaks = "; ".join(_list_leaks(results)) or "none was found"
        warnings.append(f"Leakage was allowed in this experiment ({leaks}): no figure here is an honest test figure.")
    if flagged := mark_flagged(results):
        warnings.append(f"{flagged.strip('()')} `prepare` counts why, in the audit below.")
    if missing := list_missing(results):
        warnings.append(f"This suite is not whole; what is missing: {'; '.join(missing)}.")
    return warnings


def list_warnings(results: Results) -> list[str]:
    """Return what makes the figures less than they seem, the gravest first."""
    experiment = results.experiment
    warnings = [*_explain_class_shape(results), *list_grave_warnings(results)]
    warnings += [describe_unknown_field(name) for name in results.fields if _is_unknown(results, name)]
    phantom = experiment["dataset"].get("phantom")
    if phantom:
        warnings.append(
            f"Phantoms, not patients: the text tells the hidden class with probability {phantom['text_effect']:g}"
            + (", and the look shows it too." if phantom["text_visible"] else ".")
        )
    if T_STAGE in results.fields:
        aucs = [audit["size_auc"] for audit in results.audits.values() if audit.get("size_auc") is not None]
        told = f": box size in mm alone tells T with AUC {aucs[0]:.2f} (mean over pairs of classes)" if aucs else ""
        warnings.append(
            "T is pathological (AJCC 7): found after surgery, not known when the image is taken, and partly defined by "
            f"size, which the box shows too{told}."
        )
    warnings += list_geometry_warnings(results)
    commits = count_commits(results)
    if len(commits) > 1:
        told = ", ".join(f"{count} of {commit}" for commit, count in commits.items())
        warnings.append(f"Runs of {len(commits)} commits of the code, which may not compute the same: {told}.")
    warnings += list_uninstalled(results)
    warnings += _list_model_warnings(experiment["models"], str(experiment["dataset"]["kind"]))
    if REFERENCE not in results.arms:
        warnings.append("Without the arm text_free nothing here says what the text did. Run `t2m-bench bench RECIPE`.")
    seeds = [len({r.summary["seed"] for r in results.list_runs(arm)}) for arm in results.arms if is_trained(arm)]
    if seeds and min(seeds) < CLAIM_SEEDS:
        warnings.append(
            f"Fewest training runs an arm: {min(seeds)}; a claim about the method wants at least {CLAIM_SEEDS}."
        )
    trials = {arm: {run.summary.get("trials", 1) for run in results.list_runs(arm)} for arm in results.arms}
    if len({max(found) for found in trials.values() if found}) > 1:
        told = ", ".join(f"{arm} {max(found)}" for arm, found in trials.items() if found)
        warnings.append(f"Arms had different numbers of trials in tuning ({told}): their comparison is not a fair one.")
    tuned = [arm for arm in results.arms if any(r.summary.get("differently_tuned") for r in results.list_runs(arm))]
    if 0 < len(tuned) < sum(bool(results.list_runs(arm)) for arm in results.arms):
        warnings.append(
            f"Differently tuned than the other arms: {', '.join(tuned)}; what tuning gained and what the arm gained "
            "cannot be told apart."
        )
    return warnings


def count_commits(results: Results) -> dict[str, int]:
    """Return commit -> number of runs that it trained."""
    return dict(Counter(str(run.summary.get("commit", NO_COMMIT)) for run in results.runs))


def _is_unknown(results: Results, name: str) -> bool:
    """Return whether the audit counted cases of a text field, and all of them as unknown."""
    found: set[str] = set()
    for audit in results.audits.values():
        of_first = audit["classes"] if name == results.fields[0] else {}
        by_split = audit.get("classes_by_field", {}).get(name) or of_first
        found.update(value for counts in by_split.values() for value, count in counts.items() if count)
    return found == {UNKNOWN}


def _explain_class_shape(results: Results) -> list[str]:
    """Say why a shape drawn without the image may be best of all on phantoms; nothing where it is not."""
    if not results.experiment["dataset"].get("phantom") or CLASS_SHAPE not in results.arms:
        return []
    dice = {arm: compute_patient_means(results.select_main(arm), DICE).mean() for arm in results.arms}
    best = max(dice, key=lambda arm: dice[arm])
    if best != CLASS_SHAPE:
        return []
    return [
        f"The best row is no model: {CLASS_SHAPE} (Dice {dice[best]:.3f}) draws the class's mean mask into the box. On "
        "these phantoms that is right: the class alone fixes the outline, and the text tells it."
    ]


def _list_model_warnings(models: Mapping[str, Any], kind: str) -> list[str]:
    warnings = []
    if models["text_encoder"] == "stand-in":
        warnings.append("Text was encoded by the shipped stand-in, which is no model of clinical language.")
    entry, dataset = IMAGE_ENCODERS.get(models["image_encoder"]), DATA_SETS.get(kind)
    if entry and entry.warning:
        unseen = dataset.unseen_by.get(entry.name, "") if dataset else ""
        warnings.append(entry.warning.replace("{seen}", unseen).rstrip())
    if entry and not entry.seen_images:
        warnings.append(
            f"Pre-training data of {entry.name}: {entry.training_data}. Zero-shot figures may include these images; "
            "differences between arms over the same frozen embeddings do not depend on it."
        )
    return warnings


def list_uninstalled(results: Results) -> list[str]:
    """Return a sentence that names what packages added that are not installed here; nothing where all are."""
    arms = {run.arm: run.summary.get("recipe", {}).get("adapter", {}).get("kind") for run in results.runs}
    experiment = results.experiment
    added = {
        DATA_SETS.what: [kind for kind in [str(experiment["dataset"]["kind"])] if kind not in DATA_SETS],
        IMAGE_ENCODERS.what: [n for n in [str(experiment["models"]["image_encoder"])] if n not in IMAGE_ENCODERS],
        ARMS.what: sorted({arm for arm, kind in arms.items() if kind is not None and kind not in ARMS}),
        CONDITIONS.what: sorted({name.partition(":")[0] for name in results.foreign_conditions}),
        MEASURE_TABLE.what: list(results.foreign_measures),
    }
    named = [f"{what} {', '.join(names)}" for what, names in added.items() if names]
    if not named:
        return []
    return [f"Added by packages that are not installed here, so shown by bare names: {'; '.join(named)}."]


def _list_leaks(results: Results) -> list[str]:
    leaks = [(fold, leak) for fold, audit in results.audits.items() for leak in audit["leaks"]]
    return [f"fold {fold}: {leak}" if len(results.audits) > 1 else leak for fold, leak in leaks]


def make_audit_table(results: Results) -> Table:
    """A row a test fold: cases and patients of each split, leaks, quality flags, cases without text."""
    rows, numbers = [], []
    for fold, audit in results.audits.items():
        splits = [f"{count} / {audit['patients'].get(name, 0)}" for name, count in audit["cases"].items()]
        flags = ", ".join(f"{name} {count}" for name, count in audit["flags"].items()) or "none"
        leaks = "; ".join(audit["leaks"]) or "none"
        rows.append((fold, *splits, leaks, flags, str(audit.get("unknown_texts", 0))))
        counts = {f"{name}_cases": count for name, count in audit["cases"].items()}
        numbers.append({"fold": fold, **counts, "leaks": leaks, "flags": flags})
    splits = [f"{name}: cases / patients" for name in next(iter(results.audits.values()))["cases"]]
    columns = ("Test fold", *splits, "Leaks", "Quality flags, cases", "Text unknown")
    note = f"{_describe_splits(results)} The audit looks for patients and images on two sides before any training."
    return make_table("audit", "What the audit and the quality flags said", note, columns, rows, numbers)


def _describe_splits(results: Results) -> str:
    by_image = results.dataset_recipe.get("split_by") == "image"
    split = "Splits are by image: patients may stand on both sides." if by_image else "Splits are by patient."
    return split + (" Validation cases are the test cases." if results.validates_on_test else "")


def list_facts(results: Results) -> list[tuple[str, str]]:
    """Return the provenance as (what, value)."""
    experiment = results.experiment
    dataset = experiment["dataset"]
    patients = f" of {dataset['num_patients']} patients" if "num_patients" in dataset else ""
    phantoms = "phantoms in the layout of " if dataset.get("phantom") else ""
    return [
        ("Data set", f"{phantoms}{_name_dataset(dataset['kind'])}, {dataset['num_cases']} cases{patients}"),
        *_list_choices(next(iter(results.audits.values()))),
        ("Test folds", ", ".join(map(str, results.folds))),
        ("Suite", "; ".join(f"{part} {', '.join(map(str, values))}" for part, values in find_suite(results).items())),
        *_describe_encoder(experiment["models"]["image_encoder"]),
        ("Text encoder", f"{experiment['models']['text_encoder']}"),
        ("Adapters start from", describe_start(experiment["recipe"].get("adapter", {}))),
        ("First weights drawn from", FIRST_WEIGHTS[experiment["recipe"].get("first_weights", "seed")]),
        ("Margin", f"{results.margin:g} Dice"),
        *((f"sha256 of {name}", value) for name, value in experiment["hashes"].items()),
        ("Versions", ", ".join(f"{name} {version}" for name, version in experiment["versions"].items())),
        ("Commit", ", ".join(count_commits(results)) or "none"),
        ("Runs", ", ".join(run.name for run in results.runs) or "none"),
        ("Created", str(experiment["created"])),
    ]


def describe_start(adapter: Mapping[str, Any]) -> str:
    """Say what an untrained adapter computes, from a recipe's section; before the field came, all were unscaled."""
    if adapter.get("start", "unscaled") == "frozen":
        return "the frozen model: the branch is a share of the embeddings' own spread, and small at first"
    norm = "the norm rewrites the embedding" if adapter.get("norm") == "output" else "the branch has its full size"
    return f"random changes of the embedding, as published: {norm} before the first step"


def _name_dataset(kind: str) -> str:
    entry = DATA_SETS.get(kind)
    return f"{entry.label} ({kind})" if entry else kind


def _describe_encoder(preset: str) -> list[tuple[str, str]]:
    """Return what the image encoder is called, and the licence and training data of its weights where known."""
    entry = IMAGE_ENCODERS.get(preset)
    if entry is None:
        return [("Image encoder", preset)]
    name = f"{entry.label} ({preset})" if entry.label else preset
    return [
        ("Image encoder", name),
        ("Its licence", entry.licence),
        ("Its training data", entry.training_data),
    ]


def _list_choices(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return by which rule cases were chosen from the folder, and how much of it was left out for which reason."""
    left_out = ", ".join(f"{count} {reason}" for reason, count in audit.get("exclusions", {}).items())
    found = (("Choice of cases", audit.get("selection", "")), ("Left out", left_out))
    return [(name, value) for name, value in found if value]
