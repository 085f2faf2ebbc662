"""The time until `t2m-bench --help` has answered: with all imports at the top, ours, and Python with typer alone."""

import subprocess
import sys
from collections.abc import Callable

from t2m_bench.errors import UserError
from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement, measure

REPEATS = 5

HELP = "import sys; sys.argv = ['t2m-bench', '--help']; from t2m_bench.cli import main; main()"
IMPORTS = (
    "from t2m_bench.models.torchvision_ops import declare_missing_operators; declare_missing_operators();"
    "import accelerate, h5py, optuna, pandas, ray.train, segment_anything, torch, transformers, typer;"
)


def measure_startup(device: str, repeats: int = REPEATS) -> Measurement:
    """Measure whole processes.

    Raises:
        UserError: another device than the CPU is asked for.
    """
    if device != "cpu":
        raise UserError(f"perf startup: --device {device}: no GPU takes part. Leave --device out.")
    ways = {
        (PLAIN, "every import at the top of the module"): _run(IMPORTS + HELP),
        (OURS, "imports inside the verbs"): _run(HELP),
        (LIMIT, "python -c 'import typer'"): _run("import typer"),
    }
    return measure("startup", "t2m-bench --help, a new process each", ways, repeats)


def _run(code: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
