"""The only Ray code: sessions, training and embedding on many processes.

Ray starts killed workers again (see `cluster.max_failures` in train_job.py, bench_job.py, embed_job.py);
slurm/ray.sh requeues a Slurm job.
"""
