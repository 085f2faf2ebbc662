"""Describes a run as data, and builds what each of its processes needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2m_bench.data.boxes import Boxes
from t2m_bench.data.case import Case
from t2m_bench.data.frame import Frame
from t2m_bench.data.prompts import UNKNOWN
from t2m_bench.data.splits import Splits
from t2m_bench.embedding.encode import check_weights
from t2m_bench.embedding.image_source import ImageSource
from t2m_bench.embedding.shards.reader import CaseSource, ShardReader
from t2m_bench.embedding.shards.schema import Signature
from t2m_bench.embedding.spread import measure_scale
from t2m_bench.embedding.text_table import TextTable
from t2m_bench.errors import RecipeError
from t2m_bench.evaluation.conditions import EvaluationSpec
from t2m_bench.evaluation.evaluate import Evaluator
from t2m_bench.files import load_json
from t2m_bench.models.arm import Arm, BuildContext, Built
from t2m_bench.models.sam import FileStamp, FrozenDecoder, load_decoder
from t2m_bench.models.segmenter import BoxSegmenter
from t2m_bench.recipe.arms import ARMS, ArmEntry, Texts
from t2m_bench.recipe.conditions import PREDICTED
from t2m_bench.recipe.registry import load_object
from t2m_bench.recipe.schema import Recipe
from t2m_bench.training.compiling import NOT_ASKED
from t2m_bench.training.process_group import ProcessGroup

BOXES_NAME = "boxes.json"
PROBE_NAME = "probe.json"

SHUFFLE_STREAM = 3
"""Tells the draw of shuffled texts from a seed's other draws."""

WEIGHTS_STREAM = 4
"""Tells the draw of the first weights from a seed's other draws."""


@dataclass(frozen=True)
class FoldData:
    """All that the arms and seeds of a test fold share; all paths are absolute.

    Attributes:
        root: folder of the data set. checkpoint: of the image encoder, None for the shipped one.
        cases: under pseudonyms. fields: text fields in the order of the prompt file; they tell results apart.
        asking: the questions to an arm, without the probe's predictions, which lie in the reference folder.
        reference: folder of the fold's boxes, probe, floors and baseline.
        checkpoint_stamp: of the checkpoint whose sha256 the signature has, so that no process hashes it again.
    """

    root: Path
    checkpoint: Path | None
    cases: tuple[Case, ...]
    splits: Splits
    shards: Path
    signature: Signature
    texts: TextTable
    fields: tuple[str, ...]
    asking: EvaluationSpec
    reference: Path
    checkpoint_stamp: FileStamp | None = None

    def select(self, case_ids: Sequence[str]) -> list[Case]:
        """Return the cases of a split."""
        by_id = {case.case_id: case for case in self.cases}
        return [by_id[case_id] for case_id in case_ids]

    def load_asking(self) -> tuple[EvaluationSpec, Boxes]:
        """Return the questions to an arm and the boxes, with the contents of the reference folder.

        Raises:
            RunFolderError: the folder lacks them.
        """
        command = "Remove the folder and run the same command."
        probe = load_json(self.reference / PROBE_NAME, command)
        boxes = load_json(self.reference / BOXES_NAME, command)
        by_field = {name: found[PREDICTED] for name, found in probe["fields"].items()}
        # a field that could not be predicted is given as unknown: its own value is what the image does not tell
        predicted = {
            case.case_id: {
                **dict.fromkeys(case.text_fields, UNKNOWN),
                **{name: of[case.case_id] for name, of in by_field.items()},
            }
            for case in self.select(self.splits.test)
            if by_field
        }
        return replace(self.asking, predicted=predicted), boxes


@dataclass(frozen=True)
class Job:
    """A run as every process of it needs it.

    Attributes:
        arm: the benchmark's name of this run's adapter. recipe: as this arm is trained; suite: as all arms share it.
        run_folder: an absolute path.
    """

    arm: str
    recipe: Recipe
    suite: Recipe
    data: FoldData
    run_folder: Path

    def describe(self) -> dict[str, Any]:
        """Return the constant columns of this run's results."""
        dataset = self.recipe.dataset
        return {"arm": self.arm, "dataset": dataset.kind, "fold": dataset.test_fold, "seed": self.recipe.seed}

    def make_texts(self) -> TextTable:
        """Return the texts as the arm's kind reads them."""
        given = ARMS.find(self.recipe.adapter.kind).texts
        if given == Texts.LABELS:
            return self.data.texts.as_labels()
        if given == Texts.SHUFFLED:
            trained = self.data.select(self.data.splits.outside_test)
            patient_of = {case.case_id: case.patient_id for case in trained}
            return self.data.texts.shuffle(patient_of, np.random.default_rng([self.recipe.seed, SHUFFLE_STREAM]))
        return self.data.texts


@dataclass(frozen=True)
class Frozen:
    """The parts that no run trains, on this rank's device, and where embeddings come from."""

    sam: FrozenDecoder
    segmenter: BoxSegmenter
    source: ShardReader


@dataclass(frozen=True)
class RunContext:
    """Objects that a process builds from a job to train and evaluate it.

    Attributes:
        source: of embeddings, or of images where the arm reads those. frame: of its boxes and logits.
        texts: as the arm reads them. compiled: what became of torch.compile.
    """

    job: Job
    arm: Arm
    source: CaseSource
    frame: Frame
    texts: TextTable
    evaluator: Evaluator
    ranks: ProcessGroup
    compiled: str = NOT_ASKED


@lru_cache(maxsize=1)
def _load_once(preset: str, checkpoint: Path | None, known: tuple[FileStamp, str] | None) -> FrozenDecoder:
    """Load once a process: the runs of a benchmark follow one another in it."""
    return load_decoder(preset, checkpoint, known)


def load_frozen(job: Job, ranks: ProcessGroup) -> Frozen:
    """Load the frozen parts and open the shards."""
    stamp = job.data.checkpoint_stamp
    known = (stamp, job.data.signature.weights_sha256) if stamp else None
    sam = _load_once(job.recipe.image_encoder.preset, job.data.checkpoint, known)
    check_weights(sam, job.data.signature)
    segmenter = BoxSegmenter(sam.prompt_encoder, sam.mask_decoder).to(ranks.device)
    return Frozen(sam, segmenter, ShardReader(job.data.shards, job.data.signature))


def set_up(job: Job, ranks: ProcessGroup, frozen: Frozen | None = None) -> RunContext:
    """Build a fresh arm on this rank's device, and the frozen parts where they are not given.

    Raises:
        RecipeError: the arm needs a package that is not installed, or is not what its entry says.
    """
    frozen = frozen or load_frozen(job, ranks)
    texts = job.make_texts()
    built = _build_arm(job, frozen, texts)
    source: CaseSource = frozen.source
    frame = frozen.sam.frame
    if built.image_frame is not None:
        source, frame = ImageSource(job.data.root, job.data.cases, built.image_frame), built.image_frame
    evaluator = Evaluator(job.data.root, source, built.segmenter, frame, {}, ranks)
    return RunContext(job, built.arm.to(ranks.device), source, frame, texts, evaluator, ranks)


def _build_arm(job: Job, frozen: Frozen, texts: TextTable) -> Built:
    """Build the arm, its start depending on the recipe and the training data alone, and what decodes for it."""
    entry = ARMS.find(job.recipe.adapter.kind)
    is_scaled = job.recipe.adapter.start == "frozen" and entry.has_levels
    context = BuildContext(
        adapter=job.recipe.adapter,
        text_width=job.data.texts.embeddings.shape[1],
        num_labels=len(texts.embeddings),
        generator=torch.Generator().manual_seed(choose_weight_seed(job.recipe)),
        segmenter=frozen.segmenter,
        embedding_scale=measure_scale(frozen.source, job.data.splits.train) if is_scaled else 1.0,
    )
    built: Built = load_object(entry.build)(context)
    _check_agreement(entry, built.arm)
    return built


def choose_weight_seed(recipe: Recipe) -> int:
    """Return the seed of the first weights, of 64 bits where it is drawn from training seed and test fold."""
    if recipe.first_weights == "seed":
        return recipe.seed
    sequence = np.random.SeedSequence([recipe.seed, recipe.dataset.test_fold, WEIGHTS_STREAM])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))  # torch takes seeds of 63 bits


def _check_agreement(entry: ArmEntry, arm: Arm) -> None:
    """Refuse an arm that says otherwise of its texts than its row: questions and reports go by one or the other.

    Raises:
        RecipeError: names the arm, and both attributes with both values.
    """
    pairs = (
        ("reads_text", entry.reads_text, "uses_text", arm.uses_text),
        ("has_text_loss", entry.has_text_loss, "has_text_loss", arm.has_text_loss),
    )
    for of_entry, said, of_arm, found in pairs:
        if bool(found) != said:
            raise RecipeError(
                f"the arm {entry.name}: its entry has {of_entry} = {said}, and {type(arm).__name__}, which "
                f"{entry.build} builds, has {of_arm} = {found}; make them agree"
            )
