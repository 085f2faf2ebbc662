import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from messages import check_names
from plugins import write_package
from simulated_suite import Suite

import t2m_bench
from t2m_bench.cli import IN_ORDER_OF_USE, main
from t2m_bench.recipe.schema import PUBLISHED_ADAPTER, load_recipe, parse_recipe
from t2m_bench.reporting.results import find_results
from t2m_bench.search.study import open_study
from t2m_bench.search.sweep import load_sweep

REPOSITORY = Path(__file__).resolve().parents[1]


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from t2m_bench.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def phantoms(tmp_path: Path) -> list[str]:
    return [f"dataset.root={tmp_path / 'data'}", "dataset.phantom.cases=60", "--runs", str(tmp_path / "runs"), "--json"]


def test_help_does_not_import_what_is_heavy() -> None:
    code = "import sys, t2m_bench.cli; print(*{'torch', 'ray', 'pandas', 'pydantic', 'h5py'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
    assert "prepare" in run("--help").stdout


@pytest.mark.parametrize(("asked", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(asked: str | None, found: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "true"} | ({} if asked is None else {"OMP_WAIT_POLICY": asked})
    code = "from t2m_bench.cli import main; main()"  # the device is looked for with torch, which loads OpenMP
    command = [sys.executable, "-c", code, "perf", "step", "--device", "cuda", "--runs", "/nowhere"]
    environment["CUDA_VISIBLE_DEVICES"] = ""
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert f"OMP_WAIT_POLICY = '{found}'" in result.stderr


RECIPES = [path for path in sorted((REPOSITORY / "launch").glob("*.yaml")) if "\ndataset:" in path.read_text()]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_resolve_to_what_they_read(path: Path) -> None:
    done = run("recipe", path, "adapter.fine.heads=4", "--json")
    resolved = json.loads(done.stdout.splitlines()[-1])["recipe"]
    is_published = resolved["adapter"]["preset"] == "published"
    opening = PUBLISHED_ADAPTER["fine"]["gate_init"] if is_published else 0.8
    assert resolved["adapter"]["fine"] == {"tokens": 2, "heads": 4, "gate_init": opening}
    assert yaml.safe_load("\n".join(done.stdout.splitlines()[:-1])) == resolved


def test_prepare_writes_once_and_reuses_after(phantoms: list[str]) -> None:
    first = json.loads(run("prepare", "launch/demo.yaml", *phantoms).stdout.splitlines()[-1])
    assert sum(first["cases"].values()) == 60
    assert first["leaks"] == []
    assert not first["reused"]
    assert (Path(first["folder"]) / "manifest.jsonl").is_file()
    again = run("prepare", "launch/demo.yaml", *phantoms)
    assert json.loads(again.stdout.splitlines()[-1])["reused"]
    assert "reused" in again.stdout.splitlines()[1]


def test_a_changed_folder_is_read_again(phantoms: list[str], tmp_path: Path) -> None:
    first = json.loads(run("prepare", "launch/demo.yaml", *phantoms).stdout.splitlines()[-1])
    table = tmp_path / "data" / "bus_data.csv"
    table.write_text(table.read_text() + "\n")
    again = json.loads(run("prepare", "launch/demo.yaml", *phantoms).stdout.splitlines()[-1])
    assert not again["reused"]
    assert again["folder"] != first["folder"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["prepare", "launch/none.yaml"], {"launch/none.yaml", "recipe"}),
        (["prepare", "launch/bus_bra.yaml", "dataset.root=no-such-folder"], {"no-such-folder", "dataset.root"}),
        (["recipe", "launch/demo.yaml", "optim.epoch=3"], {"optim.epoch", "epochs"}),
        (["phantom", "bus-bra", "unused", "--cases", "2"], {"cases", 2, 5}),
        (["phantom", "nsclc", "unused", "--cases", "4"], {"cases", 4, 5}),
        (["prepare", "launch/nsclc.yaml", "dataset.root=no-such-folder"], {"no-such-folder", "dataset.root"}),
        (["prepare", "launch/nsclc.yaml", "dataset.root=tests"], {"tests", "dataset.clinical"}),
        (["recipe", "launch/nsclc.yaml", "dataset.ct.window=bone"], {"dataset.ct.window", "bone"}),
        (["train", "launch/demo.yaml", "optim.mixed_precision=fp16"], {"optim.mixed_precision", "fp16", "bf16"}),
        (["train", "launch/demo.yaml", "adapter.fine.heads=7"], {"adapter.fine.heads", 7, "width"}),
        (["train", "launch/demo.yaml", "adapter.gated.gate_init=1"], {"adapter.gated.gate_init", 1}),
        (["sweep", "sweeps/none.yaml"], {"sweeps/none.yaml", "sweep"}),
        (["sweep", "sweeps/demo.yaml", "--runs", "s3://bucket/runs"], {"sweep", "--runs", "study"}),
        (["sweep", "sweeps/demo.yaml", "sweep.trial=3"], {"trial", "trials"}),
        (["sweep", "sweeps/demo.yaml", "optim.epoch=3"], {"optim.epoch", "epochs"}),
        (
            ["sweep", "sweeps/demo.yaml", "--strict", "sweep.space.optim.micro_batch_size.choices=[4,16]"],
            {"optim.micro_batch_size", "batch"},
        ),
        (["bench", "launch/demo.yaml", "--deviations", "--part", "1/2"], {"bench", "--deviations", "--part"}),
        (["bench", "launch/demo.yaml", "--plan", "--deviations"], {"bench", "--deviations", "--plan"}),
        (["bench", "launch/demo.yaml", "--part", "3/2"], {"--part", "3/2"}),
        (["bench", "launch/demo.yaml", "--part", "1/2", "--runs", "s3://b/x"], {"--part", "1/2", "--runs"}),
        (["evaluate", "no-such-run"], {"no-such-run/run.json", "absent"}),
        (["report", "no-such-folder"], {"no-such-folder", "experiment.json"}),
        (["report", "--runs", "no-such-folder"], {"no-such-folder", "t2m-bench demo"}),
        (["prepare", "launch/demo.yaml", "--runs", "s3://b/x"], {"prepare", "--runs", "manifest"}),
        (["inspect", "launch/none.yaml"], {"launch/none.yaml", "recipe"}),
        (["inspect", "launch/bus_bra.yaml", "dataset.root=no-such-folder"], {"no-such-folder", "dataset.root"}),
        (["inspect", "launch/demo.yaml", "--cases", "0"], {"inspect", "--cases", 0}),
        (["inspect", "launch/demo.yaml", "--seed", "-1"], {"inspect", "--seed", -1}),
        (["inspect", "launch/demo.yaml", "--runs", "s3://b/x"], {"inspect", "--runs", "images"}),
        (["embed", "launch/demo.yaml", "--runs", "gs://b/x"], {"embed", "--runs", "HDF5"}),
        (["doctor", "launch/demo.yaml", "--runs", "s3://b/x"], {"doctor", "--runs", "mirrors"}),
    ],
)
def test_bad_input_is_one_message_and_exit_code_two(
    arguments: list[str], named: set[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "argv", ["t2m-bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    check_names(errors, *named)
    assert len(errors.strip().splitlines()) == 1


def test_a_process_of_its_own_ends_with_the_same_code_and_message() -> None:
    done = run("prepare", "launch/bus_bra.yaml", "dataset.root=no-such-folder", code=2)
    check_names(done.stderr, "no-such-folder")
    assert len(done.stderr.strip().splitlines()) == 1


def test_small_expectations_of_a_command_line() -> None:
    assert run("--version").stdout.split() == ["t2m-bench", t2m_bench.__version__]
    assert run("-h").stdout == run("--help").stdout
    shown = run("train", "-h").stdout
    assert "recipe RECIPE" in " ".join(shown.replace("│", " ").split())
    listed = re.findall(r"^│ (\w+) ", run("--help").stdout, re.MULTILINE)
    assert listed == list(IN_ORDER_OF_USE)
    assert "--install-completion" in run("--help").stdout


def test_an_empty_sweep_is_not_reported_in_place_of_results(tmp_path: Path) -> None:
    """A sweep that was refused before its first trial leaves a study without any."""
    folder = tmp_path / "sweeps" / "demo"
    folder.mkdir(parents=True)
    loaded = load_sweep(REPOSITORY / "sweeps" / "demo.yaml")
    study = open_study(folder, loaded.sweep, "demo")
    assert find_results(tmp_path) == []
    done = run("report", "--runs", tmp_path, code=2)
    check_names(done.stderr, tmp_path)
    study.ask()
    assert find_results(tmp_path) == [folder]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_gpu_that_is_not_there_is_told_before_any_work(phantoms: list[str], tmp_path: Path, workers: int) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    asked = [f"cluster.{name}={workers}" for name in ("num_train_workers", "num_embed_workers")]
    done = run("train", "launch/demo.yaml", "cluster.use_gpu=true", *asked, *phantoms, code=2)
    check_names(done.stderr, "cluster.use_gpu", "torch")
    assert not (tmp_path / "runs" / "shards").exists()


def test_the_real_folder_prepares_without_a_leak(bus_bra_dev: Path, tmp_path: Path) -> None:
    arguments = [f"dataset.root={bus_bra_dev}", "dataset.test_fold=4", "--runs", tmp_path, "--json"]
    summary = json.loads(run("prepare", "launch/bus_bra.yaml", *arguments).stdout.splitlines()[-1])
    assert sum(summary["cases"].values()) == 1492
    assert summary["leaks"] == []


BROKEN = ("datasets", "image_encoders", "arms", "conditions", "measures")


@pytest.fixture
def broken_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that adds `broken` to each table and cannot be imported, installed for processes of their own."""
    code = "raise ImportError('no such thing\\nas this')"
    points = {f"t2m_bench.{group}": "broken = broken_things:X" for group in BROKEN}
    write_package(tmp_path, "broken_things", code, points)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["phantom", "--help"], ["recipe", "launch/demo.yaml"], ["phantom", "bus-bra", "OUT", "--cases", "5"]],
    ids=" ".join,
)
def test_a_broken_package_stops_no_verb_that_does_not_need_it(arguments: list[str], broken_packages: Path) -> None:
    run(*(str(broken_packages / "out") if argument == "OUT" else argument for argument in arguments))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["phantom", "broken", "OUT"], "data set"),
        (["recipe", "launch/demo.yaml", "dataset.kind=broken"], "data set"),
        (["recipe", "launch/demo.yaml", "image_encoder.preset=broken"], "image encoder"),
        (["bench", "launch/demo.yaml", "bench.arms=[broken]", "--runs", "OUT"], "arm"),
    ],
)
def test_a_broken_package_is_one_message_where_it_is_needed(
    arguments: list[str], what: str, broken_packages: Path
) -> None:
    out = str(broken_packages / "out")
    errors = run(*(out if argument == "OUT" else argument for argument in arguments), code=2).stderr
    check_names(errors, what, "broken-things", "broken_things:X", "ImportError")
    assert len([line for line in errors.splitlines() if line.startswith("t2m-bench:")]) == 1


def test_a_broken_package_costs_a_report_that_does_not_name_its_entries_a_line_each(
    broken_packages: Path, tmp_path: Path
) -> None:
    experiment = Suite(("baseline", "text_free")).write(tmp_path / "runs" / "simulated-00000000")
    lines = run("report", experiment).stderr.splitlines()
    for what in ("arm", "measure"):
        (line,) = [line for line in lines if f"{what} broken" in line]
        check_names(line, "broken-things", "broken_things:X", "ImportError")


def test_names_that_no_verb_knows_are_one_message(tmp_path: Path) -> None:
    check_names(run("phantom", "bus-bar", tmp_path, code=2).stderr, "bus_bar", "bus_bra?")
    check_names(run("fetch", "bus-bar", tmp_path, code=2).stderr, "bus-bar", "bus-bra", "nsclc", "medsam")


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a verb in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["t2m-bench", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_characters_that_the_output_lacks_are_replaced(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On both streams, and for names of files that are not UTF-8 too."""
    written = {"stdout": io.BytesIO(), "stderr": io.BytesIO()}
    for name, stream in written.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding=encoding, errors="strict", write_through=True))
    folder = tmp_path / "→ \udce4"
    assert call(["init", str(folder)], monkeypatch) == 0
    assert (folder / "launch").is_dir()
    (folder / "launch" / "demo.yaml").write_text("changed")
    assert call(["init", str(folder)], monkeypatch) == 0
    assert call(["recipe", str(folder / "launch" / "demo.yaml")], monkeypatch) == 2
    assert b"?" in written["stdout"].getvalue()
    assert b"demo.yaml" in written["stderr"].getvalue()


HOME_COMMANDS = {
    "init": ["init", "~/new"],
    "phantom": ["phantom", "bus-bra", "~/new", "--cases", "10"],
    "runs": ["prepare", "demo", "dataset.root={data}", "dataset.phantom.cases=60", "--runs=~/new"],
    "root": ["prepare", "demo", "dataset.root=~/new", "dataset.phantom.cases=60", "--runs={runs}"],
    "recipe": ["prepare", "~/own.yaml", "--runs={runs}"],
}


@pytest.mark.parametrize("name", HOME_COMMANDS)
def test_a_tilde_is_the_home_folder_wherever_a_path_enters(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    (home / "own.yaml").write_text(
        "name: own\ndataset: {root: ~/new, phantom: {cases: 60}}\ntext_encoder: {name: stand-in}\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    places = {"data": str(tmp_path / "data"), "runs": str(tmp_path / "runs")}
    assert call([part.format(**places) for part in HOME_COMMANDS[name]], monkeypatch) == 0
    assert any((home / "new").iterdir())
    assert list(here.iterdir()) == []


def test_a_folder_named_tilde_can_be_meant_and_a_stranger_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(["init", "./~"], monkeypatch) == 0
    assert (tmp_path / "~" / "launch").is_dir()
    for asked in (["init", "~nobody-here/x"], ["recipe", "demo", "dataset.root=~nobody-here/x"]):
        assert call(asked, monkeypatch) == 2
        check_names(capsys.readouterr().err, "~nobody-here")


def test_every_key_of_a_recipe_that_is_a_path_knows_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    keys = ("dataset.root", "dataset.clinical", "image_encoder.checkpoint", "prompts.file", "text_encoder.name")
    loaded = load_recipe(
        REPOSITORY / "launch" / "demo.yaml", ["image_encoder.preset=vit_b", *[f"{key}=~/x" for key in keys]]
    )
    for key in keys:
        section, _, field = key.partition(".")
        assert str(getattr(getattr(loaded, section), field)) == str(tmp_path / "x"), key
    assert parse_recipe(loaded.model_dump(mode="json"), "again") == loaded
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("name: s\nrecipe: ~/own.yaml\ntrials: 2\nspace: {loss.temperature: {low: 1e-2, high: 1}}\n")
    (tmp_path / "own.yaml").write_text("name: own\ndataset: {root: ~/x}\n")
    assert load_sweep(sweep).recipe.dataset.root == tmp_path / "x"
