# shellcheck shell=bash
# What the scripts beside this file and those in ci/ share.
#
# It puts the working directory to the top of the repository.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# The usual places of Rust and Go, for shells that have not read the profile.
for folder in "${CARGO_HOME:-$HOME/.cargo}/bin" /usr/local/go/bin; do
  case :$PATH: in
    *:"$folder":*) ;;
    *) [[ ! -d $folder ]] || PATH=$PATH:$folder ;;
  esac
done

# need COMMAND PACKAGE: has it, installs it (root, with apt), or says what to install.
need() {
  ! command -v "$1" >/dev/null || return 0
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    say "installing $2, for '$1'"
    if [[ -z ${apt_is_fresh:-} ]]; then
      apt-get -qq update >&2 || say "apt-get update failed; trying with what is known"
      apt_is_fresh=yes
    fi
    quiet_install "$2"
    hash -r
    ! command -v "$1" >/dev/null || return 0
  fi
  say "error: no '$1' on the PATH. Install it (Debian, Ubuntu: apt install $2) and run this again."
  return 1
}

# quiet_install PACKAGE: its services, if it has any, are neither started now nor at the next boot:
# what we want is the program.
quiet_install() {
  local policy=/usr/sbin/policy-rc.d unit
  if [[ -e $policy ]]; then policy=''; else printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"; fi
  DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "$1" >/dev/null || true
  [[ -z $policy ]] || rm -f "$policy"
  for unit in $(dpkg -L "$1" 2>/dev/null | sed -n 's#.*/systemd/system/\([^/@]*\.service\)$#\1#p'); do
    systemctl disable "$unit" >/dev/null 2>&1 || true
  done
}

# need_file FILE PACKAGE: as `need`, for what is not on the PATH.
need_file() {
  [[ ! -e $1 ]] || return 0
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    say "installing $2, for $1"
    quiet_install "$2"
    [[ ! -e $1 ]] || return 0
  fi
  say "error: there is no $1. Install it (Debian, Ubuntu: apt install $2) and run this again."
  return 1
}

need_rust() {
  command -v cargo >/dev/null ||
    die "no 'cargo' on the PATH. Install Rust (https://rustup.rs) and run this again; the version is chosen by rust-toolchain.toml."
  need cc build-essential || exit 1
}

# What the testbed and the tests call.
need_testbed() {
  need openssl openssl && need curl curl && need setpriv util-linux && need setsid util-linux && need flock util-linux || exit 1
}

# Builds what is missing of the testbed, and sets TESTBED_BIN to the folder of its programs.
build_testbed() {
  if [[ -z ${TESTBED_BIN:-} ]]; then
    TESTBED_BIN=$(hack/testbed/build | tail -n 1) || exit 1
    export TESTBED_BIN
  fi
}

# define FOLDER: makes these custom resource definitions, and waits until the API server serves them. `kubectl wait`
# ends at once, with an error, where one has no conditions yet.
define() {
  local told
  kubectl create --filename "$1" >/dev/null
  for _ in {1..20}; do
    told=$(kubectl wait --for=condition=Established crd --all --timeout=30s 2>&1) && return
    sleep 0.1
  done
  die "the definitions in $1 are not established: $told"
}

# On a CI machine what was compiled outlives the checkout. Each place of a checkout has a folder of
# its own: cargo tells the sources of two checkouts apart by their age only, so that one could be
# tested with the other's code.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vault-sync-operator
if [[ ${CI:-} == true ]]; then
  export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target/$(sha256sum <<<"$PWD" | cut -c1-12)} CARGO_INCREMENTAL=0
  mkdir -p "$CARGO_TARGET_DIR" && touch "$CARGO_TARGET_DIR"
  find "$cache/target" -mindepth 1 -maxdepth 1 -mtime +14 -exec rm -rf {} + 2>/dev/null || true # of places that are gone
fi
# shellcheck disable=SC2034 # for who reads this file in
target=${CARGO_TARGET_DIR:-$PWD/target}
