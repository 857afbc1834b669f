#!/usr/bin/env bash
# Sets up Vault for the operator of one cluster: an auth method that knows this cluster, a policy
# that reaches the cluster's own documents and nothing else, and a role that binds the operator's
# ServiceAccount to it. Run once for each cluster. A second run writes only what differs, so it is
# also the way to repair, or to add a mount.
#
# usage: deploy/setup-vault.sh [--dry-run | --print-policy] [--force]
#
#   --dry-run        say what would be done, and do nothing
#   --print-policy   print the policy, and do nothing
#   --force          write the settings of an auth method that is there already with others; without it
#                    they are kept, since somebody else may log in by them
#
# On stdout: the chart's values that go with it. What was done is on stderr.
#
# environment:
#   VAULT_ADDR VAULT_TOKEN VAULT_NAMESPACE VAULT_CACERT …   as the vault command knows them; an administrator of Vault
#   KUBECONFIG                  the cluster; its administrator
#   VAULT_SYNC_CLUSTER_NAME     name of the cluster (the chart's clusterName); none: it has Vault to itself
#   VAULT_SYNC_CLUSTER_PREFIX   what goes before its paths, inside each mount (clusters/{cluster})
#   VAULT_SYNC_VAULT_AUTH_PATH  where its auth method is mounted (clusters/NAME; without a name: kubernetes)
#   VAULT_SYNC_VAULT_ROLE       the role (vault-sync-operator)
#   KV_MOUNTS                   KV mounts that it may write to, of version 1 or 2 (secret)
#   PURGE=1                     it may also destroy all versions: deletion-policy purge
#   NAMESPACE SERVICE_ACCOUNT   the operator's (vault-sync-operator, vault-sync-operator-controller-manager)
#   METHOD                      kubernetes: Vault asks the cluster whose a token is (default)
#                               jwt: Vault checks its signature with the cluster's public keys, and asks nobody
#   REVIEWER                    with METHOD=kubernetes, as whom Vault asks:
#                               self: as the one who logs in, so Vault keeps no credential of the cluster (default)
#                               local: as Vault's own pod; for a Vault inside this cluster
#                               token: as a ServiceAccount of its own, whose token Vault keeps for REVIEWER_TTL
#   REVIEWER_TTL                how long that token is good for (8760h); run this again before it ends
#   TOKEN_AUDIENCE              the chart's vault.tokenAudience; METHOD=jwt needs one (vault), REVIEWER=self cannot have one.
#                               Without one the role takes the audience that the cluster gives to tokens, if it can be asked
#   KUBERNETES_HOST             the API server as Vault reaches it (as KUBECONFIG has it)
#   KUBERNETES_CA               file with its CA (as KUBECONFIG has it)
#
# It needs vault (1.16 or newer) and kubectl, works with Kubernetes 1.24 and newer, and makes no
# token that never ends.
set -euo pipefail
export LC_ALL=C
unset VAULT_FORMAT # it would change what is read below

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

dry='' only_policy='' force=''
for argument; do
  case $argument in
    --dry-run) dry=yes ;;
    --print-policy) only_policy=yes ;;
    --force) force=yes ;;
    -h | --help) sed -n '2,/^set -/{/^set -/d; s/^# \{0,1\}//; p;}' "${BASH_SOURCE[0]}" && exit ;;
    *) die "there is no '$argument'; see --help" ;;
  esac
done

cluster=${VAULT_SYNC_CLUSTER_NAME:-}
auth=${VAULT_SYNC_VAULT_AUTH_PATH:-}
role=${VAULT_SYNC_VAULT_ROLE:-vault-sync-operator}
namespace=${NAMESPACE:-vault-sync-operator}
account=${SERVICE_ACCOUNT:-vault-sync-operator-controller-manager}
read -ra mounts <<<"${KV_MOUNTS:-secret}"
method=${METHOD:-kubernetes}
reviewer=${REVIEWER:-self}
audience=${TOKEN_AUDIENCE:-}

# ---- what was asked for, before anything is touched ---------------------------------------------
label='[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?'
[[ -z $cluster || $cluster =~ ^$label$ ]] || die "VAULT_SYNC_CLUSTER_NAME: \"$cluster\" is not allowed; use $label"
[[ ${VAULT_SYNC_CLUSTER_PREFIX_STYLE:-inside-mount} == inside-mount ]] ||
  die "VAULT_SYNC_CLUSTER_PREFIX_STYLE: with before-mount each cluster has a mount of its own; give its policy that mount by hand"
prefix=${VAULT_SYNC_CLUSTER_PREFIX-${cluster:+clusters/$cluster}}
[[ -n $cluster || $prefix != *'{cluster}'* ]] || die 'VAULT_SYNC_CLUSTER_PREFIX: {cluster} stands in it, and VAULT_SYNC_CLUSTER_NAME is not set'
prefix=${prefix//'{cluster}'/$cluster}
prefix=${prefix#/}
prefix=${prefix%/}
auth=${auth:-${cluster:+clusters/$cluster}}
auth=${auth:-kubernetes}
auth=${auth#/}
auth=${auth%/}
# In a policy `*` and `+` stand for what others own.
plain_path() { # NAME VALUE
  [[ $2 =~ ^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$ && /$2/ != */../* && /$2/ != */./* ]] ||
    die "$1: \"$2\" is no plain path; use letters, digits and - . _ between slashes"
}
[[ -z $prefix ]] || plain_path VAULT_SYNC_CLUSTER_PREFIX "$prefix"
plain_path VAULT_SYNC_VAULT_AUTH_PATH "$auth"
plain_path VAULT_SYNC_VAULT_ROLE "$role"
plain_path NAMESPACE "$namespace"
plain_path SERVICE_ACCOUNT "$account"
((${#mounts[@]})) || die 'KV_MOUNTS is empty; say which KV mounts the operator may write to'
for mount in "${mounts[@]}"; do plain_path KV_MOUNTS "${mount%/}"; done
case $method:$reviewer in
  kubernetes:self)
    [[ -z $audience ]] ||
      die 'TOKEN_AUDIENCE: a token of another audience cannot ask the API server about itself; use METHOD=jwt, REVIEWER=token or REVIEWER=local with it' ;;
  kubernetes:local | kubernetes:token) ;;
  jwt:*) audience=${audience:-vault} ;;
  kubernetes:*) die "REVIEWER: \"$reviewer\" is not allowed; use self, local or token" ;;
  *) die "METHOD: \"$method\" is not allowed; use kubernetes or jwt" ;;
esac
[[ -z $audience || $audience =~ ^[A-Za-z0-9._:/-]+$ ]] || die "TOKEN_AUDIENCE: \"$audience\" is not allowed; use letters, digits and - . _ : /"
command -v vault >/dev/null || die "no 'vault' on the PATH; install it and run this again"

# ---- Vault: are we in? ----------------------------------------------------------------------------
status=0
vault status >/dev/null 2>&1 || status=$?
case $status in
  0) ;;
  2) die "Vault at ${VAULT_ADDR:-(VAULT_ADDR is not set)} is sealed, or was never initialized" ;;
  *) die "no Vault answers at ${VAULT_ADDR:-(VAULT_ADDR is not set)}: $(vault status 2>&1 | tail -n 1)" ;;
esac
reason() { sed -n '/errors\{0,1\} occurred/d; s/^[[:space:]]*\* *//p' | paste -sd, | sed 's/,/, /g'; } # of the vault command's error on stdin
refusal=$(vault token lookup 2>&1 >/dev/null) || die "Vault does not know this token (VAULT_TOKEN): $(reason <<<"$refusal")"

address=${VAULT_ADDR:-https://127.0.0.1:8200}
# Whether an address means the machine that uses it: another one for each who does.
loopback() { [[ ${1,,} =~ ^[a-z]+://(localhost|([a-z0-9-]+\.)*localhost|127\.[0-9.]+|0\.0\.0\.0|\[::1?\])([:/]|$) ]]; }

# get PATH FIELD: as JSON on one line; fails if there is none. Blanks do not matter to who compares.
get() { vault read -format=json -field="$2" "$1" 2>/dev/null | tr -d '[:space:]'; }

# ---- the policy: this cluster's documents, and the operator's own token ---------------------------
rule() { printf '\npath "%s" {\n  capabilities = [%s]\n}\n' "$1" "$2"; } # PATH CAPABILITIES
policy() {
  local mount below=${prefix:+$prefix/} options
  printf '# vault-sync-operator%s, written by setup-vault.sh.\n' "${cluster:+ of cluster $cluster}"
  rule auth/token/lookup-self '"read"'
  rule auth/token/renew-self '"update"'
  rule auth/token/revoke-self '"update"'
  for mount in "${mounts[@]}"; do
    mount=${mount%/}
    [[ $(get "sys/internal/ui/mounts/$mount" path) == "\"$mount/\"" && $(get "sys/internal/ui/mounts/$mount" type) == '"kv"' ]] ||
      die "KV_MOUNTS: Vault has no KV mount at \"$mount\", or this token may not see it (vault secrets list)"
    options=$(get "sys/internal/ui/mounts/$mount" options) || true
    if [[ $options == *'"version":"2"'* ]]; then
      rule "$mount/data/$below*" '"create", "read", "update", "delete"'
      rule "$mount/metadata/$below*" "\"create\", \"read\", \"update\", \"patch\", \"list\"${PURGE:+, \"delete\"}"
      rule "$mount/delete/$below*" '"update"'
    else
      rule "$mount/$below*" '"create", "read", "update", "delete", "list"'
    fi
  done
}
policy=$(policy)
if [[ -n $only_policy ]]; then
  printf '%s\n' "$policy"
  exit
fi

# ---- Kubernetes: who is it? ------------------------------------------------------------------------
command -v kubectl >/dev/null || die "no 'kubectl' on the PATH; install it and run this again"
refusal=$(kubectl get --raw /version 2>&1 >/dev/null) || die "no Kubernetes answers (KUBECONFIG): ${refusal##*$'\n'}"
configured() { kubectl config view --minify --flatten --raw --output=jsonpath="{.clusters[0].cluster.$1}"; }
host=${KUBERNETES_HOST:-}
if [[ -z $host && $reviewer == local && $method == kubernetes ]]; then host=https://kubernetes.default.svc; fi
host=${host:-$(configured server)}
if [[ -n ${KUBERNETES_CA:-} ]]; then
  ca=$(<"$KUBERNETES_CA")
else
  ca=$(configured certificate-authority-data | base64 -d)
fi
ca=${ca:-$(kubectl --namespace=kube-system get configmap kube-root-ca.crt --output=jsonpath='{.data.ca\.crt}')}

# ---- the audience of tokens for which none is asked: the API server's -------------------------------
own_audience() { # as the operator's account has it, or another one of the cluster
  local token payload
  token=$(kubectl --namespace="$namespace" create token "$account" --duration=10m 2>/dev/null) ||
    token=$(kubectl --namespace=kube-system create token default --duration=10m 2>/dev/null) || return 0
  payload=$(cut -d. -f2 <<<"$token" | tr '_-' '/+')
  while ((${#payload} % 4)); do payload+='='; done
  base64 -d <<<"$payload" 2>/dev/null | sed -n 's/.*"aud":\["\([^"]*\)".*/\1/p' || true
}
bound=$audience
if [[ -z $bound ]]; then bound=$(own_audience); fi

# ---- doing it, or saying so -------------------------------------------------------------------------
width=10
[[ -z $dry ]] || width=14
did() { # HOW WHAT
  local how=$1
  if [[ -n $dry && $how =~ ^(created|updated)$ ]]; then how="to be $how"; fi
  say "$(printf '%-*s %s' "$width" "$how" "$2")"
}
json() { awk 'BEGIN { printf "\"" } { gsub(/["\\]/, "\\\\&"); printf "%s%s", (NR > 1 ? "\\n" : ""), $0 } END { printf "\"" }'; } # text on stdin, as a JSON string
object() { # FIELD JSON...
  local body=''
  while (($#)); do body+="${body:+,}\"$1\":$2"; shift 2; done
  printf '{%s}' "$body"
}
quoted() { printf '%s' "$1" | json; }

# holds PATH FIELD JSON: so it stands there. Vault leaves out some fields that are empty, and of a
# reviewer's token it says only whether there is one.
holds() {
  local is
  if [[ $2 == token_reviewer_jwt ]]; then
    is=$(get "$1" token_reviewer_jwt_set) || is=false
    [[ $is == false ]]
  else
    is=$(get "$1" "$2") || is='""'
    [[ $is == "$(tr -d '[:space:]' <<<"$3")" ]]
  fi
}

# ensure WHAT PATH FIELD JSON...: what stands at PATH has these fields; only else it is written.
ensure() { # sets $how
  local what=$1 path=$2 fields differing=()
  shift 2
  fields=$(object "$@")
  how=unchanged
  vault read "$path" >/dev/null 2>&1 || how=created
  while (($#)); do
    holds "$path" "$1" "$2" || differing+=("$1")
    shift 2
  done
  [[ $how == created || ${#differing[@]} == 0 ]] || how=updated
  # Others may log in by the same method, and rely on what stands there.
  if [[ $how == updated && $path == auth/*/config && -z $force ]]; then
    how=kept
    did kept "$what; ${differing[*]} differ there, --force writes them"
    return
  fi
  [[ $how == unchanged || -n $dry ]] || put "$path" "$fields"
  did "$how" "$what"
}
hint=''
[[ $method:$reviewer != kubernetes:local ]] || hint='. REVIEWER=local is for a Vault that runs inside the cluster'
put() { # PATH JSON
  local refusal
  refusal=$(vault write "$1" - 2>&1 >/dev/null <<<"$2") || die "Vault refused to write $1: $(reason <<<"$refusal")$hint"
}
apply() { # WHAT, YAML on stdin
  local result
  result=$(kubectl apply ${dry:+--dry-run=server} --filename=- 2>&1) || die "Kubernetes refused $1: ${result##*$'\n'}"
  case $result in
    *unchanged*) did unchanged "$1" ;;
    *configured*) did updated "$1" ;;
    *) did created "$1" ;;
  esac
}
may_review() { # NAMESPACE ACCOUNT: lets it ask the API server whose a token is
  apply "binding of system:auth-delegator to ServiceAccount $1/$2" <<YAML
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "$2-login-review-$1"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:auth-delegator"}
subjects: [{kind: ServiceAccount, namespace: "$1", name: "$2"}]
YAML
}

# The cluster's public keys for tokens (RFC 7517), as PEM (RFC 5280) in a JSON list.
public_keys() {
  local keys key pem list=''
  keys=$(kubectl get --raw "$(kubectl get --raw /.well-known/openid-configuration | sed -n 's/.*"jwks_uri":"[^"]*\(\/openid[^"]*\)".*/\1/p')")
  while read -r key; do
    pem=$(der_of "$key" | base64 -w 64)
    list+="${list:+,}$(printf -- '-----BEGIN PUBLIC KEY-----\n%s\n-----END PUBLIC KEY-----' "$pem" | json)"
  done < <(grep -o '{[^{}]*"kty"[^{}]*}' <<<"$keys")
  [[ -n $list ]] || die 'the cluster publishes no keys for its tokens at /openid/v1/jwks'
  printf '[%s]' "$list"
}
hex_of() { # JWK MEMBER: base64url, as hexadecimal digits
  local text
  text=$(sed -n 's/.*"'"$2"'":"\([^"]*\)".*/\1/p' <<<"$1" | tr '_-' '/+')
  while ((${#text} % 4)); do text+='='; done
  base64 -d <<<"$text" | od -An -v -tx1 | tr -d ' \n'
}
tlv() { # TAG HEX: one DER value
  local length=$((${#2} / 2))
  if ((length < 128)); then printf '%s%02x%s' "$1" "$length" "$2"
  elif ((length < 256)); then printf '%s81%02x%s' "$1" "$length" "$2"
  else printf '%s82%04x%s' "$1" "$length" "$2"; fi
}
der_of() { # JWK: its SubjectPublicKeyInfo
  local algorithm bits
  case $1 in
    *'"kty":"RSA"'*)
      # The zero in front keeps a number with its first bit set from being a negative one.
      algorithm=$(tlv 30 06092a864886f70d0101010500)
      bits=$(tlv 30 "$(tlv 02 "00$(hex_of "$1" n)")$(tlv 02 "$(hex_of "$1" e)")") ;;
    *'"crv":"P-256"'*) algorithm=301306072a8648ce3d020106082a8648ce3d030107 bits=04$(hex_of "$1" x)$(hex_of "$1" y) ;;
    *'"crv":"P-384"'*) algorithm=301006072a8648ce3d020106052b81040022 bits=04$(hex_of "$1" x)$(hex_of "$1" y) ;;
    *'"crv":"P-521"'*) algorithm=301006072a8648ce3d020106052b81040023 bits=04$(hex_of "$1" x)$(hex_of "$1" y) ;;
    *) die "the cluster signs its tokens with a key of a kind that is not known here: $1" ;;
  esac
  # shellcheck disable=SC2059 # the bytes are the format
  printf "$(tlv 30 "$algorithm$(tlv 03 "00$bits")" | sed 's/../\\x&/g')"
}

# ---- the auth method --------------------------------------------------------------------------------
found=$(get "sys/auth/$auth" type) || true
case $found in
  "\"$method\"") did unchanged "auth method at $auth" ;;
  '')
    [[ -n $dry ]] || refusal=$(vault auth enable -path="$auth" "$method" 2>&1) || die "Vault refused an auth method at \"$auth\": $(reason <<<"$refusal")"
    did created "auth method at $auth ($method)" ;;
  *) die "at auth/$auth there is a method of type ${found//\"/}, not $method; choose another VAULT_SYNC_VAULT_AUTH_PATH" ;;
esac

config=auth/$auth/config
give_token() { # the reviewer's, to Vault; a write of the settings is a write of all of them
  local token
  token=$(kubectl --namespace="$namespace" create token "$account-reviewer" --duration="${REVIEWER_TTL:-8760h}" 2>&1) ||
    die "Kubernetes gave no token for $account-reviewer: $token"
  put "$config" "$(object token_reviewer_jwt "$(quoted "$token")" "${fields[@]}")"
}
if [[ $method == kubernetes ]]; then
  other=$(get "$config" kubernetes_host) || true
  [[ -z $other || $other == "\"$host\"" || -n $force ]] ||
    die "auth/$auth is set up for the cluster ${other//\"/}, and this one is $host. Choose another VAULT_SYNC_VAULT_AUTH_PATH, or take it over with --force"
  fields=(kubernetes_host "$(quoted "$host")")
  # Inside the cluster Vault reads the CA beside its token.
  if [[ $reviewer == local ]]; then
    fields+=(kubernetes_ca_cert '""' disable_local_ca_jwt false)
  else
    fields+=(kubernetes_ca_cert "$(quoted "$ca")" disable_local_ca_jwt true)
  fi
  if [[ $reviewer == token ]]; then
    apply "namespace $namespace" <<<"{apiVersion: v1, kind: Namespace, metadata: {name: $namespace}}"
    apply "ServiceAccount $namespace/$account-reviewer" <<<"{apiVersion: v1, kind: ServiceAccount, metadata: {name: $account-reviewer, namespace: $namespace}}"
    may_review "$namespace" "$account-reviewer"
    ensure "settings of auth/$auth: $host" "$config" "${fields[@]}"
    if [[ $how != kept ]]; then
      [[ -n $dry ]] || give_token
      did updated "token of $account-reviewer, good for ${REVIEWER_TTL:-8760h} at most: run this again before"
    fi
  else
    # A token that was left there would be taken instead.
    ensure "settings of auth/$auth: $host" "$config" "${fields[@]}" token_reviewer_jwt '""'
    [[ $reviewer != self ]] || may_review "$namespace" "$account"
  fi
else
  ensure "keys of auth/$auth" "$config" jwt_validation_pubkeys "$(public_keys)"
fi

# ---- the policy and the role --------------------------------------------------------------------------
name=$role${cluster:+-$cluster}
ensure "policy $name: ${mounts[*]/%/${prefix:+/$prefix}}" "sys/policies/acl/$name" policy "$(json <<<"$policy")"
# Short tokens: the operator renews them, and logs in again when they end.
fields=(token_policies "[\"$name\"]" token_no_default_policy true token_ttl 3600 token_max_ttl 86400)
if [[ $method == kubernetes ]]; then
  fields+=(bound_service_account_names "[\"$account\"]" bound_service_account_namespaces "[\"$namespace\"]")
  [[ -z $bound ]] || fields+=(audience "$(quoted "$bound")")
else
  fields+=(role_type '"jwt"' user_claim '"sub"' bound_subject "$(quoted "system:serviceaccount:$namespace:$account")" bound_audiences "[\"$audience\"]")
fi
ensure "role $role of auth/$auth: ServiceAccount $namespace/$account" "auth/$auth/role/$role" "${fields[@]}"

tried=''
# ---- does it hold? --------------------------------------------------------------------------------------
if [[ -n $dry ]]; then
  say 'Nothing was done: this was a dry run.'
elif jwt=$(kubectl --namespace="$namespace" create token "$account" ${audience:+--audience="$audience"} --duration=10m 2>/dev/null); then
  refusal=$(VAULT_TOKEN='' vault write -field=token "auth/$auth/login" - 2>&1 <<<"{\"role\":\"$role\",\"jwt\":\"$jwt\"}") ||
    die "all is set up, but a login as $namespace/$account fails: $(reason <<<"$refusal"). Can Vault reach $host?$(! loopback "$host" || printf ' It is an address of one machine alone: set KUBERNETES_HOST.')"
  VAULT_TOKEN=$refusal vault token revoke -self >/dev/null
  tried=yes
  did works "a login as ServiceAccount $namespace/$account"
else
  say "A login was not tried: ServiceAccount $namespace/$account is not there yet; the chart makes it."
fi

say ''
note=''
if loopback "$address"; then
  note=' # pods cannot reach this address: put the one here by which they reach Vault'
  say "warning: VAULT_ADDR is $address, an address of this machine alone: pods cannot reach Vault by it. Set vault.address below to the one by which they can."
fi
if [[ $method == kubernetes && -z $tried ]] && loopback "$host"; then
  say "warning: the API server's address is $host: Vault cannot reach it, unless it runs on the same machine. Set KUBERNETES_HOST to the one by which Vault can, and run this again with --force."
fi
if [[ $method == kubernetes && -z $bound ]]; then
  say "warning: role $role takes tokens of any audience, since the cluster gave no token to learn its own from. Run this again when the chart is installed."
fi
say 'Values of the chart for this cluster:'
cat <<YAML
vault:
  address: $address$note
  authPath: $auth
  role: $role
YAML
[[ -z ${VAULT_NAMESPACE:-} ]] || printf '  namespace: %s\n' "$VAULT_NAMESPACE"
[[ -z $audience ]] || printf '  tokenAudience: %s\n' "$audience"
[[ -z $cluster ]] || printf 'clusterName: %s\n' "$cluster"
[[ -z ${VAULT_SYNC_CLUSTER_PREFIX+set} ]] || printf 'extraArgs:\n  - --cluster-prefix=%s\n' "$VAULT_SYNC_CLUSTER_PREFIX"
