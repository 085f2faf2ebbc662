"""The readers of data sets, and which there are."""
