"""The demo as users run it, in small: where the text decides it must help and wrong text must cost; else neither."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from recomputed import check_report

from t2m_bench.statistics.decision import Outcome

REPOSITORY = Path(__file__).resolve().parents[2]


def run_demo(folder: Path, *overrides: str) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-c", "from t2m_bench.cli import main; main()", "demo", *overrides, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    return summary | {"arms": {row["arm"]: row for row in summary["arms"]}}, done.stdout


def test_text_that_decides_helps_and_wrong_text_costs(tmp_path: Path) -> None:
    suite = ["bench.arms=[text_free,hierarchical]", "bench.conditions=[right,wrong,paraphrase]"]
    summary, printed = run_demo(tmp_path, "dataset.phantom.cases=360", *suite)
    arms = summary["arms"]
    assert {found["about"]: found["outcome"] for found in summary["verdicts"]} == {
        "help": Outcome.GAIN,
        "reliance": Outcome.GAIN,  # wrong text costs
        "paraphrase": Outcome.NO_DIFFERENCE,
    }
    assert arms["hierarchical"]["help"] >= 0.03
    assert arms["hierarchical"]["cost_of_wrong"] >= 0.05
    assert {run["world_size"] for run in summary["runs"]} == {2}
    assert {"floor_box", "floor_ellipse", "floor_mean_mask", "floor_class_mask", "baseline"} < arms.keys()
    assert arms["text_free"]["dice"] == pytest.approx(arms["floor_ellipse"]["dice"], abs=0.03)
    report = tmp_path / summary["report"]
    assert f"report: {summary['report']}" in printed
    assert report.is_file()
    assert report.with_suffix(".md").is_file()
    assert check_report(report.parents[1]) >= 6, "figures of the report, recomputed apart from the package"
    processes = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in processes, "nothing of the demo may go on after it"


@pytest.mark.cluster
def test_text_beside_the_box_helps_too_where_it_decides_with_two_ray_workers(tmp_path: Path) -> None:
    suite = ["bench.arms=[text_prompt_free,text_prompt]", "bench.conditions=[right,wrong]"]
    summary, _ = run_demo(tmp_path, "dataset.phantom.cases=360", *suite)
    assert {run["world_size"] for run in summary["runs"]} == {2}
    arms = summary["arms"]
    assert arms["text_prompt"]["dice"] - arms["text_prompt_free"]["dice"] >= 0.005
    assert arms["text_prompt"]["cost_of_wrong"] >= 0.015
    assert arms["text_prompt_free"]["dice"] == pytest.approx(arms["baseline"]["dice"], abs=0.01)


@pytest.mark.cluster
def test_text_that_decides_nothing_neither_helps_nor_costs(tmp_path: Path) -> None:
    here = ["cluster.num_train_workers=0", "cluster.num_embed_workers=0", "bench.arms=[text_free,hierarchical]"]
    summary, _ = run_demo(tmp_path, "dataset.phantom.cases=360", "dataset.phantom.text_effect=0", *here)
    assert abs(summary["arms"]["hierarchical"]["help"]) < 0.03
    assert abs(summary["arms"]["hierarchical"]["cost_of_wrong"]) < 0.05


@pytest.mark.soak
def test_of_forty_suites_without_an_effect_five_at_most_claim_help(tmp_path: Path) -> None:
    """The 95 % interval claims a gain where there is none in 1 suite of 40, and in more than 5 once in 2,000 trials."""
    small = [
        "dataset.phantom.cases=160",
        "optim.epochs=3",
        "bench.arms=[text_free,hierarchical]",
        "bench.seeds=[0,1,2]",
    ]
    here = ["cluster.num_train_workers=0", "cluster.num_embed_workers=0", "dataset.phantom.text_effect=0"]
    outcomes = []
    for seed in range(40):
        root = f"dataset.root={tmp_path / f'phantom{seed}'}"
        summary, _ = run_demo(tmp_path, root, f"dataset.phantom.seed={seed}", *small, *here)
        (found,) = [found for found in summary["verdicts"] if found["about"] == "help"]
        outcomes.append(found["outcome"])
        print(f"suite {seed}: {found['outcome']}, help {summary['arms']['hierarchical']['help']:+.4f}", flush=True)
    assert outcomes.count(Outcome.GAIN) <= 5
