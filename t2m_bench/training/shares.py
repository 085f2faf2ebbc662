"""Assigns the cases of a global batch to ranks."""


def share_positions(num_cases: int, rank: int, world_size: int) -> range:
    """Return the positions of a global batch that a rank computes: contiguous, sizes differing by at most one."""
    return range(num_cases * rank // world_size, num_cases * (rank + 1) // world_size)
