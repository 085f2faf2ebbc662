from t2m_bench.perf import everything
from t2m_bench.perf.embed import measure_embed
from t2m_bench.perf.epoch import measure_epoch
from t2m_bench.perf.everything import WORKS, find_measure, format_table
from t2m_bench.perf.measure import LIMIT, OURS, PLAIN, Measurement, Row, Seconds, measure
from t2m_bench.perf.scaling import measure_scaling


def make_measurement(name: str) -> Measurement:
    rows = (Row(PLAIN, "a", 4.0, 3, 5), Row(OURS, "b", 2.0, 1.5, 2.5), Row(LIMIT, "c", 1.0, 1, 1))
    return Measurement(name, "here", rows)


def test_the_table_has_a_row_for_each_setting() -> None:
    table = format_table([make_measurement("step").with_others(make_measurement("step bf16"))])
    assert table.splitlines()[2] == "| step: here | 4,000 ms | 2,000 ms (1,500 to 2,500) | 1,000 ms | 2.00 | 0.50 |"
    assert table.splitlines()[3].startswith("| step bf16: here |")


def test_every_work_can_be_found() -> None:
    assert all(callable(find_measure(work)) for work in WORKS)
    assert set(everything.ON_DEVICE) <= set(WORKS)


def test_work_that_times_itself_is_believed() -> None:
    found = measure("x", "", {(PLAIN, "p"): lambda: Seconds(3.0), (OURS, "o"): lambda: 5.0}, repeats=1)
    assert found.median(PLAIN) == 3.0
    assert found.median(OURS) < 1.0


def test_an_epoch_from_shards_has_the_loss_of_one_with_the_encoder() -> None:
    found = measure_epoch("cpu", preset="mini", repeats=1)
    assert {row.way for row in found.rows} == {PLAIN, OURS, LIMIT}


def test_embedding_stores_what_the_plain_way_stores() -> None:
    found = measure_embed("cpu", num_cases=5, repeats=1)
    assert {row.way for row in found.rows} == {PLAIN, OURS, LIMIT}


def test_two_workers_train_beside_one() -> None:
    found = measure_scaling("cpu", grid=4, batch_size=4, num_steps=1, repeats=1)
    assert {row.way for row in found.rows} == {PLAIN, OURS, LIMIT}
