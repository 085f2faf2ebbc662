"""A simulated experiment folder as a whole suite leaves it: all arms, conditions, boxes, folds and seeds, no training.

Dice of a case = 0.88 + patient + image + arm + run + (arm x patient x run), less what its text and its box cost.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from t2m_bench.metrics.measures import is_measured_in_full, list_measured
from t2m_bench.metrics.results import write_results

CLASSES = ("2", "3", "4", "5")
WRONG = {"2": "5", "3": "5", "4": "2", "5": "2"}
GAIN = {
    "floor_box": -0.07, "floor_ellipse": 0.0, "floor_mean_mask": 0.004, "floor_class_mask": 0.005, "baseline": 0.008,
    "text_free": 0.02, "text_train_only": 0.02, "text_input_only": 0.033, "label": 0.03, "shuffled": 0.019,
    "text_free_one_level": 0.018, "gated": 0.028, "hierarchical": 0.035, "tuned_decoder": 0.024,
    "tuned_text_free": 0.026, "tuned_hierarchical": 0.036, "text_prompt_free": 0.016,
    "text_prompt": 0.028,
}  # fmt: skip
COST = {
    "wrong": 0.06, "plausible": 0.02, "other": 0.04, "other_patient": 0.04, "paraphrase": 0.0005, "unknown": 0.01,
    "random": 0.05, "predicted": 0.008,
}  # fmt: skip
TEXT_ARMS = ("text_input_only", "label", "shuffled", "gated", "hierarchical", "tuned_hierarchical", "text_prompt")
BOXES = {"tight": 0.0, "jitter_20": 0.03, "loose_20": 0.05}
UNTRAINED = tuple(arm for arm in GAIN if arm.startswith("floor_") or arm == "baseline")


class Suite:
    """Draws everything from one seed. `help_` replaces what hierarchical gains over text_free."""

    def __init__(
        self,
        arms: Sequence[str] = tuple(GAIN),
        folds: Sequence[int] = (1, 2),
        seeds: Sequence[int] = (0, 1, 2, 3, 4),
        patients: int = 40,
        help_: float | None = None,
        cost: float = 1.0,
        boxes: Mapping[str, float] = BOXES,
        draw: int = 7,
        wordings: Sequence[str] = ("paraphrase:1", "paraphrase:2", "paraphrase:3"),
        plausible: bool = True,
    ) -> None:
        self.rng = np.random.default_rng(draw)
        self.arms, self.folds, self.seeds, self.boxes = arms, folds, seeds, boxes
        self.gain = GAIN | ({"hierarchical": GAIN["text_free"] + help_} if help_ is not None else {})
        self.cost, self.wordings, self.plausible = cost, wordings, plausible
        self.cases = self._draw_cases(patients)

    def _draw_cases(self, patients: int) -> pd.DataFrame:
        rows = []
        for number in range(patients):
            of_patient, own = self.rng.normal(0, 0.02), CLASSES[number // len(self.folds) % 4]
            for image in range(1 + number % 2):
                case = {"case": f"case-{number:06x}{image}", "patient": f"patient-{number:08x}", "own": own}
                level = 0.88 + of_patient + self.rng.normal(0, 0.01)
                rows.append(case | {"level": level, "fold": self.folds[number % len(self.folds)]})
        return pd.DataFrame(rows)

    def make_rows(self, arm: str, seed: int, fold: int) -> list[dict[str, Any]]:
        """Return the rows of one run, or of an arm that is not trained."""
        cases = self.cases[self.cases["fold"] == fold]
        run = 0.0 if seed < 0 else self.rng.normal(0, 0.002)
        rows = []
        for case in cases.to_dict("records"):
            base = case["level"] + self.gain[arm] + run + (0.0 if seed < 0 else self.rng.normal(0, 0.003))
            for box, lost in self.boxes.items():
                for condition, given, cost in self._list_texts(arm, case["own"]):
                    dice = float(np.clip(base - lost - self.cost * cost + self.rng.normal(0, 0.001), 0.05, 0.995))
                    rows.append(self._make_row(case, arm, seed, condition, given, box, dice))
        return rows

    def _list_texts(self, arm: str, own: str) -> list[tuple[str, str, float]]:
        if arm == "floor_class_mask":
            return [("right", own, 0.0), ("wrong", WRONG[own], 0.01)]
        if arm not in TEXT_ARMS:
            return [("none", "", 0.0)]
        texts = [("right", own, 0.0), ("wrong", WRONG[own], COST["wrong"])]
        if self.plausible:
            texts.append(("plausible", CLASSES[(CLASSES.index(own) + 1) % 4], COST["plausible"]))
        texts += [(f"swap:birads={other}", other, COST["other"]) for other in CLASSES if other != own]
        other = CLASSES[(CLASSES.index(own) + 1) % 4]
        texts += [(wording, own, COST["paraphrase"]) for wording in self.wordings]
        given = {"other_patient": other, "unknown": "unknown", "random": "", "predicted": own}
        return texts + [(condition, given[condition], COST[condition]) for condition in given]

    def _make_row(
        self, case: Mapping[str, Any], arm: str, seed: int, condition: str, given: str, box: str, dice: float
    ) -> dict[str, Any]:
        measured = dict.fromkeys(list_measured(), float("nan"))
        if is_measured_in_full(condition, box):
            measured |= {"precision": dice, "recall": dice, "hd95": 60 * (1 - dice), "assd": 20 * (1 - dice)}
            measured |= {"surface_dice": dice**2, "surface_dice_1": dice**4, "surface_dice_5": dice**0.5}
            measured |= {"area_error": 0.98 - dice, "box_diagonal": 150.0}
        return {
            "case": case["case"], "patient": case["patient"], "dataset": "bus_bra", "text_class": case["own"],
            "given_class": given, "arm": arm, "seed": seed, "fold": case["fold"], "condition": condition, "box": box,
            "distance_unit": "px", **measured, "dice": dice, "iou": dice / (2 - dice), "pred_empty": False,
            "ref_empty": False,
        }  # fmt: skip

    def write(self, folder: Path) -> Path:
        """Write the whole experiment."""
        recipe = make_recipe(self)
        for fold in self.folds:
            self._write_reference(folder / f"reference-fold{fold}", fold)
            for arm in (arm for arm in self.arms if arm not in UNTRAINED):
                for seed in self.seeds:
                    self._write_run(folder / f"{arm}-fold{fold}-seed{seed}-00000000", arm, seed, fold, recipe)
        (folder / "experiment.json").write_text(json.dumps(make_note(self, recipe)))
        return folder

    def _write_reference(self, folder: Path, fold: int) -> None:
        arms = [arm for arm in self.arms if arm in UNTRAINED]
        write_results(folder / "cases.parquet", [row for arm in arms for row in self.make_rows(arm, -1, fold)])
        shown = self._list_shown(fold)
        crops = {f"{case}/image": draw_picture(self.rng) for case in shown}
        masks = {f"{case}/mask": draw_ellipse(50, 38).astype(np.uint8) for case in shown}
        np.savez_compressed(folder / "crops.npz", **crops, **masks)
        np.savez_compressed(folder / "masks.npz", **{case: draw_ellipse(46, 45) for case in shown})
        auc = {"box": 0.78, "embedding_and_box": 0.85}
        probe = {"fields": {"birads": {"auc": auc, "auc_cross_validated": auc}}, "same_class_donors": 0.29}
        (folder / "probe.json").write_text(json.dumps(probe))

    def _list_shown(self, fold: int) -> list[str]:
        return list(self.cases[self.cases["fold"] == fold]["case"])[:6]

    def _write_run(self, folder: Path, arm: str, seed: int, fold: int, recipe: dict[str, Any]) -> None:
        write_results(folder / "cases.parquet", self.make_rows(arm, seed, fold))
        own = recipe | {"adapter": {"kind": arm}, "seed": seed, "dataset": recipe["dataset"] | {"test_fold": fold}}
        summary = {
            "run": folder.name, "arm": arm, "seed": seed, "fold": fold, "trainable_parameters": 412802, "epochs": 3,
            "best_epoch": 1, "val_dice": 0.9, "test_dice": 0.9, "seconds": 33.0, "world_size": 1, "trials": 1,
            "differently_tuned": False, "recipe": own, "suite": recipe,
            "evaluation": {
                "questions": 400, "decodes": 300, "seconds": 9.0, "decodes_one": 30, "seconds_one": 1.5,
            },
        }  # fmt: skip
        (folder / "run.json").write_text(json.dumps(summary))
        gates = {"coarse": 0.5, "fine": 0.8} if arm in {"hierarchical", "text_free"} else {}
        history = [
            {"epoch": epoch, "loss": 1.0 / (epoch + 1), "val_dice": 0.88 + epoch / 100, "gates": gates}
            for epoch in range(3)
        ]
        (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
        np.savez_compressed(folder / "masks.npz", **{case: draw_ellipse(48, 40) for case in self._list_shown(fold)})


def draw_picture(rng: np.random.Generator) -> np.ndarray:
    speckle = rng.rayleigh(60, (160, 160))
    return np.clip(np.where(draw_ellipse(50, 38), speckle * 0.5, speckle), 0, 255).astype(np.uint8)


def draw_ellipse(width: float, height: float) -> np.ndarray:
    rows, columns = np.ogrid[:160, :160]
    return ((columns - 80) / width) ** 2 + ((rows - 80) / height) ** 2 <= 1


def make_recipe(suite: Suite) -> dict[str, Any]:
    bench = {
        "arms": [arm for arm in suite.arms if arm not in UNTRAINED], "seeds": list(suite.seeds),
        "folds": list(suite.folds), "margin": 0.005,
    }  # fmt: skip
    return {
        "name": "simulated", "seed": 0, "dataset": {"kind": "bus_bra", "root": "data", "test_fold": suite.folds[0]},
        "prompts": {"text_dropout": 0.1}, "optim": {"epochs": 3, "learning_rate": 0.001}, "bench": bench,
    }  # fmt: skip


def make_note(suite: Suite, recipe: dict[str, Any]) -> dict[str, Any]:
    audits = {}
    for fold in suite.folds:
        test = suite.cases[suite.cases["fold"] == fold]
        train = suite.cases[suite.cases["fold"] != fold]
        counts = {name: part["own"].value_counts().to_dict() for name, part in (("train", train), ("test", test))}
        audits[str(fold)] = {
            "audit": {
                "cases": {"train": len(train), "val": 0, "test": len(test)},
                "patients": {"train": train["patient"].nunique(), "val": 0, "test": test["patient"].nunique()},
                "classes": counts, "flags": {"bbox_disagrees": 1}, "unknown_texts": 0, "leaks": [],
            }
        }  # fmt: skip
    return {
        "name": "simulated", "created": "2026-01-01",
        "dataset": {
            "kind": "bus_bra", "num_cases": len(suite.cases), "num_patients": suite.cases["patient"].nunique(),
            "text_field": "birads", "phantom": None,
        },
        "prompts": {"num_wordings": len(suite.wordings), "num_held_out": 5 * len(suite.wordings), "num_naming": 0},
        "test_fold": suite.folds[0], "models": {"image_encoder": "mini", "text_encoder": "stand-in"},
        "audit": audits[str(suite.folds[0])]["audit"], "folds": audits, "allow_leakage": False,
        "hashes": {"manifest": "abc"}, "versions": {"torch": "2"}, "recipe": recipe,
    }  # fmt: skip
