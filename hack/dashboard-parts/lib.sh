# shellcheck shell=bash
# What ci/observability and hack/dashboard share, beside hack/lib.sh.

# The Debian package starts a service when it is installed; nobody asked for that.
has_prometheus() {
  local fresh=yes
  ! command -v prometheus >/dev/null || fresh=no
  need prometheus prometheus || exit 1
  need promtool prometheus || exit 1
  if [[ $fresh == yes ]] && command -v systemctl >/dev/null; then
    systemctl --quiet disable --now prometheus prometheus-node-exporter 2>/dev/null || true
  fi
}
