#!/usr/bin/env bash
# Encodes every image once on a Slurm allocation, each node (or GPU) writing other files; continues where it was stopped.
# Command:  sbatch slurm/embed.sh RECIPE [OVERRIDES...]
# Costs:    with ViT-B, some 4 s an image on two CPU cores in bf16 and a small part of that on a GPU.
#SBATCH --job-name=t2m-embed
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=t2m-embed-%j.log

script=$(scontrol show job "$SLURM_JOB_ID" | awk -F= '/^ *Command=/ {split($2, word, " "); print word[1]; exit}')
. "${T2M_HOME:=$(cd "$(dirname "$script")/.." && pwd)}/slurm/ray.sh"

[ $# -gt 0 ] || { echo "t2m-bench: sbatch slurm/embed.sh RECIPE [OVERRIDES...]" >&2; exit 2; }
recipe=$1
shift
run_on_ray embed "$recipe" $(worker_overrides) "$@"
