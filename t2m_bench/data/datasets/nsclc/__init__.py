"""NSCLC-Radiogenomics: CT series, segmentations and a clinical table."""
