"""Every verb on a real pseudo-terminal, to its end: rich draws there, and Ray pickles what lies beside it."""

import re
from pathlib import Path

import pytest
from pty_run import Shown, run_on_pty

from t2m_bench.cli import app

SMALL = ["dataset.root=data", "dataset.phantom.cases=60", "optim.epochs=1"]
WORKERS = ["cluster.num_train_workers=0", "cluster.num_embed_workers=0"]
COUNT = re.compile(r"\b\d+ of \d+\b")


def check(shown: Shown, columns: int, code: int = 0) -> None:
    assert shown.code == code, shown.raw[-3000:]
    assert "Traceback" not in shown.raw
    too_long = [line for line in shown.drawn if len(line.rstrip()) > columns]
    assert not too_long, "a terminal would cut these inside a word"


def copy_recipes(folder: Path) -> None:
    for name in ("launch", "sweeps"):
        (folder / name).symlink_to(Path(__file__).resolve().parents[2] / name)


@pytest.mark.parametrize("columns", [80, 120])
def test_verbs_without_training(tmp_path: Path, columns: int) -> None:
    copy_recipes(tmp_path)
    for arguments in (
        ["--help"],
        ["recipe", "launch/demo.yaml"],
        ["phantom", "bus-bra", "own", "--cases", "10"],
        ["init", "copied"],
        ["prepare", "launch/demo.yaml", *SMALL],
        ["inspect", "launch/demo.yaml", *SMALL, "--cases", "3"],
    ):
        check(run_on_pty(arguments, tmp_path, columns), columns)
    check(run_on_pty(["fetch", "bus-bra", "launch/demo.yaml"], tmp_path, columns), columns, code=2)
    check(run_on_pty(["report"], tmp_path, columns), columns, code=2)


@pytest.mark.cluster
@pytest.mark.parametrize("columns", [80, 120])
def test_every_verb_that_works_on_a_recipe(tmp_path: Path, columns: int) -> None:
    copy_recipes(tmp_path)
    demo = ["launch/demo.yaml", *SMALL]
    check(run_on_pty(["embed", *demo], tmp_path, columns), columns)
    check(run_on_pty(["train", *demo], tmp_path, columns), columns)
    (run,) = (tmp_path / "runs").glob("demo-*/hierarchical-*")
    check(run_on_pty(["evaluate", run.relative_to(tmp_path)], tmp_path, columns), columns)
    check(run_on_pty(["doctor", *demo], tmp_path, columns), columns)
    check(run_on_pty(["perf", "metrics"], tmp_path, columns), columns)
    shown = run_on_pty(["bench", *demo, *WORKERS, "bench.arms=[text_free,gated]"], tmp_path, columns)
    check(shown, columns)
    check(run_on_pty(["report", "--full"], tmp_path, 190), 190)
    image = next((tmp_path / "data" / "Images").iterdir())
    asked = ["--image", image.relative_to(tmp_path), "--box", "40,40,120,110", "--field", "birads=4", "--out", "out"]
    check(run_on_pty(["predict", run.relative_to(tmp_path), *asked], tmp_path, columns), columns)
    check(run_on_pty(["export", run.relative_to(tmp_path), "shared"], tmp_path, columns), columns)


@pytest.mark.cluster
@pytest.mark.parametrize("columns", [80, 120])
def test_the_demo_says_first_what_was_found(tmp_path: Path, columns: int) -> None:
    copy_recipes(tmp_path)
    shown = run_on_pty(["demo", *SMALL], tmp_path, columns)
    check(shown, columns)
    said = shown.lines
    assert len(said) <= 40
    # phrase: the question that the tool is there for opens its answer
    verdict = next(number for number, line in enumerate(said) if line.startswith("Does the text help?"))
    table = next(number for number, line in enumerate(said) if line.split()[:2] == ["Arm", "Dice"])
    report = next(number for number, line in enumerate(said) if line.startswith("report:"))
    assert verdict < table < report
    counts = [line for line in shown.drawn if line.lstrip(" ⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏").startswith("training runs")]
    assert counts
    assert all(COUNT.search(line) for line in counts)
    assert any("epoch 1 of 1" in line for line in counts)


@pytest.mark.cluster
@pytest.mark.parametrize("columns", [80, 120])
def test_a_sweep_runs_to_its_end_and_is_interrupted_and_continued(tmp_path: Path, columns: int) -> None:
    copy_recipes(tmp_path)
    sweep = ["sweep", "sweeps/demo.yaml", *SMALL, "--trials", "3"]
    interrupted = run_on_pty(sweep, tmp_path, columns, interrupt_at="1 of 3")
    check(interrupted, columns, code=130)
    check(run_on_pty(sweep, tmp_path, columns), columns)
    assert (tmp_path / "runs" / "sweeps" / "demo" / "best.yaml").is_file()


@pytest.mark.cluster
def test_ctrl_c_in_a_benchmark_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    copy_recipes(tmp_path)
    bench = ["bench", "launch/demo.yaml", *SMALL, *WORKERS, "optim.epochs=20", "bench.arms=[text_free]"]
    check(run_on_pty(bench, tmp_path, 80, interrupt_at="epoch [1-9] of 20"), 80, code=130)
    (run,) = (tmp_path / "runs").glob("demo-*/text_free-*")
    before = len((run / "history.jsonl").read_text().splitlines())
    assert 1 <= before < 20
    check(run_on_pty(bench, tmp_path, 80), 80)
    assert len((run / "history.jsonl").read_text().splitlines()) > before


def test_every_verb_is_tried() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    verbs = {str(command.callback.__name__) for command in app.registered_commands if command.callback}
    assert not {verb for verb in verbs if f'"{verb}"' not in source}
