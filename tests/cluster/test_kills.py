"""Processes are killed at a random step, and the run ends bit-equal to one that nothing disturbed."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_ray import LocalRay, local_ray
from messages import check_names
from real_runs import (
    NUM_EPOCHS,
    STEPS_AN_EPOCH,
    assert_same_end,
    find_workers,
    finish,
    make_recipe,
    restart,
    start,
    wait_for_step,
)

VICTIMS = ("worker", "driver", "raylet", "raylet and-spare")
KILLS = 50

STEP_VARIABLE = "T2M_KILL_STEP"
"""Names the environment variable that repeats a kill at the step of an earlier run, where one is drawn otherwise."""


@pytest.fixture(scope="module")
def ray() -> Iterator[LocalRay]:
    with local_ray() as ray:
        yield ray


class Trial:
    """Kills one process of a run on two workers and lets the run end."""

    def __init__(self, root: Path, undisturbed: Path, request: pytest.FixtureRequest) -> None:
        self.recipe, self.undisturbed, self._request = make_recipe(root), undisturbed, request

    def run(self, victim: str, step: int, folder: Path) -> None:
        """Kill at a step of the training, restart by hand where that is the user's part, and compare."""
        if victim.startswith("raylet"):
            self._kill_raylet(victim, step, folder)
        else:
            self._kill_process(victim, step, folder)
        assert_same_end(self.undisturbed, folder)

    def _kill_process(self, victim: str, step: int, folder: Path) -> None:
        process = start(self.recipe, folder, self.undisturbed)
        wait_for_step(folder, step, process)
        if victim == "worker":
            os.kill(find_workers(process.pid)[step % 2], signal.SIGKILL)
        else:
            process.kill()
            process.communicate(timeout=60)
            process = restart(process)
        finish(process)

    def _kill_raylet(self, victim: str, step: int, folder: Path) -> None:
        ray: LocalRay = self._request.getfixturevalue("ray")
        has_spare = victim != "raylet"
        ray.set_nodes(3 if has_spare else 2)
        process = start(self.recipe, folder, self.undisturbed, ray.environment)
        wait_for_step(folder, step, process)
        ray.kill_raylet_beside_head()
        if not has_spare:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 86, errors
            check_names(errors, "nodes", "workers of 2")
            process = restart(process, ray.environment)
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 86, "what has no room since a node was lost is no wrong input"
            assert f"nodes lost: {ray.num_lost}." in errors
            ray.set_nodes(2)
            process = restart(process, ray.environment)
        finish(process)


@pytest.fixture
def trial(root: Path, undisturbed: Path, request: pytest.FixtureRequest) -> Trial:
    return Trial(root, undisturbed, request)


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_costs_nothing_but_time(
    trial: Trial, tmp_path: Path, victim: str, capsys: pytest.CaptureFixture[str]
) -> None:
    step = int(os.environ.get(STEP_VARIABLE, draw_step(random.Random())))
    with capsys.disabled():
        print(f"\n{victim} is killed at step {step}; repeat with {STEP_VARIABLE}={step}")
    trial.run(victim, step, tmp_path / "a")


@pytest.mark.soak
@pytest.mark.parametrize("number", range(1, KILLS + 1))
def test_many_kills_cost_nothing_but_time(
    trial: Trial, tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    victim, step = VICTIMS[number % len(VICTIMS)], draw_step(random.Random(number))
    trial.run(victim, step, tmp_path / "a")
    with capsys.disabled():
        print(f"\nkill {number} of {KILLS}: {victim} at step {step}, bit-equal end")


def draw_step(generator: random.Random) -> int:
    """Draw a step with some left to train after it."""
    return generator.randrange(1, (NUM_EPOCHS - 1) * STEPS_AN_EPOCH)
