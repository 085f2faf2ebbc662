"""What doctor looks at beside the cluster."""

from pathlib import Path

import pytest
from messages import check_names
from plugins import install

from t2m_bench.pipeline.doctor import look_at_packages
from t2m_bench.recipe.arms import ARMS

GROUPS = ("datasets", "image_encoders", "arms", "conditions", "measures")


def test_entries_of_other_packages_are_named_broken_or_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert look_at_packages().found == "none"
    (tmp_path / "broken").mkdir()
    points = {f"t2m_bench.{group}": "broken = broken_things:X" for group in GROUPS}
    imports = "import dataclasses\nfrom t2m_bench.recipe.arms import ARMS\n"
    code = f"{imports}X = dataclasses.replace(ARMS.own[0], name='theirs')"
    with (
        install(tmp_path, "more_things", code, {"t2m_bench.arms": "theirs = more_things:X"}),
        install(tmp_path / "broken", "broken_things", "raise ImportError('no such thing')", points),
    ):
        finding = look_at_packages()
        assert "theirs" in ARMS
    assert not finding.problem
    check_names(finding.found, "arm theirs", "broken-things")
    for what in ("data set", "image encoder", "arm", "condition", "measure"):
        check_names(finding.found, f"{what} broken", "broken_things:X")
    assert len(capsys.readouterr().err.splitlines()) == len(GROUPS)
