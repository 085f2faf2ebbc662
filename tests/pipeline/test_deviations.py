"""What each deviation is worth: which protocols are run, and a table from two that really were."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from messages import check_names, is_named, raises_naming

from t2m_bench.cli import main
from t2m_bench.errors import LeakageError
from t2m_bench.pipeline.deviations import leaks, list_protocols
from t2m_bench.pipeline.prepare import prepare
from t2m_bench.recipe.schema import Recipe, load_recipe, parse_recipe
from t2m_bench.terminal import Terminal

PUBLISHED = Path(__file__).resolve().parents[2] / "launch" / "published_bus_bra.yaml"
WITH_MINI = ["image_encoder.preset=mini", "image_encoder.input_range=unit", "text_encoder.name=stand-in"]


def test_each_protocol_differs_from_the_clean_one_by_its_deviation_alone() -> None:
    recipe = load_recipe(PUBLISHED, ["image_encoder.checkpoint=medsam.pth"])
    clean, *alone, every = (protocol.recipe.model_dump(mode="json") for protocol in list_protocols(recipe))
    assert len(alone) == len(recipe.deviations) == 6
    assert every == recipe.model_dump(mode="json") | {"deviations": {}}
    for values, raw in zip(recipe.deviations.values(), alone, strict=True):
        differing = {
            f"{section}.{key}"
            for section, content in raw.items()
            if isinstance(content, dict)
            for key in content
            if content[key] != clean[section][key]
        }
        assert differing == {".".join(field.split(".")[:2]) for field in values}
    assert not clean["allow_leakage"]
    defaults = parse_recipe({"name": "x", "dataset": {"root": "x"}}, "test").model_dump(mode="json")
    for section in ("loss", "adapter", "prompts", "image_encoder", "dataset"):
        assert {**clean[section], "root": "x", "preset": "", "checkpoint": ""} == {
            **defaults[section], "root": "x", "preset": "", "checkpoint": "",
        }, "the clean protocol is the default one"  # fmt: skip
    assert {**clean["optim"], "epochs": 0} == {**defaults["optim"], "epochs": 0}


def test_what_mini_cannot_say_is_not_measured() -> None:
    recipe = load_recipe(PUBLISHED, WITH_MINI)
    protocols = list(list_protocols(recipe))
    (bytes_,) = [name for name, values in recipe.deviations.items() if "image_encoder.input_range" in values]
    assert [protocol.name for protocol in protocols if protocol.recipe is None] == [bytes_]
    check_names(protocols[-1].name, "all but", bytes_)
    whole = list(list_protocols(load_recipe(PUBLISHED, ["image_encoder.checkpoint=medsam.pth"])))
    check_names(whole[-1].name, "all", "published")
    assert not any(protocol.recipe is None for protocol in whole)


def test_the_published_split_leaks_and_needs_leave(small_recipe: Recipe, tmp_path: Path) -> None:
    raw = small_recipe.model_dump(mode="json")
    raw["dataset"] |= {"split_by": "image", "validation": "test"}
    with raises_naming(LeakageError, "patients", "train", "test", "allow_leakage=true"):
        prepare(parse_recipe(raw, "test"), tmp_path, Terminal())
    splits = prepare(parse_recipe(raw | {"allow_leakage": True}, "test"), tmp_path, Terminal()).splits
    assert splits.val == splits.test
    assert len(splits.test) == round(0.2 * 63)
    assert {*splits.train, *splits.test} == {case.case_id for case in prepare(small_recipe, tmp_path, Terminal()).cases}
    assert not {*splits.train} & {*splits.test}


def test_what_only_allows_leakage_does_not_leak() -> None:
    """Each deviation by itself runs with leakage allowed, and most of them split and choose as the clean protocol."""
    protocols = list_protocols(load_recipe(PUBLISHED, WITH_MINI))
    found = {protocol.name: leaks(protocol.recipe) for protocol in protocols if protocol.recipe}
    assert found["clean protocol"] is False
    assert found["Adam at 1e-4, batches of 4"] is False
    assert found["split by image"] is True
    assert found["best epoch chosen on the test cases, the validation cases trained on"] is True


def test_the_table_says_what_each_is_worth(
    small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = small_recipe.model_dump(mode="json") | {"allow_leakage": True}
    raw["dataset"] |= {"split_by": "image"}
    raw["optim"] |= {"epochs": 1}
    raw["bench"] |= {"arms": ["gated"], "conditions": ["right"], "boxes": ["tight"]}
    raw["deviations"] = {
        "by image": {"dataset.split_by": "patient"},
        "bytes": {"image_encoder.input_range": "unit"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    runs = str(tmp_path / "runs")
    command = ["bench", str(tmp_path / "recipe.yaml"), "--deviations", "--runs", runs, "--json"]
    monkeypatch.setattr(sys, "argv", ["t2m-bench", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    text = Path(summary["table"]).read_text()
    (of_bytes,) = [line for line in text.splitlines() if line.startswith("| bytes |")]
    check_names(of_bytes, "not measured", "mini")
    numbers = pd.read_csv(Path(summary["table"]).with_name("deviations.csv")).set_index("protocol")
    *first, all_but = numbers.index
    assert first == ["clean protocol", "by image", "bytes"]
    check_names(all_but, "all but", "bytes")
    assert list(numbers["leaks"]) == [False, True, False, True]
    assert [line for line in text.splitlines() if is_named(line, "by image") and is_named(line, "leaks")]
    worth = numbers["gated_dice"] - numbers.loc["clean protocol", "gated_dice"]
    assert numbers["gated_worth"].dropna().to_dict() == pytest.approx(worth.dropna().to_dict(), abs=1e-12)
    assert numbers.loc["by image", "gated_dice"] == numbers.loc[all_but, "gated_dice"]
