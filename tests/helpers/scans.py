"""Lung phantoms for tests, a scan at a time."""

from pathlib import Path

import numpy as np

from t2m_bench.data.datasets.nsclc.ct_volume import CtVolume, build_volume
from t2m_bench.data.datasets.nsclc.dicom_series import Header, find_patients
from t2m_bench.data.datasets.nsclc.seg import load_seg, read_masks
from t2m_bench.data.phantoms.nsclc import Patient, draw_patients, draw_scan
from t2m_bench.data.phantoms.nsclc_dicom import Scan

SEED = 5


def make_scan(number: int = 1) -> Scan:
    """Return the anatomy of one patient."""
    patient: Patient = draw_patients(SEED, number, False)[-1]
    return draw_scan(SEED, patient)


def read_back(folder: Path) -> tuple[CtVolume, list[Header]]:
    """Return the only series below a folder, and the segmentations there."""
    patients, excluded = find_patients(folder)
    assert excluded == []
    (files,) = patients.values()
    (series,) = files.ct.values()
    return build_volume(series), files.segs


def read_segment(seg: Header, volume: CtVolume, number: int = 1) -> np.ndarray:
    """Return one segment as (slices, rows, columns)."""
    segments, lost = read_masks(load_seg(seg.path), volume)
    assert lost == 0
    full = np.zeros((len(volume.slices), volume.slices[0].rows, volume.slices[0].columns), dtype=bool)
    for index, mask in segments[number].items():
        full[index] = mask
    return full
