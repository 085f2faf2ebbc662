#!/usr/bin/env bash
# Runs any verb of t2m-bench on a Slurm allocation with Ray.
# Command:  sbatch slurm/run.sh VERB ARGS...      for instance: sbatch --nodes=4 slurm/run.sh bench launch/bus_bra.yaml
# Costs:    what the verb costs; worker counts follow the allocation only where you say so (cluster.num_train_workers=4).
#SBATCH --job-name=t2m
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=t2m-%j.log

script=$(scontrol show job "$SLURM_JOB_ID" | awk -F= '/^ *Command=/ {split($2, word, " "); print word[1]; exit}')
. "${T2M_HOME:=$(cd "$(dirname "$script")/.." && pwd)}/slurm/ray.sh"

[ $# -gt 0 ] || { echo "t2m-bench: sbatch slurm/run.sh VERB ARGS..." >&2; exit 2; }
run_on_ray "$@"
