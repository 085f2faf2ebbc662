#!/usr/bin/env bash
# Trains one adapter on a Slurm allocation, a worker a node (or a GPU), and survives time limits, preemption and node loss.
# Command:  sbatch slurm/train.sh [RECIPE] [OVERRIDES...]
#           Without a recipe it trains the demo in runs/cluster-check-JOB, to prove the cluster.
#           sbatch -A ACCOUNT -p PARTITION --gpus-per-node=2 --cpus-per-task=8 --mem=32G --nodes=4 slurm/train.sh \
#               bus_bra dataset.root=/data/BUSBRA
# Costs:    the demo, two nodes of two CPUs, two minutes. Site hooks (modules, venv, interface): slurm/site.sh
#SBATCH --job-name=t2m-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=01:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=t2m-train-%j.log

# Slurm runs a copy of this file; T2M_HOME, the folder above slurm/, is found by the path that was submitted.
script=$(scontrol show job "$SLURM_JOB_ID" | awk -F= '/^ *Command=/ {split($2, word, " "); print word[1]; exit}')
. "${T2M_HOME:=$(cd "$(dirname "$script")/.." && pwd)}/slurm/ray.sh"

recipe="$T2M_HOME/launch/demo.yaml" runs=(--runs "runs/cluster-check-$SLURM_JOB_ID") # trained anew, not reused
[ -f "$recipe" ] || recipe=demo
if [ $# -gt 0 ] && [[ $1 != *=* ]] && [[ $1 != --* ]]; then
  recipe=$1 runs=()
  shift
fi
run_on_ray train "$recipe" $(worker_overrides) ${runs[@]+"${runs[@]}"} "$@"
