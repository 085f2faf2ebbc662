"""Side by side in one run: the plain way, ours, and the limit. Nothing here imports Ray, Accelerate or transformers."""
