import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from messages import check_names, is_named, raises_naming
from server import Site, serve

from t2m_bench.data.datasets.bus_bra import read_bus_bra
from t2m_bench.data.phantoms.bus_bra import write_bus_bra_phantom
from t2m_bench.errors import FetchError
from t2m_bench.fetching import fetch
from t2m_bench.fetching.download import CHUNK_BYTES, Source, download
from t2m_bench.fetching.fetch import check_series, fetch_bus_bra, fetch_medsam, fetch_nsclc, select_series
from t2m_bench.fetching.unpack import unpack_zip
from t2m_bench.terminal import Terminal

CONTENT = os.urandom(3_000_000)


def make_source(site: Site, content: bytes = CONTENT, name: str = "file.bin") -> Source:
    return Source(name, f"{site.url}/{name}?download=1", len(content), hashlib.md5(content).hexdigest())


def test_a_cut_connection_is_continued_where_it_was_cut(tmp_path: Path) -> None:
    with serve(Site({"file.bin": CONTENT}, cuts=2)) as site:
        told: list[tuple[int, int]] = []
        download(make_source(site), tmp_path / "file.bin", lambda done, total: told.append((done, total)), wait_s=0.01)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for _, asked in site.asked[1:]]
    assert 1_500_000 - CHUNK_BYTES < starts[0] <= 1_500_000 < 2_250_000 - 2 * CHUNK_BYTES < starts[1] <= 2_250_000
    assert told[-1] == (3_000_000, 3_000_000)
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_a_later_run_continues_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    with serve(Site({"file.bin": CONTENT}, cuts=5)) as site:
        with raises_naming(FetchError, site.url + "/file.bin?download=1", "5 times") as caught:
            download(make_source(site), path, wait_s=0.01)
        assert not path.exists()
        kept = (tmp_path / "file.bin.partial").stat().st_size
        check_names(caught.value, f"{kept:,} bytes")
        assert kept > 2_500_000
        download(make_source(site), path, wait_s=0.01)
    assert path.read_bytes() == CONTENT
    assert site.asked[-1] == ("file.bin", f"bytes={kept}-")


def test_a_whole_piece_is_not_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "file.bin.partial").write_bytes(CONTENT)
    with serve(Site({"file.bin": CONTENT})) as site:
        download(make_source(site), tmp_path / "file.bin")
    assert site.asked == []


def test_what_has_neither_size_nor_checksum_is_fetched_from_its_start(tmp_path: Path) -> None:
    (tmp_path / "file.bin.partial").write_bytes(b"of another version")
    with serve(Site({"file.bin": CONTENT})) as site:
        download(replace(make_source(site), num_bytes=None, md5=None), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert site.asked == [("file.bin", None)]


def test_a_wrong_checksum_and_a_wrong_size_leave_nothing(tmp_path: Path) -> None:
    with serve(Site({"file.bin": CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])})) as site:
        sums = [hashlib.md5(content).hexdigest() for content in (CONTENT, site.files["file.bin"])]
        with raises_naming(FetchError, "file.bin", "MD5", *sums):
            download(make_source(site), tmp_path / "file.bin")
        with raises_naming(FetchError, "file.bin", "3,000,000", 7):
            download(replace(make_source(site), num_bytes=7), tmp_path / "file.bin")
    assert list(tmp_path.iterdir()) == []


def test_an_absent_file_and_an_absent_server_are_one_message(tmp_path: Path) -> None:
    with serve(Site({})) as site, raises_naming(FetchError, "file.bin", 404):
        download(make_source(site), tmp_path / "file.bin")
    with raises_naming(FetchError, site.url + "/file.bin?download=1", "5 times"):
        download(make_source(site), tmp_path / "file.bin", wait_s=0.01)


def make_zip(members: dict[str, bytes], kinds: dict[str, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = ((kinds or {}).get(name, stat.S_IFREG) | 0o644) << 16
            archive.writestr(info, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("members", "kinds", "reason"),
    [
        ({"good": b"1", "../bad": b"2"}, {}, "outside"),
        ({"good": b"1", "a/../../bad": b"2"}, {}, "outside"),
        ({"good": b"1", "/bad": b"2"}, {}, "outside"),
        ({"good": b"1", "..\\bad": b"2"}, {}, "outside"),
        ({"good": b"1", "C:/bad": b"2"}, {}, "outside"),
        ({"good": b"1", "link": b"/etc/passwd"}, {"link": stat.S_IFLNK}, "link"),
    ],
)
def test_an_archive_that_reaches_out_is_refused_whole(
    tmp_path: Path, members: dict[str, bytes], kinds: dict[str, int], reason: str
) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(make_zip(members, kinds))
    with raises_naming(FetchError, archive, repr([*members][-1]), reason):
        unpack_zip(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_link_that_was_there_before_is_not_followed(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(make_zip({"folder/file": b"1"}))
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "folder").symlink_to(tmp_path / "elsewhere")
    with raises_naming(FetchError, tmp_path / "out" / "folder" / "file", "link"):
        unpack_zip(archive, tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_spoilt_archive_and_an_altered_file_are_noticed(tmp_path: Path) -> None:
    archive, content = tmp_path / "a.zip", b"content of a file " * 50
    archive.write_bytes(make_zip({"file": content}))
    assert unpack_zip(archive, tmp_path) == 1
    (tmp_path / "file").write_bytes(content[:-1] + b"X")
    assert unpack_zip(archive, tmp_path) == 1
    assert (tmp_path / "file").read_bytes() == content
    archive.write_bytes(archive.read_bytes()[:-30])
    with raises_naming(FetchError, archive, "zip"):
        unpack_zip(archive, tmp_path)


def test_bus_bra_is_fetched_unpacked_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bus_bra_phantom(tmp_path / "BUSBRA", num_cases=6, seed=1, text_effect=1.0)
    paths = [path for path in (tmp_path / "BUSBRA").rglob("*") if path.is_file()]
    archive = make_zip({str(path.relative_to(tmp_path)): path.read_bytes() for path in paths})
    with serve(Site({"BUSBRA.zip": archive}, cuts=1)) as site:
        monkeypatch.setattr(fetch, "BUS_BRA_ZIP", make_source(site, archive, "BUSBRA.zip"))
        fetched = fetch_bus_bra(tmp_path / "out", Terminal())
        assert fetch_bus_bra(tmp_path / "out", Terminal()) == fetched
    assert len(site.asked) == 2  # cut once; the second call fetched nothing
    assert fetched.files == len(paths)
    assert fetched.hint == f"dataset.root={tmp_path / 'out'}"
    assert len(read_bus_bra(tmp_path / "out")) == 6
    record = json.loads((tmp_path / "out" / "fetched.json").read_text())["BUSBRA.zip"]
    assert record["sha256"] == hashlib.sha256(archive).hexdigest()
    assert record["url"].startswith(site.url)


def test_weights_whose_checksum_nobody_published_are_noted_and_an_altered_file_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(Site({"medsam_vit_b.pth": CONTENT})) as site:
        source = replace(make_source(site, CONTENT, "medsam_vit_b.pth"), md5=None)
        monkeypatch.setattr(fetch, "MEDSAM_WEIGHTS", source)
        fetched = fetch_medsam(tmp_path, Terminal())
        (tmp_path / "medsam_vit_b.pth").write_bytes(CONTENT[:-1] + b"?")
        fetch_medsam(tmp_path, Terminal())
    assert (tmp_path / "medsam_vit_b.pth").read_bytes() == CONTENT
    assert fetched.hint.endswith(f"image_encoder.checkpoint={tmp_path / 'medsam_vit_b.pth'}")
    check_names(capsys.readouterr().out, f"sha256 {hashlib.sha256(CONTENT).hexdigest()}", "no checksum")


def test_the_text_encoder_comes_from_a_hub(tmp_path: Path) -> None:
    name, commit = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract", "0" * 40
    files = {"config.json": b'{"model_type": "bert"}', "vocab.txt": b"[PAD]\n", "flax_model.msgpack": b"unused"}
    listed = {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]}
    served = {f"api/models/{name}/revision/main": json.dumps(listed).encode()}
    tree = [{"type": "file", "path": file, "oid": "1", "size": len(content)} for file, content in files.items()]
    served |= {f"api/models/{name}/tree/{commit}": json.dumps(tree).encode()}
    served |= {f"{name}/resolve/{commit}/{file}": content for file, content in files.items()}
    command = [sys.executable, "-c", "from t2m_bench.cli import main; main()", "fetch", "pubmedbert", tmp_path / "out"]
    with serve(Site({}, headers={"ETag": '"1"', "X-Repo-Commit": commit})) as site:
        environment = os.environ | {"HF_ENDPOINT": site.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        refused = subprocess.run(command, env=environment, capture_output=True, text=True)
        site.files = served
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert refused.returncode == 2
    check_names(refused.stderr, "t2m-bench", name, "hub")
    assert len(refused.stderr.splitlines()) == 1
    assert done.returncode == 0, done.stderr
    assert f"text_encoder.name={tmp_path / 'out'}" in done.stdout
    for file in ("config.json", "vocab.txt"):
        assert (tmp_path / "out" / file).read_bytes() == files[file]
    assert not (tmp_path / "out" / "flax_model.msgpack").exists()


def test_only_the_authors_own_segmentations_and_their_studies_are_wanted() -> None:
    rows = [
        ("nsclc_radiogenomics", "CT", "study-1", None, "ct-1"),
        ("nsclc_radiogenomics", "SEG", "study-1", None, "seg-1"),
        ("nsclc_radiogenomics", "SEG", "study-1", "bamf_aimi_annotations", "seg-by-others"),
        ("nsclc_radiogenomics", "PT", "study-1", None, "pet-1"),
        ("nsclc_radiogenomics", "CT", "study-2", None, "ct-without-seg"),
        ("nsclc_radiogenomics", "SEG", "study-2", "bamf_aimi_annotations", "seg-by-others-2"),
        ("another", "CT", "study-3", None, "ct-3"),
    ]
    columns = ["collection_id", "Modality", "StudyInstanceUID", "analysis_result_id", "SeriesInstanceUID"]
    wanted = select_series(pd.DataFrame(rows, columns=columns))
    assert list(wanted["SeriesInstanceUID"]) == ["ct-1", "seg-1"]


def test_series_of_which_files_are_missing_are_noticed(tmp_path: Path) -> None:
    wanted = pd.DataFrame({"SeriesInstanceUID": ["1.2", "1.3"], "instanceCount": [2, 1]})
    for series, name in (("CT_1.2", "a"), ("CT_1.2", "b"), ("SEG_1.3", "c")):
        with raises_naming(FetchError, tmp_path, "2 series") as caught:
            check_series(tmp_path, wanted)
        assert is_named(str(caught.value), "1.3" if name == "c" else "1.2")
        (tmp_path / "R01-001" / "study" / series).mkdir(parents=True, exist_ok=True)
        (tmp_path / "R01-001" / "study" / series / f"{name}.dcm").touch()
    check_series(tmp_path, wanted)


def test_the_real_index_has_a_segmentation_of_144_patients() -> None:
    idc_index_data = pytest.importorskip("idc_index_data", reason="idc-index (extra nsclc) is not installed")
    columns = ["collection_id", "Modality", "StudyInstanceUID", "analysis_result_id", "PatientID", "instanceCount"]
    wanted = select_series(pd.read_parquet(idc_index_data.IDC_INDEX_PARQUET_FILEPATH, columns=columns))
    segs = wanted[wanted["Modality"] == "SEG"]
    assert len(segs) == segs["PatientID"].nunique() == 144
    assert set(wanted["PatientID"]) == set(segs["PatientID"])
    assert (segs["instanceCount"] == 1).all()


COLUMNS = ["collection_id", "Modality", "StudyInstanceUID", "analysis_result_id", "SeriesInstanceUID"]
TABLE = b"Case ID,Pathological T stage,Histology \nR01-001,T1a,Adenocarcinoma\n"


class FolderOfImages:
    """Stands for the client of the Imaging Data Commons, which has no local server: it lays one file down."""

    index = pd.DataFrame([("nsclc_radiogenomics", "SEG", "study-1", None, "1.2")], columns=COLUMNS).assign(
        series_size_MB=1.0, instanceCount=1
    )

    def download_from_selection(self, **asked: object) -> None:
        series = Path(str(asked["downloadDir"]), "R01-001", "study", "SEG_1.2")
        series.mkdir(parents=True, exist_ok=True)
        (series / "a.dcm").touch()


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "idc_index", SimpleNamespace(IDCClient=FolderOfImages))


def test_without_the_clinical_table_the_images_are_there_and_the_way_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: None
) -> None:
    page = b"<html>\n<body>,,\n,,,,,\n</body></html>\n"
    record = tmp_path / "data" / fetch.RECORD_NAME
    with serve(Site({"labels.csv": page})) as site:
        source = replace(make_source(site, page, "labels.csv"), num_bytes=None, md5=None)
        monkeypatch.setattr(fetch, "NSCLC_TABLE", source)
        for files in ({}, {"labels.csv": page}):  # a refusal, and a page that is answered as if it were the table
            site.files = files
            with raises_naming(FetchError, "images", site.url + "/labels.csv?download=1", tmp_path / "data") as caught:
                fetch_nsclc(tmp_path / "data", Terminal())
            assert "\n" not in str(caught.value)
            assert not list(tmp_path.rglob("labels.csv"))
            assert "labels.csv" not in (record.read_text() if record.exists() else "")
        assert len(list(tmp_path.rglob("a.dcm"))) == 1
        site.files = {"labels.csv": TABLE}
        assert fetch_nsclc(tmp_path / "data", Terminal()).hint == f"dataset.root={tmp_path / 'data'}"
    assert (tmp_path / "data" / "labels.csv").read_bytes() == TABLE
    assert json.loads(record.read_text()).keys() == {"labels.csv"}


def test_a_clinical_table_that_was_put_there_is_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "by-hand.csv").write_bytes(TABLE)
    with serve(Site({"labels.csv": TABLE})) as site:
        monkeypatch.setattr(fetch, "NSCLC_TABLE", make_source(site, TABLE, "labels.csv"))
        fetch_nsclc(tmp_path, Terminal())
    assert site.asked == []
    assert f"reused {tmp_path / 'by-hand.csv'}" in capsys.readouterr().out


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "idc_index", None)
    with raises_naming(FetchError, "idc-index", ".[nsclc]"):
        fetch_nsclc(tmp_path / "data", Terminal())
    assert not (tmp_path / "data").exists()
