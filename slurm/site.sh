# What differs from site to site, in one place; read by every script beside it, on every node. Nothing here is required.
# Which account, partition and GPU a job gets is said to sbatch:  sbatch -A ... -p ... --gres=gpu:2 slurm/train.sh

# Modules, virtual environment or container: whatever puts t2m-bench on the PATH of a node.
# module load cuda
if [ -f "$T2M_HOME/.venv/bin/activate" ] && [ -z "${VIRTUAL_ENV:-}" ]; then
  . "$T2M_HOME/.venv/bin/activate"
fi

# The network interface that nodes talk over, such as ib0; empty: the address that a node's own name has.
T2M_INTERFACE="${T2M_INTERFACE:-}"

# Memory of a node that Ray may plan with, in per cent of what the job has there; the rest is for the driver and caches.
T2M_MEMORY_SHARE="${T2M_MEMORY_SHARE:-80}"
