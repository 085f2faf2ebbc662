"""Names, private ones among them, that packages below us must have; pyproject.toml caps those that may rename them."""

import importlib
import inspect
from collections.abc import Callable

import optuna
import pytest
import ray
import torch
from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
from torch.utils import cpp_extension


def is_keyword_of_ray(name: str) -> bool:
    return f'"{name}"' in inspect.getsource(ray.init)  # which takes such names out of its **kwargs


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
    "torch.utils.cpp_extension._get_build_directory": (
        "training/process_group.py",
        lambda: hasattr(cpp_extension, "_get_build_directory"),
    ),
    "torch Module._compiled_call_impl": (
        "training/compiling.py",
        lambda: hasattr(torch.nn.Identity(), "_compiled_call_impl"),
    ),
}
"""What is used -> where in t2m_bench, and whether it is there."""


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_we_use_is_there(name: str) -> None:
    place, is_there = NAMES[name]
    assert is_there(), f"{name} is gone, which t2m_bench/{place} uses: mend it there, or cap the version lower"
