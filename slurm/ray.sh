# Starts Ray inside this Slurm job, runs one verb of t2m-bench on it, and ends Ray. Sourced by the scripts beside it:
#   run_on_ray VERB ARGS...
# The job requeues itself when it was stopped on request (time limit, preemption; the work is saved) and when nodes or
# workers were lost; after T2M_MAX_LOSSES losses in a row without a newer checkpoint it gives up.

readonly STOPPED=85 LOST=86
T2M_MAX_LOSSES="${T2M_MAX_LOSSES:-3}"

run_on_ray() {
  local head_ip port state
  driver_pid="" stop_signal="" ray_pids=()
  trap 'request_stop USR1' USR1 # first of all: the signal may come a minute early
  trap 'request_stop TERM' TERM
  trap end_ray EXIT
  . "$T2M_HOME/slurm/site.sh"

  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
  RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
  port=$((20000 + SLURM_JOB_ID % 10000))
  start_ray "$port"
  export RAY_ADDRESS="$head_ip:$port"
  wait_for_nodes || exit 1

  local previous=""
  for word in "$@"; do
    [ "$previous" != --runs ] || T2M_RUNS=$word
    previous=$word
  done
  state=$(newest_checkpoint)
  t2m-bench "$@" &
  driver_pid=$!
  [ -z "$stop_signal" ] || kill -s "$stop_signal" "$driver_pid"
  wait_for_driver
  decide "$driver_code" "$state"
}

# Pass a stop request on to the driver, which saves and ends with code 85.
request_stop() {
  stop_signal=$1
  [ -z "$driver_pid" ] || kill -s "$1" "$driver_pid" 2>/dev/null || true
}

start_ray() { # PORT; sets head_ip
  local nodes head rest cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
  mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  head=${nodes[0]}
  local step=(srun --overlap --no-kill --ntasks-per-node=1 --cpus-per-task="$cpus")
  head_ip=$("${step[@]}" --nodes=1 --ntasks=1 --nodelist="$head" bash -c '
    . "$T2M_HOME/slurm/site.sh"
    if [ -n "$T2M_INTERFACE" ]; then
      ip -4 -o addr show dev "$T2M_INTERFACE" | awk "{split(\$4, part, \"/\"); print part[1]; exit}"
    else
      getent ahostsv4 "${SLURMD_NODENAME:-$(hostname)}" | awk "{print \$1; exit}"
    fi')
  "${step[@]}" --nodes=1 --ntasks=1 --nodelist="$head" bash "$T2M_HOME/slurm/node.sh" head "$head_ip" "$1" &
  ray_pids+=($!)
  if [ "${#nodes[@]}" -gt 1 ]; then
    rest=$(IFS=,; echo "${nodes[*]:1}")
    "${step[@]}" --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --nodelist="$rest" \
      bash "$T2M_HOME/slurm/node.sh" worker "$head_ip" "$1" &
    ray_pids+=($!)
  fi
}

# Return when every node of the job has joined; fail, saying which have not, when that takes too long.
wait_for_nodes() {
  python -m t2m_bench.cluster.nodes "$SLURM_JOB_NUM_NODES" &
  local waiting=$!
  while kill -0 "$waiting" 2>/dev/null; do
    for pid in "${ray_pids[@]}"; do
      if ! kill -0 "$pid" 2>/dev/null; then
        echo "t2m-bench: Ray ended on a node before all had joined; its messages stand above." >&2
        kill "$waiting" 2>/dev/null
        return 1
      fi
    done
    sleep 0.5
  done
  wait "$waiting"
}

# Wait for the driver; `wait` returns early when a trap runs. Without Ray's head the driver gets a minute to see it.
wait_for_driver() { # sets driver_code
  local deadline=""
  while kill -0 "$driver_pid" 2>/dev/null; do
    if [ -z "$deadline" ] && ! kill -0 "${ray_pids[0]}" 2>/dev/null; then
      deadline=$((SECONDS + 60))
    fi
    if [ -n "$deadline" ] && [ "$SECONDS" -gt "$deadline" ]; then
      kill -KILL "$driver_pid" 2>/dev/null
    fi
    sleep 0.5
  done
  driver_code=0
  wait "$driver_pid" || driver_code=$?
}

newest_checkpoint() {
  find "${T2M_RUNS:-runs}" -name state.safetensors -printf '%T@\n' 2>/dev/null | sort -n | tail -1
}

# Requeue or end, by the driver's code: 0 done, 2 wrong input, 85 stopped on request, else something was lost.
decide() { # CODE CHECKPOINT_BEFORE
  local losses_file="${T2M_RUNS:-runs}/.slurm-$SLURM_JOB_ID.losses" losses
  case $1 in
    0) rm -f "$losses_file" ;;
    2) exit 2 ;;
    "$STOPPED")
      rm -f "$losses_file"
      requeue "stopped on request, the work is saved"
      ;;
    *)
      losses=$(($(cat "$losses_file" 2>/dev/null || echo 0) + 1))
      [ "$(newest_checkpoint)" = "$2" ] || losses=1
      mkdir -p "$(dirname "$losses_file")"
      echo "$losses" > "$losses_file"
      if [ "$losses" -ge "$T2M_MAX_LOSSES" ]; then
        echo "t2m-bench: lost $losses times in a row without a newer checkpoint; giving up (code $1)." >&2
        exit "$1"
      fi
      requeue "nodes or workers were lost (code $1), $losses in a row without a newer checkpoint"
      ;;
  esac
}

requeue() { # REASON
  echo "t2m-bench: $1; requeueing job $SLURM_JOB_ID (restart ${SLURM_RESTART_COUNT:-0})." >&2
  end_ray
  scontrol requeue "$SLURM_JOB_ID"
  sleep 60 # Slurm ends this script
}

# End the steps that we started, by their id; never `ray stop`, which would end other jobs' Ray too.
end_ray() {
  trap - EXIT
  local pid
  for pid in "${ray_pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done
  for pid in "${ray_pids[@]}"; do wait "$pid" 2>/dev/null; done
  rm -rf "/tmp/ray-$SLURM_JOB_ID"
  true
}

# Print overrides that use the whole allocation: a worker a GPU, or a node where there is none.
worker_overrides() {
  local cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}} gpus=${SLURM_GPUS_ON_NODE:-0}
  local per_node=$((gpus > 0 ? gpus : 1))
  local workers=$((SLURM_JOB_NUM_NODES * per_node))
  echo "cluster.num_train_workers=$workers cluster.num_embed_workers=$workers"
  echo "cluster.cpus_per_worker=$((cpus / per_node > 0 ? cpus / per_node : 1))"
  [ "$gpus" -eq 0 ] || echo "cluster.use_gpu=true"
}
