# What the operator may do in the testbed's Vault: all that its design asks for, on every
# mount that the tests use, and nothing else.

path "secret/data/*"     { capabilities = ["create", "read", "update", "delete"] }
path "secret/metadata/*" { capabilities = ["create", "read", "update", "patch", "list", "delete"] }
path "secret/delete/*"   { capabilities = ["update"] }

path "team/kv/data/*"     { capabilities = ["create", "read", "update", "delete"] }
path "team/kv/metadata/*" { capabilities = ["create", "read", "update", "patch", "list", "delete"] }
path "team/kv/delete/*"   { capabilities = ["update"] }

path "kv1/*" { capabilities = ["create", "read", "update", "delete", "list"] }
