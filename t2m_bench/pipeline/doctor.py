"""What `doctor` looks at: the data set here, and the cluster's nodes."""

from pathlib import Path

from t2m_bench.cluster.doctor import Finding
from t2m_bench.cluster.doctor import examine as examine_cluster
from t2m_bench.config import Recipe
from t2m_bench.errors import DatasetError
from t2m_bench.models.sam import PATCH_PX, get_image_size
from t2m_bench.pipeline.datasets import count_images
from t2m_bench.training.embed import count_bytes_per_case


def examine(recipe: Recipe, runs: Path) -> list[Finding]:
    """Return a finding for each thing looked at.

    Raises:
        ClusterError: the cluster cannot be reached, or has less than the recipe asks for.
    """
    data, num_cases = _look_at_data(recipe)
    grid = get_image_size(recipe.image_encoder.preset) // PATCH_PX
    return [data, *examine_cluster(recipe, runs, num_cases * count_bytes_per_case(grid))]


def _look_at_data(recipe: Recipe) -> tuple[Finding, int]:
    phantom = recipe.dataset.phantom
    if phantom is not None:
        return Finding("data set", f"{phantom.cases} phantoms, written when they are needed"), phantom.cases
    try:
        num_images, found = count_images(recipe)
    except DatasetError as error:
        return Finding("data set", "absent", str(error)), 0
    return Finding("data set", found), num_images
