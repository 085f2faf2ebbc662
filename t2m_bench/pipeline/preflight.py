"""Checks first what would fail late: folders, packages, weights and sentences, before a data set is read."""

import importlib.util
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from t2m_bench.cluster.session import check_socket_path, has_cluster
from t2m_bench.errors import RecipeError, RunFolderError, UserError
from t2m_bench.files import escape_name, explain
from t2m_bench.models.sam import check_checkpoint
from t2m_bench.models.text import find_text_folder, load_text_encoder
from t2m_bench.pipeline.embed import Texts, embed_texts
from t2m_bench.recipe.arms import ARMS, ArmEntry
from t2m_bench.recipe.conditions import CONDITIONS
from t2m_bench.recipe.encoders import IMAGE_ENCODERS, ImageEncoder
from t2m_bench.recipe.measures import MEASURE_TABLE
from t2m_bench.recipe.registry import load_object
from t2m_bench.recipe.schema import Recipe
from t2m_bench.terminal import Terminal

TRIAL_BYTES = 2**20
"""Content of the trial file that shows whether a disk accepts data."""


def check_before_reading(recipe: Recipe, runs: Path, arms: Iterable[str], terminal: Terminal) -> Texts | None:
    """Look, in seconds, at what does not depend on the data set; return the embedded sentences, which are made first.

    Free texts are known when the data set is read: of these the encoder alone is loaded, and None is returned.

    Args:
        arms: the arms that will be trained, by their names in the recipe.

    Raises:
        UserError: a folder cannot be written, a package of an arm is not installed, an entry cannot be imported, the
            image encoder's weights or the text encoder are absent, cut or of another architecture; each message names
            what mends it.
    """
    check_setting(recipe, runs, arms)
    if recipe.prompts.column is not None:
        load_text_encoder(recipe.text_encoder.name, recipe.text_encoder.pooling)
        return None
    return embed_texts(recipe, runs, terminal)


def check_setting(recipe: Recipe, runs: Path, arms: Iterable[str]) -> None:
    """Look at folders, packages and weights; writes nothing that stays.

    Raises:
        UserError: as `check_before_reading`, but for a text encoder that cannot be read.
    """
    check_packages(recipe.with_arm(arm, recipe.seed).adapter.kind for arm in arms)
    check_encoder_package(recipe.image_encoder.preset)
    check_trackers(recipe.cluster.tracking)
    check_entries(recipe)
    check_folders(runs)
    cluster = recipe.cluster
    if max(cluster.min_train_workers, cluster.num_embed_workers, cluster.num_bench_workers) and not has_cluster():
        check_socket_path()
    check_checkpoint(recipe.image_encoder.preset, recipe.image_encoder.checkpoint)
    find_text_folder(recipe.text_encoder.name)


def check_folders(runs: Path) -> None:
    """See that the runs folder and the folder of temporary files take a file.

    Raises:
        RunFolderError: the runs folder does not, or has a name that not every library can open.
        UserError: the folder of temporary files does not.
    """
    check_name(runs)
    trial = runs / f".trial-{uuid4().hex[:8]}"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(bytes(TRIAL_BYTES))
    except OSError as error:
        raise RunFolderError(f"--runs {runs}: cannot be written ({_explain(error)}). Give another folder.") from None
    finally:
        with suppress(OSError):  # where it could not be written it cannot be looked for either
            trial.unlink()
    try:
        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes(TRIAL_BYTES))
            file.flush()
    except OSError as error:
        raise UserError(
            f"temporary files cannot be written ({error.strerror or error}). Free some space there, or set TMPDIR to a "
            "folder with some."
        ) from None


def _explain(error: OSError) -> str:
    return explain(error) if isinstance(error, PermissionError) else error.strerror or str(error)


def check_name(runs: Path) -> None:
    """See that the name of the runs folder is UTF-8: the writers of tables open no other.

    Raises:
        RunFolderError: it is not; shows the name's bytes.
    """
    name = str(runs.resolve())
    if name != (shown := escape_name(name)):
        raise RunFolderError(f"--runs {shown}: the name is not UTF-8. Rename the folder, or give another.")


def check_packages(kinds: Iterable[str]) -> None:
    """See that what each kind of arm needs is installed.

    Raises:
        RecipeError: something is not; names the command that installs it.
    """
    for entry in map(ARMS.find, dict.fromkeys(kinds)):
        _check_package(entry, f"the arm {entry.name}", "leave the arm out of bench.arms")


def check_encoder_package(preset: str) -> None:
    """See that what an image encoder needs is installed.

    Raises:
        RecipeError: it is not; names the command that installs it.
    """
    entry = IMAGE_ENCODERS.find(preset)
    _check_package(entry, f"the image encoder {entry.name}", "choose another image_encoder.preset")


def check_trackers(names: Iterable[str]) -> None:
    """See that the packages of trackers are installed; each has its tracker's name.

    Raises:
        RecipeError: one is not; names the command that installs it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise RecipeError(
                f"cluster.tracking names {name}, which is not installed: pip install '.[{name}]' in the checkout, or "
                "leave it out."
            )


def _check_package(entry: ArmEntry | ImageEncoder, what: str, otherwise: str) -> None:
    if entry.package and importlib.util.find_spec(entry.package) is None:
        raise RecipeError(
            f"{what} needs {entry.package}, which is not installed: {_say_install(entry)}, or {otherwise}."
        )


def check_entries(recipe: Recipe) -> None:
    """See that what the recipe asks and all that is measured can be imported, whichever package it is of.

    Raises:
        RecipeError: something cannot; names the entry or the code.
    """
    for condition in map(CONDITIONS.find, recipe.bench.conditions):
        load_object(condition.draw)
    for measure in MEASURE_TABLE:
        load_object(measure.compute)


def _say_install(entry: ArmEntry | ImageEncoder) -> str:
    return entry.install or f"install {entry.package}"
