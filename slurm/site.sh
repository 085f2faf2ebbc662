# What differs from site to site, in one place; read by every script beside it, on every node. Nothing here is required.
# Which account, partition and GPU a job gets is said to sbatch:
#   sbatch -A ... -p ... --gpus-per-node=2 --cpus-per-task=8 --mem=32G slurm/train.sh
# Commands here may fail and use unset variables, as conda's and modules' hooks do.
# T2M_HOME is the folder that holds slurm/: the checkout, or what `t2m-bench init DIR` made. Set it before sbatch only
# where Slurm cannot tell the path of the script (a script piped into sbatch).

# Modules, virtual environment or container: whatever puts t2m-bench on the PATH of a node.
# module load cuda
# eval "$(conda shell.bash hook)"; conda activate t2m
# A container (not tried; T2M_IMAGE names it; exec, so that signals reach the tool):
# for tool in t2m-bench ray python; do eval "$tool() { exec apptainer exec --nv \"\$T2M_IMAGE\" $tool \"\$@\"; }"; done
if [ -f "$T2M_HOME/.venv/bin/activate" ] && [ -z "${VIRTUAL_ENV:-}" ]; then
  . "$T2M_HOME/.venv/bin/activate"
fi

# The network interface that nodes talk over, such as ib0; empty: the address that a node's own name has.
T2M_INTERFACE="${T2M_INTERFACE:-}"

# A folder of each node's own, where Ray's session lies: two nodes that share it would take each other's sockets. Short,
# since a socket's whole path has 107 letters.
T2M_TEMP="${T2M_TEMP:-/tmp}"

# Memory of a node that Ray may plan with, in per cent of what the job has there; the rest is for the driver and caches.
T2M_MEMORY_SHARE="${T2M_MEMORY_SHARE:-80}"

# Seconds that nodes get to join Ray before the job fails.
T2M_JOIN_SECONDS="${T2M_JOIN_SECONDS:-60}"
export RAY_raylet_start_wait_time_s="${RAY_raylet_start_wait_time_s:-$T2M_JOIN_SECONDS}" # 30 are short on a busy node

# Losses in a row, of nodes or workers, with nothing saved between, after which a job is not requeued any more.
T2M_MAX_LOSSES="${T2M_MAX_LOSSES:-3}"

# How soon Ray notices a host that answers nothing: after 4 times 2 + 4 s. Its own settings take 65 s.
export RAY_health_check_period_ms="${RAY_health_check_period_ms:-2000}"
export RAY_health_check_timeout_ms="${RAY_health_check_timeout_ms:-4000}"
export RAY_health_check_failure_threshold="${RAY_health_check_failure_threshold:-4}"

# Seconds that a run waits for lost nodes to come back to Ray before it ends, so that the job is requeued.
export T2M_LOST_SECONDS="${T2M_LOST_SECONDS:-30}"

# Threads of a worker wait without spinning, which where others work too makes a step some ten times as long.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

# Priority of workers: at Ray's own 15 they starve beside other jobs of a shared node.
export RAY_worker_niceness="${RAY_worker_niceness:-0}"
