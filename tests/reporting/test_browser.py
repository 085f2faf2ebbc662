"""Pages in a real browser: no error on the console, drawn on a desk and on a phone, sorted or bared by a click."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from t2m_bench.data.case import Case
from t2m_bench.data.prompts import load_prompts
from t2m_bench.reporting.inspection import Page, make_card, render_page
from t2m_bench.reporting.report import SUPPLEMENT_NAME, write_report
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


PHONE = """<script>
addEventListener("load", () => {
  const frames = [...document.querySelectorAll("iframe")].map(frame => frame.contentDocument.documentElement);
  document.title = JSON.stringify(frames.map(page => page.scrollWidth - page.clientWidth));
});
</script>"""


def test_page_one_needs_no_sideways_scrolling(chromium: str, page: Path, tmp_path: Path) -> None:
    frames = "".join(f'<iframe src="{page.as_uri()}" width="{width}" height="900"></iframe>' for width in (1280, 390))
    frame = tmp_path / "frames.html"
    frame.write_text(f"<!doctype html><title></title>{frames}{PHONE}")
    shown = open_page(chromium, frame, tmp_path, "--allow-file-access-from-files", "--dump-dom").stdout
    assert "<title>[0,0]</title>" in shown, "pixels that stick out at 1280 and at 390"


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
    supplement = page.with_name(SUPPLEMENT_NAME)
    probed.write_text(supplement.read_text().replace("</body>", f"{PROBE}</body>"))
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


@pytest.fixture(scope="module")
def inspected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of one black image with a bright lesion, outlined."""
    mask = np.zeros((100, 100), bool)
    mask[30:70, 20:80] = True
    case = Case("case-1", "", Path(), Path(), 100, 100, (20, 30, 80, 70), {"birads": "4"}, 1, None, ("x",), "", "")
    book = load_prompts("birads", "category")
    card = make_card(case, book, case.flags, mask.astype(np.uint8) * 120, mask)
    path = tmp_path_factory.mktemp("inspect") / "inspect.html"
    path.write_text(render_page(Page("small", "phantoms", 0, "", [case], book, {"case-1": ("x",)}), [card], []))
    return path


@pytest.mark.parametrize("scheme", ["0", "1"])  # dark, light
@pytest.mark.parametrize("size", ["1300,700", "500,700"])
def test_outlines_are_drawn_around_the_lesion(
    chromium: str, inspected: Path, tmp_path: Path, size: str, scheme: str
) -> None:
    def draw(page: Path) -> np.ndarray:
        picture = tmp_path / "page.png"
        scheme_flag = f"--blink-settings=preferredColorScheme={scheme}"
        open_page(chromium, page, tmp_path, f"--window-size={size}", scheme_flag, f"--screenshot={picture}")
        return np.asarray(Image.open(picture).convert("RGB")).astype(int)

    bare = tmp_path / "bare.html"
    bare.write_text(inspected.read_text().replace('id="bare"', 'id="bare" checked'))
    outlined = (draw(inspected) != draw(bare)).any(axis=2)
    assert 500 < outlined.sum() < 20_000, "strokes, and nothing else, go with the box that is ticked"
    plain = draw(bare).mean(axis=2)
    ground = 0 if scheme == "0" else 255
    assert abs(plain[3, 3] - ground) < 30
    lesion = ndimage.binary_opening(abs(plain - 120) < 3, np.ones((25, 25)))  # text has no patch of one grey
    rows, columns = np.flatnonzero(lesion.any(axis=1)), np.flatnonzero(lesion.any(axis=0))
    drawn = np.flatnonzero(outlined[rows[0] - 4 : rows[-1] + 5].any(axis=0))
    assert abs(drawn[0] - columns[0]) <= 4, "the outline begins where the lesion does"
