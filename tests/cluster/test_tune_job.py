"""Sweeps on a real Ray in processes of their own: killed, stopped, resumed, and with trials that cannot end well."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from messages import check_names, is_named
from optuna.trial import TrialState
from ray_nodes import ray_nodes

from t2m_bench.cli import WORKERS_LOST_EXIT_CODE
from t2m_bench.recipe.schema import load_recipe
from t2m_bench.search.study import MEMBERS, REASON, has_study, load_studies

REPOSITORY = Path(__file__).resolve().parents[2]

SPACE = {
    "adapter.kind": {"choices": ["gated", "hierarchical"]},
    "adapter.fine.gate_init": {"low": 0.1, "high": 0.9, "when": {"adapter.kind": "hierarchical"}},
    "optim.learning_rate": {"low": 3e-4, "high": 1e-2, "log": True},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose runs share phantoms and embeddings."""
    return tmp_path_factory.mktemp("sweeps")


def write_sweep(place: Path, name: str, **changes: Any) -> Path:
    raw = {
        "name": name,
        "recipe": str(REPOSITORY / "launch" / "demo.yaml"),
        "overrides": [
            f"dataset.root={place / 'data'}",
            "dataset.phantom.cases=40",
            "optim.epochs=2",
            "optim.warmup_steps=2",
            "cluster.num_train_workers=0",
            "cluster.num_embed_workers=0",
        ],
        "space": SPACE,
        "sampler": {"kind": "random"},
        "concurrency": 1,
        "refit": {"seeds": [0]},
    }
    path = place / f"{name}.yaml"
    path.write_text(yaml.safe_dump(raw | changes, sort_keys=False))
    return path


def start(
    place: Path, path: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from t2m_bench.cli import main; main()", "sweep", str(path), *arguments]
    command += ["--runs", str(place / "runs"), "--json"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place, env=environment
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[dict[str, Any], str, str]:
    printed, errors = process.communicate(timeout=400)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    return json.loads(printed.splitlines()[-1]) if code == 0 else {}, printed, errors


def load(place: Path, name: str) -> optuna.Study:
    return load_studies(place / "runs" / "sweeps" / name)[name]


def wait_for(place: Path, name: str, process: subprocess.Popen[str], finished: int, epochs: int = 0) -> None:
    """Return when a trial that reported so many epochs runs beside so many finished ones."""
    folder = place / "runs" / "sweeps" / name
    while process.poll() is None:
        if has_study(folder):
            trials = load_studies(folder).get(name, optuna.create_study()).trials
            running = [trial for trial in trials if trial.state is TrialState.RUNNING and trial.params]
            running = [trial for trial in running if len(trial.intermediate_values) >= epochs]
            if running and sum(trial.state.is_finished() for trial in trials) >= finished:
                return
        time.sleep(0.1)
    pytest.fail(f"ended too early: {process.communicate()}")


def kill_running_trial(place: Path, name: str, driver: int, trial: int) -> int:
    """Kill the process of this trial or of a later one and return the trial's number.

    A short trial may end before it is seen to run: its process is halted first, and killed only while it is at work.
    """
    while True:
        pid = find_trial_process(driver)
        os.kill(pid, signal.SIGSTOP)
        running = [one.number for one in load(place, name).trials if one.state is TrialState.RUNNING and one.params]
        if running and running[0] >= trial:
            os.kill(pid, signal.SIGKILL)
            return running[0]
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.1)


def find_trial_process(driver: int) -> int:
    """Return the process that trains a trial, once that of the trial before is gone.

    It bears its name from the actor's first call on.
    """
    for _ in range(300):
        listing = subprocess.run(
            ["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
        ).stdout
        rows = [line.split(None, 2) for line in listing.splitlines()[1:]]
        parent = {pid: ppid for pid, ppid, *_ in rows}
        found = []
        for pid, *_ in (row for row in rows if len(row) == 3 and "ray::TrialTrainable" in row[2]):
            above = pid
            while above in parent and above != str(driver):
                above = parent[above]
            if above == str(driver):
                found.append(int(pid))
        if len(found) == 1:
            return found[0]
        time.sleep(0.1)
    pytest.fail(f"not one trial's process under {driver}: {found} of {listing}")


class Trap:
    """Runs code when unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self._path,))


def test_the_same_seed_gives_the_same_trials_and_winner_whatever_kills_the_driver(place: Path) -> None:
    asked = ("optim.epochs=8", "--trials", "4")  # so long that a trial that is seen to run is still there when killed
    undisturbed, _, _ = finish(start(place, write_sweep(place, "a"), *asked))
    assert undisturbed["trials"] == 4 == sum(undisturbed["states"].values())
    assert undisturbed["study"] == "a"
    path = write_sweep(place, "b")
    process = start(place, path, *asked)
    wait_for(place, "b", process, 1, epochs=1)  # all its values are drawn; test_study.py kills amid the drawing
    process.kill()
    process.communicate(timeout=60)
    sprung = place / "sprung"
    old = place / "runs" / "sweeps" / "b" / ".ray" / "old"
    old.mkdir(parents=True)
    for name in ("tuner.pkl", "trainable.pkl", "searcher-state-x.pkl", "search_gen_state-x.json"):
        (old / name).write_bytes(pickle.dumps(Trap(sprung)))
    resumed, _, _ = finish(start(place, path, *asked))
    assert not sprung.exists()
    assert resumed["states"] == undisturbed["states"]
    assert undisturbed["states"]["PRUNED"] > 0
    study = load(place, "b")
    lost = [trial for trial in study.trials if trial.user_attrs.get(REASON) == "interrupted"]
    counted = [trial for trial in study.trials if trial not in lost]
    assert len(lost) == 1
    assert all(trial.state.is_finished() for trial in study.trials)
    again = [trial for trial in counted if trial.user_attrs.get("again") == lost[0].number]
    assert [trial.params for trial in again] == [lost[0].params]
    ends = [(trial.params, trial.state, trial.intermediate_values, trial.values) for trial in load(place, "a").trials]
    assert [(trial.params, trial.state, trial.intermediate_values, trial.values) for trial in counted] == ends
    assert resumed["best"]["params"] == undisturbed["best"]["params"]


def test_a_killed_trial_is_failed_with_its_reason_and_ctrl_c_leaves_a_study_that_goes_on(place: Path) -> None:
    long = {"scheduler": {"kind": "none"}}  # with more epochs: a trial that is seen to run is still there when killed
    path = write_sweep(place, "c", **long)
    process = start(place, path, "optim.epochs=20", "--trials", "4")
    wait_for(place, "c", process, 1, epochs=1)  # the second trial's own process is at work
    number = kill_running_trial(place, "c", process.pid, 1)
    wait_for(place, "c", process, number + 1)  # the study went on
    states = [trial.state.name for trial in load(place, "c").trials]
    assert states[: number + 1] == ["COMPLETE"] * number + ["FAIL"]
    process.send_signal(signal.SIGINT)
    _, _, errors = finish(process, code=130)
    check_names(errors, "SIGINT")
    assert not load(place, "c").get_trials(states=(TrialState.RUNNING,))
    summary, printed, _ = finish(start(place, path, "optim.epochs=20", "--trials", "4"))
    assert "continuing" in printed
    assert summary["trials"] == 4
    assert summary["states"]["FAIL"] == 1
    reasons = [trial.user_attrs[REASON] for trial in load(place, "c").trials if trial.state is TrialState.FAIL]
    (killed,) = [reason for reason in reasons if reason != "interrupted"]
    assert "died" in killed
    space = SPACE | {"optim.learning_rate": {"low": 3e-4, "high": 2e-2, "log": True}}
    changed = write_sweep(place, "c", space=space, **long)
    _, _, errors = finish(start(place, changed, "optim.epochs=20", "--trials", "9"), code=2)
    check_names(errors, "space.optim.learning_rate.high", 0.01, 0.02)
    assert len(errors.strip().splitlines()) == 1


def test_a_nan_and_a_lack_of_memory_are_failures_with_reasons_and_the_winner_is_refitted(place: Path) -> None:
    space = {
        "optim.learning_rate": {"choices": [1e-3, 1e30]},
        "adapter.inner_width": {"choices": [128, 2**40]},  # more than an address space holds
    }
    path = write_sweep(place, "e", space=space, sampler={"kind": "grid"}, trials=4, storage="sqlite")
    _, *told = finish(start(place, path, environment=os.environ | {"T2M_SAVED": str(place / "saved")}))
    assert (place / "saved").is_file(), "a cluster's job is told of each trial"
    logged = (place / "runs" / "sweeps" / "e" / "ray.log").read_text()
    assert "trial" in logged.lower(), "Ray's own words"
    assert not {*logged.splitlines()} & {*"\n".join(told).splitlines()}
    summary, printed, _ = finish(start(place, path, "--refit", "--trials", "2"))  # of a study that has four
    assert summary["states"] == {"COMPLETE": 1, "PRUNED": 0, "FAIL": 3}
    reasons = {
        (trial.params["optim.learning_rate"], trial.params["adapter.inner_width"]): trial.user_attrs.get(REASON, "")
        for trial in load(place, "e").trials
    }
    check_names(reasons[(1e30, 128)], "UserError: seed0-split0", "loss")
    assert all(is_named(reasons[(rate, 2**40)], "out of") for rate in (1e-3, 1e30))
    assert summary["best"]["params"] == {"optim.learning_rate": 1e-3, "adapter.inner_width": 128}
    best = load_recipe(Path(summary["best"]["recipe"]))
    assert (best.optim.learning_rate, best.adapter.inner_width) == (1e-3, 128)
    refit = Path(summary["refit"])
    runs = [json.loads(path.read_text()) for path in refit.glob("*/run.json")]
    assert sorted(run["arm"] for run in runs) == ["hierarchical", "text_free"]
    (winner,) = [run for run in runs if run["arm"] == "hierarchical"]
    assert winner["val_dice"] == pytest.approx(summary["best"]["values"]["val_dice"], abs=0.01)  # other threads
    free = load_studies(place / "runs" / "sweeps" / "e")["e-text_free"]
    assert len(free.trials) == 4
    report = (refit / "report" / "report.md").read_text()
    assert "| e-text_free | text_free | 4 |" in report
    check_names(report, "memory")
    assert "report:" in printed


def test_a_trial_may_be_a_group_of_workers(place: Path) -> None:
    changes = {"scheduler": {"kind": "none"}, "objectives": {"val_dice": "maximize", "val_reliance": "minimize"}}
    path = write_sweep(place, "f", seeds=[0, 1], **changes)
    summary, _, _ = finish(start(place, path, "cluster.num_train_workers=2", "optim.epochs=1", "--trials", "2"))
    assert summary["states"]["COMPLETE"] == 2
    for trial in load(place, "f").trials:
        assert list(trial.user_attrs[MEMBERS]) == ["seed0-split0", "seed1-split0"]
        assert trial.values[0] == pytest.approx(sum(trial.user_attrs[MEMBERS].values()) / 2)
    too_many = write_sweep(place, "g")
    _, _, errors = finish(start(place, too_many, "cluster.num_train_workers=512"), code=2)
    check_names(errors, "512 processes", "1 CPUs")


@pytest.mark.soak
def test_a_lost_node_costs_no_trial_and_ends_a_sweep_that_has_no_room_left(place: Path, tmp_path: Path) -> None:
    noted = tmp_path / "node.pid"
    noting = ("sh", "-c", f'echo $$ > {noted}; exec "$@"', "sh")
    path = write_sweep(place, "lost")
    with ray_nodes([], noting) as environment:
        waiting = environment | {"T2M_LOST_SECONDS": "3", "T2M_SAVED": str(place / "saved-by-lost")}
        process = start(place, path, "cluster.num_train_workers=2", "--trials", "3", environment=waiting)
        wait_for(place, "lost", process, 1)
        os.killpg(int(noted.read_text()), signal.SIGKILL)
        _, errors = process.communicate(timeout=240)
    assert process.returncode == WORKERS_LOST_EXIT_CODE, errors
    check_names(errors, "nodes", "no trial")
    ended = load(place, "lost").trials
    assert {trial.state.name for trial in ended} == {"COMPLETE", "FAIL", "WAITING"}
    assert {trial.user_attrs[REASON] for trial in ended if trial.state is TrialState.FAIL} == {"interrupted"}
    assert (place / "saved-by-lost").is_file(), "the job's script counts losses since a trial last ended"
    summary, _, _ = finish(start(place, path, "cluster.num_train_workers=2", "--trials", "3"))
    assert (summary["trials"], summary["states"]["FAIL"]) == (3, 0)


@pytest.mark.soak
def test_the_demo_sweep_takes_minutes_and_loses_nothing(tmp_path: Path) -> None:
    summaries = []
    for name in ("first", "second"):
        arguments = [f"dataset.root={tmp_path / 'data'}", f"sweep.name={name}"]
        summaries.append(finish(start(tmp_path, REPOSITORY / "sweeps" / "demo.yaml", *arguments))[0])
    first, second = (load(tmp_path, name) for name in ("first", "second"))
    assert [(t.params, t.values, t.state) for t in first.trials] == [
        (t.params, t.values, t.state) for t in second.trials
    ]
    assert summaries[0]["trials"] == 24
