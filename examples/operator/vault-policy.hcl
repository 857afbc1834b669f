# Vault's policy for the operator of one cluster, for a KV v2 mount at secret/. With
# --cluster-name=c1, put clusters/c1/ after data/, metadata/ and delete/: then this cluster
# reaches nothing of another's.

path "secret/data/*" {
  capabilities = ["create", "read", "update", "delete"]
}

# Claims: whose a document is. Without these rights the mount is claimless, see the README.
path "secret/metadata/*" {
  capabilities = ["create", "read", "update", "patch", "list"] # and "delete" for deletion-policy: purge
}

# Deleting the version that was seen, by its number.
path "secret/delete/*" {
  capabilities = ["update"]
}

# The operator's own token. The policy "default" has these too; a role with token_no_default_policy needs them here.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
