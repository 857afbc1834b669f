# Short names for the scripts in hack/ and ci/; CONTRIBUTING.md says what the two folders are for.

# List the recipes
default:
    @just --list

# Show the whole story on a real Kubernetes and a real Vault
demo:
    hack/demo

# Run all tests; arguments go to cargo test
test *args:
    hack/test {{args}}

# The crash explorer: every fault at every step; goes on where it was ended
explore *what:
    hack/explore {{what}}

# The operator's times against the calls that nobody can avoid
bench:
    hack/bench

# Ten clusters on one Vault: their times, calls and memory, and that each stays below its own prefix (about 8 GB)
fleet:
    hack/bench fleet

# Random input to one of fuzz/fuzz_targets, or to each of them, for so many seconds each
fuzz target="all" seconds="60":
    hack/fuzz {{target}} {{seconds}}

# Format, clippy, docs, scripts, dependencies, README
lint:
    ci/lint

# Check the chart and the examples against a real API server
chart:
    ci/chart

# Format the code, and write the flags of --help into the README
fmt:
    cargo fmt --all
    ci/readme --write

# Static release build into dist/
build *arch:
    hack/build {{arch}}

# Image from dist/
image tag="vault-sync-operator:dev": build
    hack/image {{tag}}

# The whole life of an installation, on a real node (root); --existing takes a cluster that is there
e2e *args:
    hack/e2e {{args}}

# A release to a registry of its own on this machine; nothing is tagged, signed or published
release-dry-run version=`sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1`:
    hack/release {{version}} --dry-run --skip-tests

# A cluster and a Vault to play with: eval "$(just up)"
up *name:
    @hack/testbed/up {{name}}

# End it
down *name:
    hack/testbed/down {{name}}

# Whole worlds with operators in them, each from a seed, for so long; goes on where the last one ended
simulate seconds="60":
    cargo run --quiet --profile sim -p vault-sync-sim -- run --seconds {{seconds}} --jobs "$(nproc)" --state target/simulated

# The calls of a large world, counted, such as `just scale --sources 20000` or `just scale --clusters 100 --sources 100`
scale *args:
    cargo run --quiet --profile sim -p vault-sync-sim -- scale {{args}}

# Faults that are put into the code: how many worlds it takes until the simulation finds each
faults *names:
    hack/faults {{names}}

# All checks, as CI runs them
ci:
    .ci/run
