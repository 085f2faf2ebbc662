"""Names, private ones among them, that packages below us must have; pyproject.toml caps those that may rename them.

PyTorch is not capped: its private names are looked up, and the code goes another way where one is gone.
"""

import importlib
import inspect
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
import torch
from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
from messages import raises_naming
from torch.utils import cpp_extension

from t2m_bench.errors import RecipeError
from t2m_bench.training.compiling import compile_forward
from t2m_bench.training.process_group import ProcessGroup, find_build_folder


def is_keyword_of_ray(name: str) -> bool:
    return f'"{name}"' in inspect.getsource(ray.init)  # which takes such names out of its **kwargs


REPOSITORY = Path(__file__).resolve().parents[1]

NAMES: dict[str, tuple[str, Callable[[], bool]]] = {
    "optuna Study._storage": ("search/study.py", lambda: hasattr(optuna.create_study(), "_storage")),
    "optuna Trial._trial_id": ("search/study.py", lambda: hasattr(optuna.create_study().ask(), "_trial_id")),
    "ray.init(_temp_dir=)": ("cluster/session.py", lambda: is_keyword_of_ray("_temp_dir")),
    "ray.init(_node_ip_address=)": ("cluster/session.py", lambda: is_keyword_of_ray("_node_ip_address")),
    "deepspeed.comm.torch.build_shm_op": (
        "training/process_group.py",
        lambda: hasattr(importlib.import_module("deepspeed.comm.torch"), "build_shm_op"),
    ),
    "deepspeed ShareMemCommBuilder.NAME": (
        "training/process_group.py",
        lambda: isinstance(ShareMemCommBuilder.NAME, str),
    ),
}
"""What is used -> where in t2m_bench, and whether it is there."""


def test_the_oldest_versions_that_are_tested_are_the_floors() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    floors = {
        found[1]: found[2]
        for requirement in (*project["dependencies"], *(item for extra in extras.values() for item in extra))
        if (found := re.match(r"([a-z0-9-]+)(?:\[[a-z,]+\])?[>=]=([\d.]+)", requirement))
    }
    lines = (REPOSITORY / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pinned == {name: floors[name] for name in pinned}
    needed = {re.match(r"[a-z0-9-]+", requirement)[0] for requirement in project["dependencies"]}
    assert needed <= pinned.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_we_use_is_there(name: str) -> None:
    place, is_there = NAMES[name]
    assert is_there(), f"{name} is gone, which t2m_bench/{place} uses: mend it there, or cap the version lower"


def test_extensions_are_compiled_in_a_folder_of_ours_where_torch_does_not_tell_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "set"))
    wanted = tmp_path / "set" / "any"
    assert find_build_folder("any") == wanted, "torch's own way"
    monkeypatch.delattr(cpp_extension, "_get_build_directory", raising=False)
    assert find_build_folder("any") == wanted
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "")  # so that the test leaves none behind
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    folder = find_build_folder("any")
    assert folder.is_dir()
    assert folder.is_relative_to(tmp_path)
    assert folder.parent == Path(os.environ["TORCH_EXTENSIONS_DIR"]), "torch compiles where our lock lies"


class Uncompilable:
    """Stands for a module of a later PyTorch, without the private name."""

    def compile(self) -> None:
        raise RuntimeError("no compiler")


def test_a_failed_compilation_that_cannot_be_undone_names_the_switch() -> None:
    module: Any = Uncompilable()
    with raises_naming(RecipeError, "cluster.compile", "no compiler"):
        compile_forward(module, module, 4, (4, 2, 2), 1, ProcessGroup("no", use_gpu=False))
    assert hasattr(torch.nn.Identity(), "_compiled_call_impl"), "torch undoes it otherwise: mend training/compiling.py"
