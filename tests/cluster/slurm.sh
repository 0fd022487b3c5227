#!/usr/bin/env bash
# A Slurm of this machine alone: tests/cluster/slurm.sh up FOLDER, then down FOLDER.
# Packages of Debian: slurmctld slurmd slurm-client munge. To be run as root; `export SLURM_CONF=FOLDER/slurm.conf` uses it.
# Everything lies in the folder and listens on the loopback address; `down` ends it and removes the folder.
set -euo pipefail
usage="tests/cluster/slurm.sh up|down FOLDER"
what=${1:?$usage}
folder=$(realpath -m "${2:?$usage}")
host=$(hostname -s)
export SLURM_CONF=$folder/slurm.conf

stop() { # the daemon with this pid file, if it runs
  [ -s "$1" ] || return 0
  local pid
  pid=$(cat "$1")
  kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 50); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.2
  done
  kill -9 "$pid" 2>/dev/null || true
}

case $what in
up)
  for program in slurmctld slurmd munged; do
    command -v "$program" >/dev/null || { echo "$program is missing: apt-get install slurmctld slurmd slurm-client munge"; exit 1; }
  done
  [ ! -e "$SLURM_CONF" ] || { echo "$folder has a Slurm already: $0 down $folder"; exit 1; }
  mkdir -p "$folder"/{state,spool,munge}
  chmod 700 "$folder/munge"
  dd if=/dev/urandom of="$folder/munge/key" bs=128 count=1 status=none
  chmod 600 "$folder/munge/key"
  cat >"$SLURM_CONF" <<EOF
ClusterName=rkd
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_interval=2
ReturnToService=2
JobRequeue=1
KillWait=10
OverTimeLimit=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=local Nodes=$host Default=YES MaxTime=INFINITE State=UP
EOF
  munged --force --socket="$folder/munge/socket" --key-file="$folder/munge/key" --pid-file="$folder/munge/pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" 2>/dev/null
  slurmctld
  slurmd
  for _ in $(seq 50); do
    if [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ]; then
      echo "export SLURM_CONF=$SLURM_CONF"
      exit
    fi
    sleep 0.4
  done
  echo "The node is not idle after 20 s: see $folder/slurmctld.log and $folder/slurmd.log"
  exit 1
  ;;
down)
  scancel --state=PENDING 2>/dev/null || true
  scancel 2>/dev/null --state=RUNNING || true
  stop "$folder/slurmd.pid"
  stop "$folder/slurmctld.pid"
  stop "$folder/munge/pid"
  rm -rf "$folder"
  ;;
*)
  echo "$usage"
  exit 1
  ;;
esac
