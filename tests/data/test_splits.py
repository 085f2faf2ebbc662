from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from messages import raises_naming

from t2m_bench.data.case import Case
from t2m_bench.data.splits import make_splits, split_cases
from t2m_bench.errors import DatasetError
from t2m_bench.recipe.schema import DatasetSection

patients = st.lists(st.tuples(st.integers(1, 3), st.sampled_from("2345"), st.integers(1, 3)), min_size=12, max_size=60)


IMAGE = (Path("image"), Path("mask"), 9, 9, (0, 0, 3, 3))


def make_cases(drawn: list[tuple[int, str, int]]) -> list[Case]:
    """One (images, class, fold) a patient."""
    return [
        Case(
            f"c{number}-{image}",
            f"p{number}",
            Path("i"),
            Path("m"),
            9,
            9,
            (0, 0, 3, 3),
            {"birads": name},
            fold,
            None,
            (),
            "",
            "",
        )
        for number, (images, name, fold) in enumerate(drawn)
        for image in range(images)
    ]


@settings(max_examples=60)
@given(patients, st.integers(0, 99), st.sampled_from([None, 1]))
def test_no_patient_stands_on_two_sides_and_no_case_is_lost(drawn: list, seed: int, fold: int | None) -> None:
    cases = make_cases(drawn)
    try:
        splits = make_splits(cases, test_fold=fold, val_fraction=0.2, seed=seed, field="birads")
    except DatasetError:
        return
    assert sorted(splits.train + splits.val + splits.test) == sorted(case.case_id for case in cases)
    sides = [{case_id.split("-")[0] for case_id in part} for part in (splits.train, splits.val, splits.test)]
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
    if fold is not None:
        assert set(splits.test) == {case.case_id for case in cases if case.fold == fold}
    assert splits == make_splits(cases, test_fold=fold, val_fraction=0.2, seed=seed, field="birads")


def test_validation_keeps_the_share_of_each_class() -> None:
    cases = make_cases([(1, "2", 1)] * 20 + [(1, "2", 2)] * 80 + [(2, "5", 2)] * 20)
    splits = make_splits(cases, test_fold=1, val_fraction=0.25, seed=0, field="birads")
    classes = {case.case_id: case.text_fields["birads"] for case in cases}
    assert [classes[case_id] for case_id in splits.val].count("2") == 20
    assert [classes[case_id] for case_id in splits.val].count("5") == 10  # five patients of two images


def test_other_seeds_draw_other_patients() -> None:
    cases = make_cases([(1, "3", 1 + number % 3) for number in range(60)])
    drawn = {make_splits(cases, test_fold=1, val_fraction=0.3, seed=s, field="birads").val for s in range(3)}
    assert len(drawn) == 3


def test_a_fold_that_does_not_exist_is_named() -> None:
    cases = make_cases([(1, "2", 1)] * 10)
    with raises_naming(DatasetError, "dataset.test_fold", 7, 1):
        make_splits(cases, test_fold=7, val_fraction=0.2, seed=0, field="birads")


def test_derived_folds_spread_each_class_and_do_not_move_with_the_validation_patients() -> None:
    drawn = [(3, name, None) for name in ("T1a",) * 20 + ("T2a",) * 11 + ("T4",) * 3]
    cases = make_cases(drawn)
    class_of = {case.case_id: case.text_fields["birads"] for case in cases}
    tested = []
    for fold in range(1, 6):
        parts = [make_splits(cases, test_fold=fold, val_fraction=0.2, seed=seed, field="birads") for seed in range(3)]
        assert len({splits.test for splits in parts}) == 1
        assert len({splits.val for splits in parts}) == 3
        counts = Counter(class_of[case_id] for case_id in parts[0].test)
        assert counts["T1a"] == 3 * 4
        assert counts["T2a"] in (3 * 2, 3 * 3)
        assert counts["T4"] in (0, 3)
        tested += parts[0].test
    assert sorted(tested) == sorted(class_of)
    other = make_splits(cases, test_fold=1, val_fraction=0.2, seed=0, field="birads", fold_seed=1)
    assert other.test != make_splits(cases, test_fold=1, val_fraction=0.2, seed=0, field="birads").test
    turned = make_splits(cases[::-1], test_fold=1, val_fraction=0.2, seed=0, field="birads", fold_seed=1)
    assert sorted(turned.test) == sorted(other.test)


def test_published_splits_draw_images_and_choose_on_the_test_cases() -> None:
    cases = make_cases([(2, "2345"[number % 4], 1 + number % 3) for number in range(60)])
    dataset = DatasetSection(root=Path("x"), split_by="image")
    splits = split_cases(cases, dataset, "birads")
    assert sorted([*splits.train, *splits.val, *splits.test]) == sorted(case.case_id for case in cases)
    assert len(splits.test) == 24
    patient_of = {case.case_id: case.patient_id for case in cases}
    shared = {patient_of[name] for name in splits.train} & {patient_of[name] for name in splits.test}
    assert len(shared) > 5, "images of a patient fall on both sides"
    assert split_cases(cases, dataset, "birads") == splits
    assert split_cases(cases, dataset.model_copy(update={"test_fold": 2}), "birads") != splits
    on_test = split_cases(cases, dataset.model_copy(update={"validation": "test"}), "birads")
    assert on_test.val == on_test.test == splits.test
    assert set(on_test.train) == {*splits.train, *splits.val}
    assert set(on_test.outside_test) == {*splits.train, *splits.val}, "what is fitted beside training sees no test case"
    assert set(splits.outside_test) == {*splits.train, *splits.val}
