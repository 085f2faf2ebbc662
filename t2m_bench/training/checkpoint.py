"""Training state on disk: one safetensors file with JSON in its header, never a pickle, whole or not there."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError, with_config
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from t2m_bench.errors import RunFolderError
from t2m_bench.files import touch_saved_marker, write_atomically

STATE_NAME = "state.safetensors"
ADAPTER_NAME = "adapter.safetensors"

ADAM = ("step", "exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, by torch's names."""


@with_config(extra="forbid")
@dataclass
class Progress:
    """Progress of a run; with parameters and moments it is all that a resume needs.

    `epoch` and `step` name the next step; `sums` are the losses of the epoch's steps so far, in order; `commits` are
    those of the code that trained it, more than one where it was resumed by another.
    """

    run_hash: str
    epoch: int = 0
    step: int = 0
    sums: list[list[float]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    best_val_dice: float = -1.0
    best_epoch: int = -1
    seconds: float = 0.0
    scaler: dict[str, Any] = field(default_factory=dict)
    finished: bool = False
    commits: list[str] = field(default_factory=list)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], note: dict[str, Any]) -> None:
    """Write tensors and a JSON note to one file by atomic rename.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with write_atomically(path) as partial:
        try:
            save_file(ready, partial, {"note": json.dumps(note)})
        except SafetensorError as error:  # how the library tells of a full disk, among others
            raise OSError(f"{path} cannot be written: {error}") from None


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        RunFolderError: the file is absent, truncated, or something else under this name (a pickle, for one).
    """
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {})["note"])
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, note
    except FileNotFoundError:
        raise RunFolderError(f"{path}: does not exist. Run `t2m-bench train` with this recipe first.") from None
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise RunFolderError(
            f"{path}: not a checkpoint of t2m-bench ({error}). Remove the file and train again."
        ) from None


def save_state(folder: Path, tensors: Mapping[str, Tensor], progress: Progress) -> None:
    """Write an updater's state and the progress."""
    save_tensors(folder / STATE_NAME, tensors, asdict(progress))
    touch_saved_marker()


def load_state(folder: Path, run_hash: str) -> tuple[dict[str, Tensor], Progress] | None:
    """Read what `save_state` wrote; None where there is nothing yet.

    Raises:
        RunFolderError: the state is of another recipe or cannot be read.
    """
    path = folder / STATE_NAME
    if not path.exists():
        return None
    tensors, note = load_tensors(path)
    progress = _parse_progress(path, note)
    if progress.run_hash != run_hash:
        raise RunFolderError(
            f"{path}: trained by another recipe ({progress.run_hash}, now {run_hash}). Rename or remove it."
        )
    return tensors, progress


def check_state(folder: Path, tensors: Mapping[str, Tensor], module: nn.Module) -> None:
    """See that a state has what a resume needs of a module, as `Updater.get_state` names it.

    Raises:
        RunFolderError: a tensor is absent, of another shape, or of no parameter; names it.
    """
    expected: dict[str, tuple[int, ...]] = {}
    for name, parameter in module.named_parameters():
        shape = tuple(parameter.shape)
        expected[f"parameter/{name}"] = shape
        adam = {f"optimizer/{key}/{name}": () if key == "step" else shape for key in ADAM}
        if adam.keys() & tensors.keys():  # a parameter that got no gradient so far has none of them
            expected |= adam
    _compare_shapes(folder / STATE_NAME, tensors, expected, "not the state of this run")


def load_progress(folder: Path) -> Progress:
    """Read how far a run has come.

    Raises:
        RunFolderError: there is no state, or it cannot be read.
    """
    path = folder / STATE_NAME
    return _parse_progress(path, load_tensors(path)[1])


def _parse_progress(path: Path, note: dict[str, Any]) -> Progress:
    try:
        return TypeAdapter(Progress).validate_json(json.dumps(note), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RunFolderError(
            f"{path}: not a training state of this version ({place}: {first['msg']}). Remove the file and train again."
        ) from None


def save_adapter(folder: Path, module: nn.Module, note: dict[str, Any]) -> None:
    """Write the adapter's parameters and measured scale alone: the frozen parts are named by hash, not stored."""
    save_tensors(folder / ADAPTER_NAME, module.state_dict(), note)


def compute_tensors_sha256(path: Path) -> str:
    """Return the sha256 of a file that `save_tensors` wrote.

    Raises:
        RunFolderError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read ({error.strerror}). Train or export again.") from None


def load_adapter(folder: Path, module: nn.Module) -> dict[str, Any]:
    """Load what `save_adapter` wrote and return its note.

    Raises:
        RunFolderError: the file holds another architecture; names the first difference.
    """
    path = folder / ADAPTER_NAME
    tensors, note = load_tensors(path)
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    _compare_shapes(path, tensors, expected, "of another architecture")
    module.load_state_dict(tensors)
    return note


def _compare_shapes(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], what: str
) -> None:
    """Refuse tensors whose names or shapes differ, in either direction; `what` says what that makes of the file."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in [*expected, *found]:
        if found.get(name) != expected.get(name):
            raise RunFolderError(
                f"{path}: {what}: {name} is {found.get(name, 'absent')}, expected {expected.get(name, 'absent')}. "
                "Remove the file and train again."
            )


def load_best_adapter(folder: Path, module: nn.Module, progress: Progress) -> None:
    """Load the adapter of a run's best epoch.

    Raises:
        RunFolderError: as `load_adapter`, or what lies there is of another run or epoch; names both.
    """
    note = load_adapter(folder, module)
    for name, wanted in (("run_hash", progress.run_hash), ("epoch", progress.best_epoch)):
        if note.get(name) != wanted:
            raise RunFolderError(
                f"{folder / ADAPTER_NAME}: its {name} is {note.get(name)}, but {STATE_NAME} beside it says {wanted}. "
                "Put the adapter of this run back, or remove the folder and train again."
            )
