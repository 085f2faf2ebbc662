#!/usr/bin/env bash
# One node's Ray, in the foreground of a Slurm step, so that it ends with the step:  node.sh {head|worker} HEAD_IP PORT
set -euo pipefail
. "$T2M_HOME/slurm/site.sh"

find_ip() {
  if [ -n "$T2M_INTERFACE" ]; then
    ip -4 -o addr show dev "$T2M_INTERFACE" | awk '{split($4, part, "/"); print part[1]; exit}'
  else
    getent ahostsv4 "${SLURMD_NODENAME:-$(hostname)}" | awk '{print $1; exit}'
  fi
}

role=$1 head_ip=$2 port=$3
cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
memory_mib=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * cpus))}
options=(
  --block --disable-usage-stats
  --node-ip-address="$(find_ip)"
  --num-cpus="$cpus"
  --num-gpus="${SLURM_GPUS_ON_NODE:-0}"
  --object-store-memory=$((256 * 1024 * 1024)) # embeddings do not pass through it
  --min-worker-port=0 --max-worker-port=0      # any free ones: two jobs may share this node
)
# Ray reads the root's memory limit only, so it must be told the job's.
if [ "$memory_mib" -gt 0 ]; then
  options+=(--memory=$((memory_mib * 1024 * 1024 / 100 * T2M_MEMORY_SHARE)))
fi
if [ "$role" = head ]; then
  options+=(--head --port="$port" --include-dashboard=false --temp-dir="/tmp/ray-$SLURM_JOB_ID")
else
  options+=(--address="$head_ip:$port")
fi
echo "ray start ${options[*]}"
exec ray start "${options[@]}"
