from pathlib import Path

import pytest
import yaml
from messages import raises_naming

from t2m_bench.data.prompts import FOLDER, find_neighbours, load_prompts
from t2m_bench.errors import RecipeError


@pytest.mark.parametrize(("name", "fields"), [("birads", ("birads",)), ("nsclc", ("t_stage", "histology"))])
def test_every_class_has_sentences_and_none_is_held_out_and_trained(name: str, fields: tuple[str, ...]) -> None:
    book = load_prompts(name, "category")
    assert book.fields == fields
    for field in fields:
        for value in (*book.classes(field), "unknown"):
            assert len(book.sentences(field, value, "training")) == 2
            assert len(book.sentences(field, value, "held_out")) >= 3
    assert len(set(book.all_sentences())) == len(book.all_sentences())


def test_the_published_wrong_maps() -> None:
    assert load_prompts("birads", "category").wrong("birads") == {"2": "5", "3": "5", "4": "2", "5": "2"}
    nsclc = load_prompts("nsclc", "category")
    assert {nsclc.wrong("t_stage")[stage] for stage in ("Tis", "T1a", "T1b", "T2a")} == {"T4"}
    assert {nsclc.wrong("t_stage")[stage] for stage in ("T2b", "T3", "T4")} == {"T1a"}
    assert nsclc.wrong("histology")["Squamous cell carcinoma"] == "Adenocarcinoma"


def test_plausible_classes_are_neighbours_or_what_the_file_names() -> None:
    assert load_prompts("birads", "category").plausible("birads") == {
        "2": ("3",),
        "3": ("2", "4"),
        "4": ("3", "5"),
        "5": ("4",),
    }
    nsclc = load_prompts("nsclc", "category")
    stages = nsclc.classes("t_stage")
    for place, stage in enumerate(stages):
        assert set(nsclc.plausible("t_stage")[stage]) == {
            *stages[max(place - 1, 0) : place],
            *stages[place + 1 : place + 2],
        }
    assert nsclc.plausible("histology")["Squamous cell carcinoma"] == ("NSCLC NOS",)


def test_whole_numbers_alone_have_an_order_of_their_own() -> None:
    assert find_neighbours(("10", "2", "-1")) == {"-1": ("2",), "2": ("-1", "10"), "10": ("2",)}
    assert find_neighbours(("benign", "malignant")) == {}
    assert find_neighbours(("4a", "4b")) == {}
    assert find_neighbours(("1",)) == {}


def test_family_typical_adds_to_the_sentence_and_changes_the_hash() -> None:
    plain, typical = load_prompts("birads", "category"), load_prompts("birads", "typical")
    pairs = zip(plain.sentences("birads", "5", "training"), typical.sentences("birads", "5", "training"), strict=True)
    assert all(longer.startswith(short) and len(longer) > len(short) for short, longer in pairs)
    assert plain.sentences("birads", "unknown", "training") == typical.sentences("birads", "unknown", "training")
    assert plain.sha256 != typical.sha256


def test_unknown_names_are_refused() -> None:
    with raises_naming(RecipeError, "prompts.family", "florid", "category", "typical"):
        load_prompts("birads", "florid")
    with raises_naming(RecipeError, "prompts.file", "no-such-file", "birads", "nsclc"):
        load_prompts("no-such-file", "category")


def spoil_unknown(raw: dict) -> None:
    del raw["fields"]["birads"]["classes"]["unknown"]


def spoil_held_out(raw: dict) -> None:
    del raw["fields"]["birads"]["classes"]["2"]["held_out"]


def spoil_repeat(raw: dict) -> None:
    classes = raw["fields"]["birads"]["classes"]
    classes["2"]["training"] = classes["3"]["training"]


def spoil_type(raw: dict) -> None:
    raw["fields"]["birads"]["classes"]["2"]["training"] = [7]


def spoil_wrong(raw: dict) -> None:
    raw["fields"]["birads"]["wrong"]["2"] = "2"


def spoil_plausible(raw: dict) -> None:
    raw["fields"]["birads"]["plausible"] = {"2": ["3"], "3": ["4"], "4": ["7"], "5": ["4"]}


def spoil_plausible_classes(raw: dict) -> None:
    raw["fields"]["birads"]["plausible"] = {"2": ["3"], "3": ["2", "4"], "4": ["5"]}


def spoil_plausible_itself(raw: dict) -> None:
    raw["fields"]["birads"]["plausible"] = {"2": ["3"], "3": ["4"], "4": ["4"], "5": ["4"]}


def spoil_key(raw: dict) -> None:
    raw["fields"]["birads"]["classes"]["2"]["traning"] = ["x"]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (spoil_unknown, {"fields.birads", "classes", '"unknown"'}),
        (spoil_held_out, {"fields.birads.classes.2.held_out", "required"}),
        (
            spoil_repeat,
            {"sentence", load_prompts("birads", "category").sentences("birads", "3", "training")[0]},
        ),
        (spoil_type, {"fields.birads.classes.2.training.0"}),
        (spoil_wrong, {"fields.birads", "wrong.2", 2}),
        (spoil_plausible, {"fields.birads", "plausible.4", 7}),
        (spoil_plausible_classes, {"fields.birads", "plausible", "5"}),
        (spoil_plausible_itself, {"fields.birads", "plausible.4", 4}),
        (spoil_key, {"fields.birads.classes.2.traning"}),
    ],
)
def test_a_users_own_file_is_checked(tmp_path: Path, spoil: object, named: set[object]) -> None:
    raw = yaml.safe_load((FOLDER / "birads.yaml").read_text())
    spoil(raw)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw))
    with raises_naming(RecipeError, path, *named):
        load_prompts(str(path), "category")


@pytest.mark.parametrize("text", ["fields: [", "fields: 2024-13-45", "fields: 0x_"])
def test_a_users_own_file_that_is_no_yaml_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with raises_naming(RecipeError, path):
        load_prompts(str(path), "category")
