"""Says what one trial of a sweep takes of a cluster, and how many fit beside each other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from t2m_bench.cluster.session import count_room
from t2m_bench.search.sweep import LoadedSweep

IsSet = Callable[[], bool]
OnChange = Callable[[], None]


@dataclass(frozen=True)
class Demand:
    """Say what one trial takes.

    Attributes:
        cpus, gpus: of each of its processes, which lies on one node.
        workers: of its group; 0 trains in its own Tune process.
    """

    cpus: float
    gpus: float
    workers: int

    @property
    def has_workers(self) -> bool:
        """Return whether a trial is a group of workers."""
        return self.workers > 0

    @property
    def processes(self) -> int:
        """Return how many processes a trial has."""
        return max(1, self.workers)

    def count_fitting(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """Return how many trials fit beside each other; a group may lie on several nodes, a process may not."""
        return count_room(nodes, self.cpus, self.gpus) // self.processes


def find_demand(loaded: LoadedSweep) -> Demand:
    """Return what a trial of a sweep takes."""
    cluster, resources = loaded.recipe.cluster, loaded.sweep.resources
    workers = cluster.min_train_workers
    if workers > 0:
        return Demand(cluster.cpus_per_worker, cluster.gpus_per_worker, workers)
    return Demand(resources.cpus, resources.gpus, 0)
