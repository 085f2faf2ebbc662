"""One entry of each of the five tables of t2m-bench, one file each."""
