# Starts Ray inside this Slurm job, runs one verb of t2m-bench on it, and ends Ray. Sourced by the scripts beside it:
#   run_on_ray VERB ARGS...
# The job requeues itself when it was stopped on request (time limit, preemption; the work is saved) and when nodes or
# workers were lost; after T2M_MAX_LOSSES losses in a row with nothing saved between them it gives up.

set -uo pipefail
export T2M_HOME # the folder above slurm/; the scripts find it, since Slurm runs a copy of them from a folder of its own

readonly STOPPED=85 # the driver's code when it was asked to stop

# What scontrol and squeue call this job. A task of an array is named by array and task: the number of one of them is the
# array's own, by which Slurm would answer for all, and requeue all.
export T2M_JOB=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID:-0}}
T2M_JOB=${T2M_JOB:-$SLURM_JOB_ID}

run_on_ray() {
  local head_ip port saved
  driver_pid="" stop_signal="" ray_pids=()
  trap 'request_stop USR1' USR1 # first of all: the signal may come a minute early
  trap 'request_stop TERM' TERM
  trap end_ray EXIT
  load_site

  export T2M_SCRIPT_PID=$$ T2M_SAVED="$PWD/.t2m-$SLURM_JOB_ID.saved" # touched by whoever saves work, beside the log
  saved=$(find_last_save)
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
  RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
  port=$((20000 + SLURM_JOB_ID % 10000))
  start_ray "$port" || exit 1
  export RAY_ADDRESS="$head_ip:$port"
  if ! wait_for_nodes; then
    # A job that runs for the first time may be set up wrongly; one that ran before has met a busy or a lost node.
    [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || exit 1
    decide 1 "$saved"
    return
  fi
  if [ -n "$stop_signal" ]; then
    check_time_limit
    decide "$STOPPED" "$saved"
    return
  fi
  echo "t2m-bench $*"
  t2m-bench "$@" &
  driver_pid=$!
  wait_for_driver
  decide "$driver_code" "$saved"
}

# Read slurm/site.sh without this script's strictness: conda's and modules' hooks use unset variables and commands that fail.
load_site() {
  local strictness
  strictness=$(set +o)
  set +euo pipefail
  . "$T2M_HOME/slurm/site.sh"
  eval "$strictness"
  command -v t2m-bench >/dev/null && return
  echo "t2m-bench: not on the PATH of ${SLURMD_NODENAME:-this node}: $T2M_HOME/slurm/site.sh loads the modules or activates" \
    "the environment that it was installed in." >&2
  exit 2
}

# Refuse a time limit that ends before anything can be begun: the job would requeue itself for ever.
check_time_limit() {
  local left
  left=$(squeue -h -j "$T2M_JOB" -o %L)
  if [[ $stop_signal = USR1 && $left =~ ^[0-5]:[0-5][0-9]$ ]]; then
    echo "t2m-bench: the signal ahead of the time limit came before the work could begin ($left left). Ask for a longer" \
      "--time, or for a later signal (--signal=B:USR1@SECONDS)." >&2
    exit 2
  fi
}

# Pass a stop request on to the driver, which saves and ends with code 85.
request_stop() { # SIGNAL
  stop_signal=$1
  [ -z "$driver_pid" ] || kill -s "$1" "$driver_pid" 2>/dev/null || true
}

start_ray() { # PORT; sets head_ip
  local node rest=() cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
  export T2M_HEAD_NODE=$SLURMD_NODENAME # this script's own, so that a signal to the head's step can reach the script
  for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
    [ "$node" = "$T2M_HEAD_NODE" ] || rest+=("$node")
  done
  local step=(srun --mpi=none --overlap --no-kill --ntasks-per-node=1 --cpus-per-task="$cpus")
  head_ip=$(bash "$T2M_HOME/slurm/node.sh" address) || return 1
  "${step[@]}" --nodes=1 --ntasks=1 --nodelist="$T2M_HEAD_NODE" bash "$T2M_HOME/slurm/node.sh" head "$head_ip" "$1" &
  ray_pids+=($!)
  if [ "${#rest[@]}" -gt 0 ]; then
    "${step[@]}" --nodes="${#rest[@]}" --ntasks="${#rest[@]}" --nodelist="$(IFS=, && echo "${rest[*]}")" \
      bash "$T2M_HOME/slurm/node.sh" worker "$head_ip" "$1" &
    ray_pids+=($!)
  fi
}

# Return when every node of the job has joined; fail, saying which have not, when that takes too long.
wait_for_nodes() {
  python -m t2m_bench.cluster.nodes "$SLURM_JOB_NUM_NODES" "$T2M_JOIN_SECONDS" &
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
  # What fails after the head of its Ray is gone is no wrong input.
  [ -z "$deadline" ] || [ "$driver_code" -ne 2 ] || driver_code=1
  # A request that came before the driver could hear of it ended it, with nothing begun.
  if [ -n "$stop_signal" ] && [ "$driver_code" -eq $((128 + $(kill -l "$stop_signal"))) ]; then
    driver_code=$STOPPED
  fi
}

# Print when this job last saved a checkpoint or a file of embeddings, or ended a trial of a sweep.
find_last_save() {
  stat -c %.9Y "$T2M_SAVED" 2>/dev/null
}

# Requeue or end, by the driver's code: 0 done, 2 wrong input, 85 stopped on request, else something was lost.
decide() { # CODE LAST_SAVE_BEFORE
  local losses_file=".t2m-$SLURM_JOB_ID.losses" losses # beside the log
  case $1 in
    0) rm -f "$losses_file" "$T2M_SAVED" ;;
    2)
      rm -f "$losses_file" "$T2M_SAVED"
      exit 2
      ;;
    "$STOPPED")
      rm -f "$losses_file"
      requeue "stopped on request, the work is saved" "$1"
      ;;
    *)
      losses=$(($(cat "$losses_file" 2>/dev/null || echo 0) + 1))
      [ "$(find_last_save)" = "$2" ] || losses=1
      if [ "$losses" -ge "$T2M_MAX_LOSSES" ]; then
        rm -f "$losses_file" "$T2M_SAVED"
        echo "t2m-bench: lost $losses times in a row with nothing saved between; giving up (code $1)." >&2
        exit "$1"
      fi
      echo "$losses" > "$losses_file"
      requeue "nodes or workers were lost (code $1), $losses in a row with nothing saved between" "$1"
      ;;
  esac
}

requeue() { # REASON CODE
  local job_state
  end_ray
  job_state=$(scontrol show job "$T2M_JOB" | sed -n 's/.*JobState=\([A-Z]*\).*/\1/p')
  if [ "${job_state:-RUNNING}" != RUNNING ]; then
    echo "t2m-bench: $1; not requeued, the job is $job_state." >&2 # cancelled, or requeued by Slurm already
    exit "$2"
  fi
  echo "t2m-bench: $1; requeueing job $T2M_JOB (restart ${SLURM_RESTART_COUNT:-0})." >&2
  trap - TERM USR1
  scontrol requeue "$T2M_JOB" && sleep 60 # Slurm ends this script
  exit "$2"
}

# End the steps that we started, by their id; never `ray stop`, which would end other jobs' Ray too. A node that is gone
# does not answer, so the wait is bounded; the end of the job ends what is left.
end_ray() {
  trap - EXIT
  local pid deadline=$((SECONDS + 10))
  for pid in "${ray_pids[@]}"; do kill -USR2 "$pid" 2>/dev/null; done
  for pid in "${ray_pids[@]}"; do
    while kill -0 "$pid" 2>/dev/null && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.2; done
  done
  true
}

# Print the CPUs of each worker of a node: one worker a GPU, or one where there is none. Workers that are more than the CPUs
# share them, so that whatever the job has is enough for all to start.
share_cpus() {
  local cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}} gpus=${SLURM_GPUS_ON_NODE:-0}
  if [ "$cpus" -ge "$gpus" ]; then
    echo $((cpus / (gpus > 0 ? gpus : 1)))
    return
  fi
  echo "t2m-bench: $gpus GPUs of a node share $cpus CPUs, which they will wait for: ask for some CPUs and some GB a GPU" \
    "(sbatch --cpus-per-task=$((4 * gpus)) --mem=$((16 * gpus))G ...)." >&2
  awk -v cpus="$cpus" -v gpus="$gpus" 'BEGIN {printf "%.2f\n", int(100 * cpus / gpus) / 100}'
}

# Print overrides that use the whole allocation: a worker a GPU, or a node where there is none.
worker_overrides() {
  local gpus=${SLURM_GPUS_ON_NODE:-0}
  local workers=$((SLURM_JOB_NUM_NODES * (gpus > 0 ? gpus : 1)))
  echo "cluster.num_train_workers=$workers cluster.num_embed_workers=$workers cluster.cpus_per_worker=$(share_cpus)"
  [ "$gpus" -eq 0 ] || echo "cluster.use_gpu=true"
}

# Print the part of a suite that this task of an array takes, as `bench --part` has it; nothing outside an array.
array_part() {
  [ -n "${SLURM_ARRAY_TASK_ID:-}" ] || return 0
  local first=$SLURM_ARRAY_TASK_MIN last=$SLURM_ARRAY_TASK_MAX step=${SLURM_ARRAY_TASK_STEP:-1}
  local count=$(((last - first) / step + 1))
  if [ "$count" -eq 1 ]; then
    echo "t2m-bench: an array of one task would take the whole suite. To take one part again: sbatch slurm/bench.sh RECIPE" \
      "--part 5/16, say; for the whole suite leave --array out." >&2
    return 2
  fi
  if [ "$count" -ne "$SLURM_ARRAY_TASK_COUNT" ]; then
    echo "t2m-bench: the array leaves out some of $first to $last: give it as FIRST-LAST, such as --array=1-16." >&2
    return 2
  fi
  echo "--part $(((SLURM_ARRAY_TASK_ID - first) / step + 1))/$count"
}
