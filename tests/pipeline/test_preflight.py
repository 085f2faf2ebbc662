"""What can fail early fails before a data set is read: nothing of it, and no embedding, lies in the runs folder."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from messages import check_names, raises_naming
from plugins import install

from t2m_bench.cli import main
from t2m_bench.cluster.session import check_socket_path
from t2m_bench.errors import ClusterError, RecipeError
from t2m_bench.models import box_unet
from t2m_bench.models.sam import build_sam
from t2m_bench.pipeline.preflight import check_encoder_package, check_entries, check_packages
from t2m_bench.recipe.encoders import IMAGE_ENCODERS
from t2m_bench.recipe.schema import Recipe, load_recipe

VERBS = ("embed", "train", "bench")


def refuse(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one message of a command that is refused with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["t2m-bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return errors


def command(verb: str, folder: Path, *overrides: str) -> list[str]:
    data = [f"dataset.root={folder / 'data'}", "dataset.phantom.cases=60"]
    return [verb, "demo", *data, *overrides, "--runs", str(folder / "runs")]


def assert_nothing_was_done(folder: Path) -> None:
    assert not (folder / "data").exists(), "not even the phantoms are written"
    made = [path for path in (folder / "runs").rglob("*") if path.is_file()] if (folder / "runs").exists() else []
    assert not [path for path in made if "prompt_banks" not in path.parts]


@pytest.mark.parametrize("verb", VERBS)
def test_an_absent_text_encoder(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    name = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
    said = refuse(command(verb, tmp_path, f"text_encoder.name={name}"), monkeypatch, capsys)
    assert name in said
    assert "t2m-bench fetch pubmedbert" in said  # phrase: a command that users type as it is shown
    assert_nothing_was_done(tmp_path)
    (tmp_path / "empty").mkdir()
    said = refuse(command(verb, tmp_path, f"text_encoder.name={tmp_path / 'empty'}"), monkeypatch, capsys)
    assert str(tmp_path / "empty") in said
    assert_nothing_was_done(tmp_path)


@pytest.mark.parametrize("verb", VERBS)
def test_absent_cut_and_foreign_weights(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.pth"
    asked = command(verb, tmp_path, "image_encoder.preset=vit_b", f"image_encoder.checkpoint={path}")
    said = refuse(asked, monkeypatch, capsys)
    assert str(path) in said
    assert "t2m-bench fetch medsam" in said  # phrase: a command that users type as it is shown
    torch.save(build_sam("mini").state_dict(), path)
    said = refuse(asked, monkeypatch, capsys)
    assert str(path) in said
    assert "vit_b" in said
    path.write_bytes(path.read_bytes()[:100_000])
    assert str(path) in refuse(asked, monkeypatch, capsys)
    assert_nothing_was_done(tmp_path)


@pytest.mark.parametrize("verb", VERBS)
def test_another_file_than_the_pinned_one(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fine-tune has the right names and shapes; it is refused before the data set is read."""
    pytest.importorskip("timm")
    path = tmp_path / "weights.pth"
    torch.save(build_sam("lite_medsam").state_dict(), path)
    asked = command(verb, tmp_path, "image_encoder.preset=lite_medsam", f"image_encoder.checkpoint={path}")
    said = refuse(asked, monkeypatch, capsys)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    check_names(said, path, found, IMAGE_ENCODERS.find("lite_medsam").sha256)
    assert_nothing_was_done(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_runs_in_a_folder_of_another_user(tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    owned.mkdir(mode=0o700)
    code = (
        "import os, sys; from pathlib import Path; from t2m_bench.pipeline.preflight import check_folders\n"
        "os.setuid(65534)\n"
        "try: check_folders(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    for runs in (owned / "runs", owned):
        done = subprocess.run([sys.executable, "-c", code, runs], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("RunFolderError"), done
        check_names(done.stdout, runs)


def test_an_absent_package_of_an_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(box_unet.importlib.util, "find_spec", lambda name: None)
    for asked in (command("bench", tmp_path, "bench.arms=unet"), command("train", tmp_path, "adapter.kind=unet")):
        assert "[unet]" in refuse(asked, monkeypatch, capsys)
    assert_nothing_was_done(tmp_path)
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("name: s\nrecipe: demo\ntrials: 2\nspace: {adapter.kind: {choices: [gated, unet]}}\n")
    asked = ["sweep", str(sweep), f"dataset.root={tmp_path / 'data'}", "--runs", str(tmp_path / "runs")]
    assert "[unet]" in refuse(asked, monkeypatch, capsys)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("verb", [*VERBS, "prepare"])
def test_folders_that_take_no_file(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("a file, no folder")
    assert str(tmp_path / "runs") in refuse(command(verb, tmp_path), monkeypatch, capsys)
    (tmp_path / "runs").unlink()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    assert "TMPDIR" in refuse(command(verb, tmp_path), monkeypatch, capsys)
    assert_nothing_was_done(tmp_path)


def test_a_disk_that_embeddings_do_not_fit_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full:
        free = 1000

    monkeypatch.setattr("t2m_bench.pipeline.embed.shutil.disk_usage", lambda path: Full)
    said = refuse(command("embed", tmp_path, "cluster.num_embed_workers=0"), monkeypatch, capsys)
    assert "GiB" in said
    assert "--runs" in said
    assert not list((tmp_path / "runs").rglob("*.h5")) or all(
        "prompt_banks" in path.parts for path in (tmp_path / "runs").rglob("*.h5")
    )


@pytest.mark.parametrize("part", ["0/4", "5/4", "x", "1", "1/0", "-1/4"])
def test_a_part_that_is_none(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*command("bench", tmp_path), f"--part={part}"]
    assert part in refuse(asked, monkeypatch, capsys)
    assert_nothing_was_done(tmp_path)


THEIRS = """
from t2m_bench.recipe.arms import ArmEntry
from t2m_bench.recipe.conditions import ConditionEntry
from t2m_bench.recipe.encoders import ImageEncoder
from t2m_bench.recipe.measures import MeasureEntry

NEEDS = dict(package="no_such_module", install="theirs[all]")
ARM = ArmEntry("theirs", "theirs", **NEEDS)
ENCODER = ImageEncoder("theirs", "theirs:build", 256, 16, "a file", "CC0", "none", **NEEDS)
CONDITION = ConditionEntry("theirs", "theirs:no_draw")
MEASURE = MeasureEntry("theirs", "no_such_module:get")
"""


def load_demo(*overrides: str) -> Recipe:
    return load_recipe(Path(__file__).resolve().parents[2] / "launch" / "demo.yaml", overrides)


def test_entries_of_other_packages_say_how_what_they_need_is_installed(tmp_path: Path) -> None:
    points = {"t2m_bench.arms": "theirs = theirs:ARM", "t2m_bench.image_encoders": "theirs = theirs:ENCODER"}
    with install(tmp_path, "theirs", THEIRS, points):
        for check in (lambda: check_packages(["theirs"]), lambda: check_encoder_package("theirs")):
            with raises_naming(RecipeError, "theirs", "no_such_module", "theirs[all]"):
                check()


@pytest.mark.parametrize(
    ("point", "overrides", "named"),
    [
        ({"t2m_bench.conditions": "theirs = theirs:CONDITION"}, ["bench.conditions=[right,theirs]"], "theirs:no_draw"),
        ({"t2m_bench.measures": "theirs = theirs:MEASURE"}, [], "no_such_module:get"),
    ],
)
def test_code_that_is_not_there_is_refused_before_any_work(
    tmp_path: Path, point: dict[str, str], overrides: list[str], named: str
) -> None:
    check_entries(load_demo())
    with install(tmp_path, "theirs", THEIRS, point), raises_naming(RecipeError, named):
        check_entries(load_demo(*overrides))


@pytest.mark.parametrize("option", ["num_train_workers=2", "num_embed_workers=1", "num_bench_workers=1"])
def test_a_folder_of_temporary_files_whose_name_is_too_long_for_sockets(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = tmp_path / "x" / ("é" * 20)
    deep.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    verb = "bench" if "bench" in option else "train"
    said = refuse(command(verb, tmp_path, f"cluster={{{option.replace('=', ': ')}}}"), monkeypatch, capsys)
    check_names(said, "TMPDIR", len(os.fsencode(str(deep))), "TMPDIR=/tmp")
    assert_nothing_was_done(tmp_path)


def test_a_name_that_is_just_short_enough_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/" + 200 * "x")
    with pytest.raises(ClusterError) as caught:
        check_socket_path()
    room = int(re.findall(r"at most (\d+)", str(caught.value))[0])
    monkeypatch.setattr("tempfile.tempdir", "/" + (room - 1) * "x")
    check_socket_path()
    monkeypatch.setattr("tempfile.tempdir", "/" + room * "x")
    with raises_naming(ClusterError, "TMPDIR", room + 1, room):
        check_socket_path()
