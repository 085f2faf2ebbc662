"""Recipes, sweeps and job scripts: found from any folder, copied out, and inside the wheel."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from t2m_bench import shipped
from t2m_bench.cli import main
from t2m_bench.errors import RecipeError
from t2m_bench.recipe.schema import load_recipe
from t2m_bench.search.sweep import load_sweep
from t2m_bench.shipped import copy_shipped, find_file, find_folder, list_names

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("given", ["launch/demo.yaml", "launch/demo", "demo", "demo.yaml"])
def test_a_shipped_recipe_is_found_from_any_folder(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe(find_file(Path(given), "launch")).name == "demo"


def test_a_users_own_file_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "launch" / "demo.yaml"
    own.parent.mkdir()
    own.write_text("name: mine\n")
    for given in ("launch/demo.yaml", "launch/demo", "demo"):
        assert find_file(Path(given), "launch").resolve() == own
    (tmp_path / "demo").mkdir()  # a folder of that name is no recipe
    assert find_file(Path("demo"), "launch").resolve() == own


@pytest.mark.parametrize(
    "given", ["dmo", "launch/dmo.yaml", "../demo.yaml", "launch/../../x.yaml", "/nowhere/demo.yaml"]
)
def test_what_is_neither_is_refused_and_the_shipped_ones_are_named(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as raised:
        find_file(Path(given), "launch")
    assert given in str(raised.value)
    assert all(name in str(raised.value) for name in ("demo", "bus_bra", "nsclc"))


def test_files_for_other_programs_are_no_recipes() -> None:
    assert {"demo", "bus_bra", "nsclc"} <= set(list_names("launch"))
    assert not {"kuberay", "ray-cluster"} & set(list_names("launch"))
    assert {"demo", "bus_bra", "bus_bra_lite", "nsclc"} == set(list_names("sweeps"))


def test_a_sweep_of_ones_own_names_a_shipped_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("name: mine\nrecipe: demo\ntrials: 2\nspace: {optim.epochs: {choices: [1, 2]}}\n")
    loaded = load_sweep(Path("mine.yaml"), ["sweep.scheduler.kind=none"])
    assert loaded.recipe.name == "demo"


def test_the_packages_copy_is_read_before_the_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_folder("launch") == REPOSITORY / "launch"
    (tmp_path / "launch").mkdir()
    monkeypatch.setattr(shipped, "PACKAGED", tmp_path)
    assert find_folder("launch") == tmp_path / "launch"


def test_a_copy_keeps_what_was_changed_and_renews_what_was_not(tmp_path: Path) -> None:
    first = copy_shipped(tmp_path)
    assert not first.kept
    train, site, recipe = (tmp_path / name for name in ("slurm/train.sh", "slurm/site.sh", "launch/demo.yaml"))
    assert os.access(train, os.X_OK)
    site.write_text(site.read_text() + "SITE=mine\n")
    recipe.write_text("name: of an earlier version\n")
    record = json.loads((tmp_path / ".t2m-bench.json").read_text())
    record["launch/demo.yaml"] = hashlib.sha256(recipe.read_bytes()).hexdigest()
    (tmp_path / ".t2m-bench.json").write_text(json.dumps(record))
    again = copy_shipped(tmp_path)
    assert again.kept == (site,)
    assert "SITE=mine" in site.read_text()
    assert load_recipe(recipe).name == "demo"
    (tmp_path / ".t2m-bench.json").unlink()
    assert copy_shipped(tmp_path).kept == (site,)


@pytest.mark.parametrize("name", ["slurm/train.sh", "launch/nsclc.yaml"])
def test_an_interrupted_copy_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    copy = shutil.copy

    def fill_disk(source: Path, there: Path) -> None:
        copy(source, there)
        if source.match(name):
            os.truncate(there, 200)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy", fill_disk)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            copy_shipped(tmp_path)
    assert not (tmp_path / name).exists()
    record = json.loads((tmp_path / ".t2m-bench.json").read_text())
    there = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert there == {*record, ".t2m-bench.json"}
    later = copy_shipped(tmp_path)
    assert not later.kept
    assert (tmp_path / name).read_bytes() == (REPOSITORY / name).read_bytes()
    assert (tmp_path / name).stat().st_mode == (REPOSITORY / name).stat().st_mode


def test_init_in_the_checkout_itself_leaves_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in shipped.FOLDERS:
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    monkeypatch.setattr(shipped, "CHECKOUT", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["t2m-bench", "init", ".", "--json"])
    assert not _run_main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["written"], found["kept"]) == (0, [])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "launch").symlink_to(tmp_path / "launch")
    copied = copy_shipped(tmp_path / "own")
    assert {path.parent.name for path in copied.written} >= {"slurm", "sweeps"}
    assert {path.parts[-2] for path in copied.same} >= {"launch"}


def _run_main() -> object:
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_init_prints_the_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "slurm").mkdir()
    (folder / "slurm" / "site.sh").write_text("# mine\n")
    monkeypatch.setattr(sys, "argv", ["t2m-bench", "init", str(folder)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    printed, said = capsys.readouterr()
    assert printed == f"{folder}\n"
    assert "site.sh" in said
    assert (folder / "slurm" / "site.sh").read_text() == "# mine\n"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment into which the wheel is installed; it shares this one's other packages."""
    folder = tmp_path_factory.mktemp("fresh")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, REPOSITORY]
    subprocess.run(build, check=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    (wheel,) = folder.glob("*.whl")
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    ).stdout.strip()
    Path(packages, "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # after the fresh one's own
    return folder


@pytest.mark.cluster
def test_the_wheel_works_in_another_folder(fresh: Path, tmp_path: Path) -> None:
    bin_folder = fresh / "venv" / "bin"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        command = [bin_folder / "python", bin_folder / "t2m-bench", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import t2m_bench, t2m_bench.shipped as s; print(t2m_bench.__file__); print(s.find_folder('slurm'))"
    asked = [bin_folder / "python", "-c", where]
    found = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert all(line.startswith(str(fresh)) for line in found.stdout.splitlines()), found
    assert run("init", "own") == "own\n"
    assert all(os.access(tmp_path / "own" / "slurm" / name, os.X_OK) for name in ("train.sh", "bench.sh", "node.sh"))
    assert (tmp_path / "own" / "launch" / "deepspeed" / "zero1.json").is_file()
    small = ["dataset.root=data", "dataset.phantom.cases=60", "optim.epochs=1"]
    assert json.loads(run("doctor", "--json").splitlines()[-1])["problems"] == []
    run("demo", *small)
    run("sweep", "sweeps/demo.yaml", *small, "--trials", "2")
    run("train", "demo", *small, "cluster.deepspeed=zero1")  # its settings are in the wheel too
