"""The training loop, its state on disk, and evaluation."""
