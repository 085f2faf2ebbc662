#!/usr/bin/env bash
# What one node does for the job's Ray:
#   node.sh address                       prints the address by which other nodes reach this one
#   node.sh {head|worker} HEAD_IP PORT    runs its Ray in the foreground of a Slurm step, so that it ends with the step
# TERM (a preemption) does not end Ray, since workers have to save first: it goes on to the job's script. USR2 ends Ray.
set +euo pipefail # conda's and modules' hooks use unset variables and commands that fail
. "$T2M_HOME/slurm/site.sh"
set -euo pipefail

find_address() {
  local name found=""
  name=${SLURMD_NODENAME:-$(hostname)}
  if [ -n "$T2M_INTERFACE" ]; then
    found=$(ip -4 -o addr show dev "$T2M_INTERFACE" | awk '{split($4, part, "/"); print part[1]; exit}') || true
  else
    found=$(getent ahostsv4 "$name" | awk '{print $1; exit}') || true
    # Debian gives a host's own name 127.0.1.1, which serves no other: then the address from which it reaches others.
    if [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ] && [[ $found = 127.* ]]; then
      found=$(ip -4 route get 192.0.2.1 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p') || true
    fi
  fi
  [ -n "$found" ] || {
    echo "t2m-bench: $name has no IPv4 address ${T2M_INTERFACE:+on $T2M_INTERFACE }that other nodes reach (T2M_INTERFACE," \
      "slurm/site.sh)." >&2
    return 1
  }
  echo "$found"
}

# Set `options` for `ray start` from what Slurm says of this node.
choose_options() { # ROLE HEAD_IP PORT
  local cpus memory_mib address
  cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
  memory_mib=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * cpus + ${SLURM_MEM_PER_GPU:-0} * ${SLURM_GPUS_ON_NODE:-0}))}
  address=$(find_address) || return 1
  options=(
    --block --disable-usage-stats --include-log-monitor=false
    --node-ip-address="$address"
    --num-cpus="$cpus"
    --num-gpus="${SLURM_GPUS_ON_NODE:-0}"
    --object-store-memory=$((256 * 1024 * 1024)) # embeddings do not pass through it
    # Two jobs may share this node: any free ports, or ports that follow from the job's number.
    --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0
  )
  # Ray reads the root's memory limit only, so it must be told the job's.
  if [ "$memory_mib" -gt 0 ]; then
    options+=(--memory=$((memory_mib * 1024 * 1024 / 100 * T2M_MEMORY_SHARE)))
  fi
  if [ "$1" = head ]; then
    options+=(--head --port="$3" --ray-client-server-port=$(($3 - 10000)))
    options+=(--include-dashboard=false --temp-dir="$(name_folder)/r")
  else
    options+=(--address="$2:$3")
  fi
}

# Print the folder of Ray's session on this node.
name_folder() {
  echo "$T2M_TEMP/ray-$SLURM_JOB_ID"
}

# Make it, for this user alone: Ray lets everybody write in its own.
make_folder() {
  (umask 077 && mkdir -p "$(name_folder)") && [ -O "$(name_folder)" ] && chmod 700 "$(name_folder)" || {
    echo "t2m-bench: $(name_folder) cannot be made, or is somebody else's (T2M_TEMP, slurm/site.sh)." >&2
    return 1
  }
}

# Run a command in the background with TERM blocked, in it and in all that it starts: some of Slurm's ways of tracking
# processes signal each process of a step, not its first alone.
start_shielded() { # COMMAND...; sets shielded_pid
  python -c 'import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.execvp(sys.argv[1], sys.argv[1:])' "$@" &
  shielded_pid=$!
}

# Print a process and all that descend from it.
list_tree() { # PID
  local child
  echo "$1"
  for child in $(ps -o pid= --ppid "$1"); do list_tree "$child"; done
}

tell_script() {
  [ "$role" != head ] || kill -USR1 "$T2M_SCRIPT_PID" 2>/dev/null || true # the head's node runs the script too
}

# Requeue the job when the host of its script and of Ray's head is gone: Slurm lets a job of several nodes go on without.
# Where only its Ray ended, the script decides.
requeue_without_head() {
  timeout 20 srun --mpi=none --overlap --nodes=1 --ntasks=1 --cpus-per-task=1 --nodelist="$T2M_HEAD_NODE" true 2>/dev/null && return
  if scontrol show job "${T2M_JOB:-$SLURM_JOB_ID}" | grep -q 'JobState=RUNNING'; then
    scontrol requeue "${T2M_JOB:-$SLURM_JOB_ID}" || true # said nowhere: whoever wrote the log is gone too
  fi
}

end_ray() {
  ended=yes
  kill -KILL $(list_tree "$shielded_pid") 2>/dev/null || true
}

role=$1
if [ "$role" = address ]; then
  find_address
  exit
fi
ended=""
trap tell_script TERM
command -v ray >/dev/null || {
  echo "t2m-bench: no ray on the PATH of ${SLURMD_NODENAME:-this node} ($T2M_HOME/slurm/site.sh)." >&2
  exit 1
}
make_folder || exit 1
choose_options "$@" || exit 1
echo "ray start ${options[*]}"
trap end_ray USR2
# Ray gives its own parts 30 s to start, which a busy node or file system may need longer for: then it is tried again.
for try in 1 2 3; do
  start_shielded ray start "${options[@]}"
  while kill -0 "$shielded_pid" 2>/dev/null; do # `wait` returns early when a trap runs
    code=0
    wait "$shielded_pid" || code=$?
  done
  [ -z "$ended" ] && [ "$code" -ne 0 ] && [ "$try" -lt 3 ] && [ "$SECONDS" -lt "$T2M_JOIN_SECONDS" ] || break
  echo "t2m-bench: Ray did not start on ${SLURMD_NODENAME:-this node} (code $code); trying again." >&2
  sleep 2
  [ -z "$ended" ] || break
done
if [ -z "$ended" ]; then
  [ "$role" = head ] || requeue_without_head
  exit "$code"
fi
rm -rf "$(name_folder)"
