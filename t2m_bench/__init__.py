"""t2m-bench: trains and benchmarks text-guided fusion adapters between frozen MedSAM parts."""

__version__ = "0.1.0"
