"""A cell of the benchmark, one arm, fold and seed: its failure is told and kept, and the other cells go on."""

import traceback
from collections.abc import Callable

from t2m_bench.errors import StoppedError, UserError, WorkersLostError, find_first_line
from t2m_bench.files import write_text
from t2m_bench.runs import job as run_job
from t2m_bench.runs.run_folder import lock_run
from t2m_bench.runs.setup import Job
from t2m_bench.training.process_group import ProcessGroup

FAILURE_NAME = "failure.txt"

LOCK_PATIENCE_SECONDS = 30.0
"""A worker of a killed suite may still be ending when the suite is started again."""


def run_cell(job: Job, run: Callable[[], None]) -> str | None:
    """Run a cell while its folder is held; return why it failed, or None.

    Raises:
        StoppedError, WorkersLostError: these end the whole suite, to be gone on with by the same command.
    """
    try:
        with lock_run(job.run_folder, LOCK_PATIENCE_SECONDS):
            (job.run_folder / FAILURE_NAME).unlink(missing_ok=True)
            run()
    except UserError as error:
        return str(error)
    except (StoppedError, WorkersLostError):
        raise
    except Exception as error:
        write_text(job.run_folder / FAILURE_NAME, traceback.format_exc())
        return (
            f"{type(error).__name__}: {find_first_line(error)} ({job.run_folder / FAILURE_NAME} has the whole message)"
        )
    return None


def train_in_process(job: Job, should_stop: Callable[[], bool]) -> None:
    """Train and evaluate a cell in this process alone."""
    ranks = ProcessGroup(job.recipe.optim.mixed_precision, job.recipe.cluster.use_gpu)
    run_job.train(job, ranks, should_stop)
