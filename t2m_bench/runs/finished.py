"""Decides whether a run is finished, and with it what `train` and `bench` reuse."""

from t2m_bench.evaluation.predicted_masks import PREDICTED_NAME
from t2m_bench.files import load_json
from t2m_bench.metrics.results import RESULTS_NAME
from t2m_bench.recipe.defaults import load_first_suite
from t2m_bench.runs.run_folder import RUN_NAME
from t2m_bench.runs.setup import Job


def is_finished(job: Job) -> bool:
    """Return whether the run is trained, has answered all that it is asked now, and kept its masks where it should.

    Where the recipe names no conditions or boxes, those that became a default after the run are not asked of it.
    """
    if not ((job.run_folder / RUN_NAME).is_file() and (job.run_folder / RESULTS_NAME).is_file()):
        return False
    if job.suite.bench.keep_masks and not (job.run_folder / PREDICTED_NAME).is_file():
        return False
    noted = load_json(job.run_folder / RUN_NAME, "Train again with the same command.")
    default_then = noted.get("default_suite", load_first_suite())
    for name, asked in (("conditions", job.data.asking.conditions), ("boxes", job.data.asking.boxes)):
        is_named = name in job.suite.bench.model_fields_set
        wanted = set(asked) if is_named else set(asked) & set(default_then[name])
        if not wanted <= set(noted.get(name, ())):
            return False
    return True
