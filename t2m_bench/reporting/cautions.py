"""What to beware of when reading page one, in five lines."""

from t2m_bench.recipe.encoders import IMAGE_ENCODERS
from t2m_bench.recipe.schema import STAND_IN
from t2m_bench.reporting.arms import is_trained
from t2m_bench.reporting.geometry import list_geometry_warnings
from t2m_bench.reporting.results import Results
from t2m_bench.statistics.crossed import CLAIM_SEEDS


def list_cautions(results: Results) -> list[str]:
    """Return one line each on boxes, text, models, splits and training repeats."""
    return [
        "Boxes come from the reference outline; a reader's boxes would fit less well.",
        _tell_text(results),
        _tell_models(results),
        _tell_splits(results),
        _tell_repeats(results),
    ]


def _tell_text(results: Results) -> str:
    told = list_geometry_warnings(results)
    if told:
        return told[0]
    phantom = results.experiment["dataset"].get("phantom")
    if phantom:
        share = 100 * phantom["text_effect"]
        return f"Phantoms, not patients: by design the text names the hidden shape in {share:.0f} %."
    if results.is_free_text:
        return "Each text is the data set's own; whoever wrote it may have seen the same image."
    fields = " and ".join(map(results.name_field, results.fields))
    return f"The {fields} is the data set's own; whoever assigned it may have seen the same image."


def _tell_models(results: Results) -> str:
    models = results.experiment["models"]
    entry = IMAGE_ENCODERS.get(models["image_encoder"])
    label = (entry.label if entry else "") or str(models["image_encoder"])
    image = entry.warning.replace("{seen}", "").strip() if entry and entry.warning else f"Image model: {label}."
    if models["text_encoder"] == STAND_IN:
        return f"{image} The text encoder is a stand-in that knows no clinical language."
    return f"{image} Text encoder: {models['text_encoder']}."


def _tell_splits(results: Results) -> str:
    if len(results.folds) == 1:
        return "One split of the patients: another split may give another answer."
    return f"The {len(results.folds)} splits are fixed: other splits may give another answer."


def _tell_repeats(results: Results) -> str:
    seeds = [len({run.summary["seed"] for run in results.list_runs(arm)}) for arm in results.arms if is_trained(arm)]
    least = min(seeds, default=0)
    repeats = "1 training repeat" if least == 1 else f"{least} training repeats"
    if least >= CLAIM_SEEDS:
        return f"{repeats} a fold: intervals include the chance of training."
    return f"{repeats} a fold: too few for a claim about the method, which needs {CLAIM_SEEDS}."
