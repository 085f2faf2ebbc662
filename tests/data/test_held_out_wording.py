from pathlib import Path

import pytest
import yaml

from t2m_bench.data.held_out_wording import FEWEST_WORDINGS, check_held_out
from t2m_bench.data.prompts import FAMILIES, FOLDER, load_prompts

SHIPPED = [path.stem for path in FOLDER.glob("*.yaml")]
EXTENDING = Path(__file__).resolve().parents[1] / "extending" / "prompts.yaml"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [*SHIPPED, str(EXTENDING)])
def test_shipped_files_hold_out_three_sentences_a_class_that_do_not_name_it(name: str, family: str) -> None:
    found = check_held_out(load_prompts(name, family))
    assert found.naming == ()
    assert found.num_wordings >= FEWEST_WORDINGS
    assert found.is_kept


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("A mass of category 3.", ("3",)),
        ("BIRADS-3", ("3",)),
        ("It is PROBABLY harmless.", ("probably",)),
        ("Seen again after 6 months.", ("6",)),
        ("Seen again after 16 months.", ()),
        ("A mass of low suspicion.", ()),
    ],
)
def test_a_sentence_with_the_class_s_name_or_a_number_of_its_training_is_found(
    tmp_path: Path, sentence: str, words: tuple[str, ...]
) -> None:
    raw = yaml.safe_load((FOLDER / "birads.yaml").read_text())
    described = raw["fields"]["birads"]["classes"]["3"]
    described["training"][1] = "Malignancy unlikely: seen again in 6 months."
    described["held_out"] = [sentence]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw))
    found = check_held_out(load_prompts(str(path), "category"))
    assert found.num_wordings == 1
    assert not found.is_kept
    assert [(naming.value, naming.words) for naming in found.naming] == ([("3", words)] if words else [])
