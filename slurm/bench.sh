#!/usr/bin/env bash
# Trains and evaluates every arm and seed of a recipe on a Slurm allocation, then reports; goes on where it was stopped.
# Command:  sbatch slurm/bench.sh RECIPE [OVERRIDES...]
#           sbatch --array=1-16 --nodes=1 --gpus-per-node=1 --cpus-per-task=4 --mem=16G slurm/bench.sh RECIPE [OVERRIDES...]
# Costs:    arms times folds times seeds times one training (slurm/train.sh): run after run, each on the whole allocation.
#           An array deals the runs to its tasks, and the task that finishes the suite writes the report.
#SBATCH --job-name=t2m-bench
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=t2m-bench-%j.log

script=$(scontrol show job "$SLURM_JOB_ID" | awk -F= '/^ *Command=/ {split($2, word, " "); print word[1]; exit}')
. "${T2M_HOME:=$(cd "$(dirname "$script")/.." && pwd)}/slurm/ray.sh"

[ $# -gt 0 ] || { echo "t2m-bench: sbatch slurm/bench.sh RECIPE [OVERRIDES...]" >&2; exit 2; }
recipe=$1
shift
part=$(array_part) || exit 2
run_on_ray bench "$recipe" $(worker_overrides) $part "$@"
