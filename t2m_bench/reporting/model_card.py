"""The model card of an exported adapter, in the form of Hugging Face, filled from its experiment's results."""

from collections.abc import Mapping
from typing import Any

from t2m_bench.recipe.arms import ARMS, Texts
from t2m_bench.recipe.datasets import DATA_SETS
from t2m_bench.recipe.encoders import IMAGE_ENCODERS
from t2m_bench.reporting.comparisons import make_comparisons
from t2m_bench.reporting.counterfactuals import make_counterfactual_table
from t2m_bench.reporting.headline import make_headline_table
from t2m_bench.reporting.provenance import list_warnings, make_audit_table
from t2m_bench.reporting.rendering import render
from t2m_bench.reporting.results import Results


def render_model_card(results: Results, run_name: str, config: Mapping[str, Any]) -> str:
    """Return README.md.

    Args:
        run_name: folder of the run that is exported. config: the content of its config.json.
    """
    (run,) = [run for run in results.runs if run.name == run_name]
    kind = str(run.summary["recipe"]["adapter"]["kind"])
    dataset, entry = results.experiment["dataset"], ARMS.find(kind)
    own, encoder = DATA_SETS.get(str(dataset["kind"])), IMAGE_ENCODERS.get(config["image_encoder"]["preset"])
    tables = [make_headline_table(results, make_comparisons(results)), make_counterfactual_table(results)]
    content = {
        "name": results.experiment["name"],
        "config": config,
        "summary": run.summary,
        "arm_label": entry.label,
        "reads_text": entry.reads_text,
        "dataset": dataset,
        "dataset_label": own.label if own else str(dataset["kind"]),
        "phantom": dataset.get("phantom"),
        "encoder": encoder,
        "classes": _list_classes(config["prompts"], entry.texts == Texts.LABELS),
        "reads_sentences": config["prompts"]["free"] is not None and entry.texts != Texts.LABELS,
        "tables": [*filter(None, tables), make_audit_table(results)],
        "warnings": list_warnings(results),
        "verdicts": config["verdicts"],
    }
    return render("model_card.md.j2", content)


def _list_classes(prompts: Mapping[str, Any], reads_classes: bool) -> dict[str, list[str]]:
    """Return field -> classes that may be given; of free text, those that an arm which reads classes knows."""
    free = prompts["free"]
    if free is not None and reads_classes:
        return {free["class_field"]: list(free["class_names"])}
    return {field: list(classes) for field, classes in prompts["fields"].items()}
