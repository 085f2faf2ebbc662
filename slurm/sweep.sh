#!/usr/bin/env bash
# Searches a space for its best configuration on a Slurm allocation; goes on where it was stopped.
# Command:  sbatch slurm/sweep.sh SWEEP [OVERRIDES...]
# Costs:    trials times one short training, less what is stopped early; as many at once as the allocation allows.
#SBATCH --job-name=t2m-sweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=t2m-sweep-%j.log

script=$(scontrol show job "$SLURM_JOB_ID" | awk -F= '/^ *Command=/ {split($2, word, " "); print word[1]; exit}')
. "${T2M_HOME:=$(cd "$(dirname "$script")/.." && pwd)}/slurm/ray.sh"

[ $# -gt 0 ] || { echo "t2m-bench: sbatch slurm/sweep.sh SWEEP [OVERRIDES...]" >&2; exit 2; }
sweep=$1
shift
gpu=()
[ "${SLURM_GPUS_ON_NODE:-0}" -eq 0 ] || gpu=(cluster.use_gpu=true sweep.resources.gpus=1 "sweep.resources.cpus=$(share_cpus)")
run_on_ray sweep "$sweep" "${gpu[@]}" "$@"
