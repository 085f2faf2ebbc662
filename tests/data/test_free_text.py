import hashlib

import pytest

from t2m_bench.data.free_text import mask_numbers, name_text, normalise


def test_texts_are_equal_whatever_their_blanks_and_accents() -> None:
    assert normalise("  mass,\n  cafe\u0301\t") == normalise("mass, caf\u00e9") == "mass, caf\u00e9"
    assert name_text("mass") == f"t{hashlib.sha256(b'mass').hexdigest()[:8]}"
    assert name_text("") == "unknown"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mass 12 mm at 3 o'clock.", "mass # at #."),
        ("12 x 8 mm, 1.5cm deep", "#, # deep"),
        ("BI-RADS 4, 5 mmol", "BI-RADS #, # mmol"),
        ("covers 30 % here", "covers # here"),
        ("oval, dark", "oval, dark"),
    ],
)
def test_numbers_are_masked_with_their_units(text: str, masked: str) -> None:
    assert mask_numbers(text) == masked
