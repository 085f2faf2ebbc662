"""Reads a dataset folder into cases, prompts and patient-level splits."""
