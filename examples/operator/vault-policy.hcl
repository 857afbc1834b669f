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
