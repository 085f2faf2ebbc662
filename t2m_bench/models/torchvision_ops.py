"""Makes `import torchvision` work beside a CPU build of torch.

PyPI has CUDA builds of torchvision only. Beside a CPU torch its compiled operators do not load, and the import dies
with "operator torchvision::nms does not exist", because the package registers meta kernels for two of them.
segment_anything and transformers import torchvision; nothing that we use calls these operators. Seen with torchvision
0.28.0 and torch 2.13.0.
"""

import importlib.machinery
import importlib.util
from pathlib import Path

import torch

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

_declared: list[torch.library.Library] = []  # a Library takes its operators with it when it is collected


def declare_missing_operators() -> None:
    """Declare, by schema only, what torchvision needs for its import; do nothing where its extension loads."""
    if _declared or _extension_loads():
        return
    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS.values():
        library.define(schema)
    _declared.append(library)


def _extension_loads() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    folder = Path(spec.origin).parent
    found = [path for suffix in importlib.machinery.EXTENSION_SUFFIXES for path in folder.glob(f"_C*{suffix}")]
    if not found:
        return False
    try:
        torch.ops.load_library(str(found[0]))
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")
