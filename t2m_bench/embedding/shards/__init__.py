"""Frozen embeddings on disk: the only HDF5 code."""
