"""The page in a real browser: no error on the console, drawn on a desk and on a phone, sorted by a click."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2m_bench.reporting.report import write_report
from t2m_bench.reporting.results import load_experiment

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--enable-logging=stderr",
    "--virtual-time-budget=3000",
)  # fmt: skip

PROBE = """<script>
addEventListener("load", () => {
  const table = document.querySelector("table.sortable"), heads = table.tHead.rows[0].cells;
  const first = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent).join("|");
  const place = [...heads].findIndex(head => head.textContent.startsWith("Dice"));
  heads[place].firstChild.click(); const up = first();
  heads[place].firstChild.click(); const down = first();
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  const broken = [...document.images].filter(image => !image.complete || !image.naturalWidth).length;
  document.title = JSON.stringify({up, down, wide, broken, sort: heads[place].getAttribute("aria-sort")});
});
</script>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium here: the page is not looked at in a browser (Debian: chromium)")
    return found


@pytest.fixture(scope="module")
def page(whole_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(whole_suite, tmp_path_factory.mktemp("page") / whole_suite.name))
    return write_report(load_experiment(folder), ("html",)).paths["html"]


def open_page(chromium: str, page: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [chromium, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *arguments, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("size", ["1300,2000", "400,2000"])
def test_the_page_is_drawn(chromium: str, page: Path, tmp_path: Path, size: str) -> None:
    picture = tmp_path / "page.png"
    open_page(chromium, page, tmp_path, f"--window-size={size}", f"--screenshot={picture}")
    drawn = np.asarray(Image.open(picture).convert("L"))
    assert drawn.shape == tuple(int(side) for side in reversed(size.split(",")))
    written_rows = (drawn.min(axis=1) < 128).mean()  # dark ink on a light ground
    assert written_rows > 0.3, "text and figures, not an empty page"


@pytest.mark.parametrize("width", [1300, 400])
def test_a_click_sorts_and_nothing_sticks_out(chromium: str, page: Path, tmp_path: Path, width: int) -> None:
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", f"{PROBE}</body>"))
    shown = open_page(chromium, probed, tmp_path, f"--window-size={width},1000", "--dump-dom").stdout
    found = re.search(r"<title>(\{.*?\})</title>", shown)
    assert found is not None
    told = found.group(1)
    assert '"wide":false' in told, "wide tables scroll by themselves, not the page"
    assert '"broken":0' in told
    assert '"sort":"descending"' in told
    up = re.search(r'"up":"([^"]*)"', told)
    down = re.search(r'"down":"([^"]*)"', told)
    assert up is not None
    assert down is not None
    assert up.group(1).split("|")[0] == "baseline (published †)"
    assert up.group(1).split("|")[-1] == down.group(1).split("|")[0]
    assert up.group(1) != down.group(1)
