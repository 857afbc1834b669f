# shellcheck shell=bash
# What `up` and `down` share: where a testbed lives, and its processes.
#
# A testbed is a folder. Each of its processes runs with that folder as its working
# directory, in a session of its own, whose id is in run/PROGRAM.pid. Both together tell
# our processes from all others: a pid that came back as something else is never touched.

say() { echo "testbed: $*" >&2; }
die() { say "$*"; exit 1; }

# shellcheck disable=SC2034 # for who reads this file in
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=${XDG_STATE_HOME:-$HOME/.local/state}/vault-sync-operator/testbed
export LC_ALL=C

# Sets name and dir from the arguments of `up` and `down`.
choose_testbed() {
  [[ $# -le 1 ]] || die "usage: $(basename "$0") [NAME]"
  name=${1:-default}
  [[ $name =~ ^[a-z0-9][a-z0-9-]*$ ]] || die "'$name' is not a name for a testbed; use a-z, 0-9 and -"
  dir=$(realpath -m "${TESTBED_DIR:-$state/$name}")
  [[ -z ${TESTBED_DIR:-} ]] || name=$dir
}

# lock_testbed: one `up` or `down` of a testbed at a time. The folder itself is the lock; it
# is not ours if it was removed while we waited. Fails if there is none.
lock_testbed() {
  { exec 9<"$dir"; } 2>/dev/null && flock 9 && [[ $dir -ef /proc/$$/fd/9 ]]
}

# pids_of PROGRAM: the processes of its session which are ours (the program, a plugin of it).
pids_of() {
  local session stat line fields
  session=$(cat "$dir/run/$1.pid" 2>/dev/null) || return 0
  for stat in /proc/[0-9]*/stat; do
    { read -r line <"$stat"; } 2>/dev/null || continue
    read -r -a fields <<<"${line##*) }" # state ppid pgrp session ...
    [[ ${fields[3]} == "$session" && $(readlink "${stat%/stat}/cwd") == "$dir" ]] || continue
    stat=${stat#/proc/}
    echo "${stat%/stat}"
  done
}

running() { # PROGRAM
  local pid
  pid=$(cat "$dir/run/$1.pid" 2>/dev/null) || return 1
  [[ $(readlink "/proc/$pid/cwd") == "$dir" ]]
}

# stop_all: asks each program to end, the last started first; kills what has not after 10 s.
stop_all() {
  local program pids patience
  for program in kube-controller-manager kube-apiserver vault etcd; do
    for ((patience = 100; patience >= 0; patience--)); do
      mapfile -t pids < <(pids_of "$program")
      [[ ${#pids[@]} -gt 0 ]] || break
      case $patience in
        100) kill -TERM "${pids[@]}" 2>/dev/null || true ;;
        0) kill -KILL "${pids[@]}" 2>/dev/null || true ;;
      esac
      sleep 0.1
    done
    rm -f "$dir/run/$program.pid"
  done
  local port
  for port in "$state"/.ports/*; do
    [[ $(cat "$port" 2>/dev/null) != "$dir" ]] || rm -f "$port"
  done
}
