#!/usr/bin/env bash
# Submit a job file to SLURM:
#   sbatch workflows/slurm.sh job.yaml                     one node, a local cluster on it
#   sbatch --nodes=4 workflows/slurm.sh job.yaml           four nodes, workers on all of them
# Further arguments go to `geounet run`. All paths of the job must be on storage that the nodes share.
# Ten minutes before the time is up the run is told to stop; the requeued job continues where it was.
#SBATCH --job-name=geounet
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@600
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

job=${1:?usage: sbatch $0 JOB.yaml [OPTIONS of geounet run]}
shift
# Threads of the network in each worker process.
threads=4
cores=${SLURM_CPUS_PER_TASK:-4}
workers=$((cores > threads ? cores / threads : 1))

children=()
scheduler_file=""
finish() {
  [ "${#children[@]}" -eq 0 ] || kill "${children[@]}" 2> /dev/null || true
  [ -z "$scheduler_file" ] || rm -f "$scheduler_file"
}
trap finish EXIT

options=(--set cluster.workers="$workers" --set cluster.threads="$threads")
if [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then
  scheduler_file=$PWD/.dask-scheduler-$SLURM_JOB_ID.json
  dask scheduler --host "$(hostname -f)" --port 0 --no-dashboard --scheduler-file "$scheduler_file" &
  children+=($!)
  for _ in $(seq 120); do
    [ -s "$scheduler_file" ] && break
    sleep 0.5
  done
  address=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["address"])' "$scheduler_file")
  # One thread for Dask; the network's own threads are set by the run. Since 22.05 srun does not know --cpus-per-task of
  # the job, and would give each node's workers one core.
  srun --ntasks-per-node=1 --cpus-per-task="$cores" dask worker "$address" --nworkers "$workers" --nthreads 1 \
    --no-dashboard --memory-limit 0 --death-timeout 120 --local-directory "${TMPDIR:-/tmp}" &
  children+=($!)
  options=(--set cluster.kind=address --set cluster.address="$address" --set cluster.wait_s=600
    --set cluster.threads="$threads")
fi

# In the background, because bash runs traps only between commands. A signal may come before there is a run to tell.
run=""
stopping=""
stop() {
  stopping=yes
  [ -z "$run" ] || kill -TERM "$run" 2> /dev/null || true
}
trap stop TERM
geounet run "$job" "${options[@]}" "$@" &
run=$!
[ -z "$stopping" ] || stop
code=0
wait "$run" || code=$?
if [ "$code" -gt 128 ] && kill -0 "$run" 2> /dev/null; then
  # The signal ended the waiting, not the run: it is putting its work down.
  code=0
  wait "$run" || code=$?
fi
if [ "$code" -eq 143 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
