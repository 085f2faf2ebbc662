import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from messages import check_names

from t2m_bench.cli import main
from t2m_bench.errors import UserError
from t2m_bench.perf import everything
from t2m_bench.perf.embed import measure_embed
from t2m_bench.perf.epoch import measure_epoch
from t2m_bench.perf.everything import WORKS, format_table, measure_all
from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement, Row, Seconds, measure
from t2m_bench.perf.scaling import measure_scaling
from t2m_bench.pipeline.sweep_perf import measure_sweep


def make_measurement(name: str) -> Measurement:
    rows = (Row(PLAIN, "a", 4.0, 3, 5), Row(OURS, "b", 2.0, 1.5, 2.5), Row(LIMIT, "c", 1.0, 1, 1))
    return Measurement(name, "here", rows)


def test_the_table_has_a_row_for_each_setting_and_says_what_is_not_in_it() -> None:
    step = make_measurement("step").with_others(make_measurement("step bf16"))
    shards = replace(make_measurement("shards"), lacking=("webdataset",))
    lines = format_table([step, shards], {"metrics": "no MONAI"}).splitlines()
    ratios = ["4,000 ms", "2,000 ms (1,500 to 2,500)", "1,000 ms", "2.00", "0.50"]
    for line, name in ((lines[2], "step"), (lines[3], "step bf16")):
        setting, command, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert setting == f"{name}: here"
        assert command.strip("`").split() == ["t2m-bench", "perf", "step"]
        assert cells == ratios
    *_, beside, absent = lines
    check_names(beside, "shards", "webdataset")
    check_names(absent, "metrics", "no MONAI")
    assert "metrics" not in format_table([step], {})


def test_all_measures_what_it_can_and_writes_it_down_after_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failures = {
        "embed": ModuleNotFoundError("no elsewhere", name="elsewhere"),
        "epoch": AssertionError("losses differ"),
        "eval": ModuleNotFoundError("no nowhere", name="t2m_bench.nowhere"),
        "metrics": UserError("no MONAI"),
    }
    written = []

    def measure_small(work: str, device: str) -> Measurement:
        if (tmp_path / "perf.json").is_file():
            written.append(len(json.loads((tmp_path / "perf.json").read_text())["measurements"]))
        if work in failures:
            raise failures[work]
        return make_measurement(f"{work} on {device}")

    monkeypatch.setattr("t2m_bench.perf.everything.find_measure", lambda work: partial(measure_small, work))
    monkeypatch.setattr(
        "t2m_bench.pipeline.sweep_perf.measure_sweep", lambda sweep, device: measure_small("sweep", device)
    )
    monkeypatch.setattr("t2m_bench.perf.everything.check_device", lambda device: None)
    arguments = ["perf", "all", "--device", "cuda", "--json", "--runs", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["t2m-bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    content = json.loads((tmp_path / "perf.json").read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == content
    names = [one["name"] for one in content["measurements"]]
    others = [work for work in (*WORKS, "sweep") if work not in failures]
    assert names == [f"{work} on {'cuda' if work in everything.ON_DEVICE else 'cpu'}" for work in others]
    told = content["not_measured"]
    assert told.keys() == failures.keys()
    assert (told["embed"], told["metrics"]) == ("no elsewhere", "no MONAI")
    check_names(told["epoch"], "failed", "AssertionError", "losses differ")
    check_names(told["eval"], "failed", "ModuleNotFoundError", "no nowhere")
    assert written == [1, 2, 2, 2, 2, 2, 3, 4]
    check_names((tmp_path / "perf.md").read_text().splitlines()[-1], "metrics", "no MONAI")


def test_what_is_not_installed_is_no_failure(tmp_path: Path) -> None:
    def lack(device: str) -> Measurement:
        raise UserError("no MONAI")

    assert not measure_all("cpu", tmp_path, {"step": lambda device: make_measurement("step"), "metrics": lack})


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    begun: list[str] = []
    with pytest.raises(OSError, match="file"):
        measure_all("cpu", tmp_path / "file", {"step": lambda device: begun.append(device) or make_measurement("step")})
    assert not begun


def test_a_gpu_that_is_not_there_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["t2m-bench", "perf", "all", "--device", "cuda", "--runs", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    check_names(capsys.readouterr().err, "--device", "cuda", "torch")
    assert not list(tmp_path.iterdir())


def test_work_that_times_itself_is_believed() -> None:
    found = measure("x", "", {(PLAIN, "p"): lambda: Seconds(3.0), (OURS, "o"): lambda: 5.0}, repeats=1)
    assert found.median(PLAIN) == 3.0
    assert found.median(OURS) < 1.0


def test_an_epoch_from_shards_has_the_loss_of_one_with_the_encoder() -> None:
    found = measure_epoch("cpu", preset="mini", repeats=1)
    assert {row.way for row in found.rows} == {PLAIN, OURS, LIMIT}


def test_embedding_stores_what_the_plain_way_stores() -> None:
    found = measure_embed("cpu", num_cases=5, repeats=1)
    assert {row.way for row in found.rows} == {PLAIN, OURS, LIMIT}


@pytest.mark.cluster
def test_two_workers_train_beside_one_to_the_same_loss() -> None:
    found = measure_scaling("cpu", grid=4, batch_size=4, num_steps=1, repeats=1)
    assert [row.way for row in found.rows] == [PLAIN, OURS, LIMIT, LIMIT]
    apart, half = found.rows[2:]
    assert half.median_s == pytest.approx(found.rows[0].median_s / 2)
    assert found.of_limit == pytest.approx(min(apart.median_s, half.median_s) / found.rows[1].median_s)


@pytest.mark.soak  # a minute and more: a TorchTrainer a trial is what it measures
def test_trials_are_measured_each_way_and_found_to_be_the_same() -> None:
    measured = measure_sweep(Path("sweeps/demo.yaml"), "cpu", plain_trials=1, our_trials=2)
    assert [row.way for row in measured.rows] == [PLAIN, OURS, LIMIT]
    assert measured.speedup > 1
