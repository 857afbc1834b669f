//! The simulated Vault is held against a real one: both are asked the same, and must answer the same.
//!
//! Calls are drawn from a seed, which is printed. `SIMULATED_VAULT_SEED` gives another one, and
//! `SIMULATED_VAULT_COUNT` says how many sequences are drawn, one seed after the other.
//!
//! What differs on purpose, and is not compared:
//!
//! - Everything random: ids, tokens, accessors, UUIDs. Times, but whether there is one is compared.
//! - What the real one learns of a ServiceAccount from Kubernetes: its name, namespace and UID.
//! - The order of several faults in one reply: the real one draws it.
//! - A TTL may differ by a second: both cut off fractions.
//! - The words for what is no JSON, and the text of a redirect. The statuses are the same.
//! - `subkeys/`, response wrapping, `sys/remount`, and whatever else neither the operator nor people around it use:
//!   the simulated one says that there is no such path.
//! - Other secrets engines than KV are listed, and serve nothing.
//! - In `sys/mounts` and `sys/policies/acl`, what other tests have made.
//! - A KV mount that is upgraded answers at once; `Vault::set_upgrading` has the reply of one that does not.
//! - A seal, a standby and replies to broken bodies were compared by hand: the shared Vault must not be sealed.

mod compare;
mod draw;
mod twins;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use serde_json::json;
use sim::vault::Role;

use draw::{Dice, Plan};
use testkit::{Scene, Testbed, number, say};
use twins::Twins;

/// So many sequences without `SIMULATED_VAULT_COUNT`, each of so many calls.
const SEQUENCES: u64 = 12;
const CALLS: usize = 60;

#[test]
fn the_simulated_vault_answers_as_the_real_one() {
    let bed = Testbed::shared();
    let fresh = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs());
    let first = number("SIMULATED_VAULT_SEED").unwrap_or(fresh);
    let count = number("SIMULATED_VAULT_COUNT").unwrap_or(SEQUENCES);
    say(&format!(
        "simulated Vault: {count} sequences from SIMULATED_VAULT_SEED={first}"
    ));
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for seed in first..first + count {
        let mut twins = Twins::new(&bed, &format!("s{seed}"), seed);
        let ran = catch_unwind(AssertUnwindSafe(|| sequence(&mut twins, seed)));
        twins.clean();
        if let Err(panic) = ran {
            say(&format!(
                "run it again: SIMULATED_VAULT_SEED={seed} SIMULATED_VAULT_COUNT=1"
            ));
            resume_unwind(panic);
        }
        for (status, times) in twins.statuses() {
            *statuses.entry(*status).or_default() += times;
        }
    }
    say(&format!(
        "simulated Vault: the same replies, by status: {statuses:?}"
    ));
}

fn sequence(twins: &mut Twins, seed: u64) {
    let mut plan = Plan::new(Dice::new(seed), twins.tag());
    for call in plan.foundations() {
        twins.ask(&call);
    }
    twins.make_tokens();
    for _ in 0..CALLS {
        let call = plan.call();
        twins.ask(&call);
    }
    twins.look_at_everything(&plan);
}

#[test]
fn what_ends_by_itself_ends_in_both() {
    let bed = Testbed::shared();
    let mut twins = Twins::new(&bed, "ends", 1);
    let mount = twins.mount("kv");
    twins.root("POST", &format!("sys/mounts/{mount}"), json!({"type": "kv-v2"}));
    twins.root(
        "POST",
        &format!("{mount}/metadata/a"),
        json!({"delete_version_after": "1s"}),
    );
    twins.root("POST", &format!("{mount}/data/a"), json!({"data": {"k": "1"}}));
    twins.root("GET", &format!("{mount}/data/a"), json!(null));
    twins.make_token("short", &json!({"ttl": "1s", "policies": ["default"]}));
    twins.by("short", "GET", "auth/token/lookup-self", json!(null));
    sleep(Duration::from_millis(2100));
    twins.root("GET", &format!("{mount}/data/a"), json!(null));
    twins.root("DELETE", &format!("{mount}/data/a"), json!(null));
    twins.root("PATCH", &format!("{mount}/data/a"), json!({"data": {"l": "1"}}));
    twins.root("POST", &format!("{mount}/undelete/a"), json!({"versions": [1]}));
    twins.root("GET", &format!("{mount}/metadata/a"), json!(null));
    twins.by("short", "GET", "auth/token/lookup-self", json!(null));
    twins.clean();
}

#[test]
fn logins_by_kubernetes_are_the_same() {
    let scene = Scene::new();
    let mut twins = Twins::new(&scene.bed, "logins", 2);
    let jwt = scene.jwt("operator");
    for (name, settings, role) in [
        ("plain", json!({}), Role::default()),
        (
            "short",
            json!({"token_ttl": 600, "token_max_ttl": 900, "token_no_default_policy": true}),
            Role {
                ttl: 600,
                max_ttl: 900,
                no_default_policy: true,
                ..Role::default()
            },
        ),
        (
            "counted",
            json!({"token_num_uses": 3, "token_ttl": "1h", "token_max_ttl": 0, "token_no_default_policy": false}),
            Role {
                num_uses: 3,
                ttl: 3600,
                ..Role::default()
            },
        ),
    ] {
        scene.set_role(settings);
        twins.set_role(
            &scene.ns,
            Role {
                jwts: vec![jwt.clone()],
                policies: vec![scene.ns.clone()],
                ..role
            },
        );
        twins.set_policy(&scene.ns, &scene.policy());
        twins.log_in(name, &scene.ns, &jwt);
        for (method, path, body) in [
            ("GET", "auth/token/lookup-self".to_owned(), json!(null)),
            (
                "POST",
                "auth/token/renew-self".to_owned(),
                json!({"increment": "300s"}),
            ),
            (
                "POST",
                "auth/token/renew-self".to_owned(),
                json!({"increment": "3000s"}),
            ),
            ("POST", "auth/token/renew-self".to_owned(), json!({})),
            ("GET", "auth/token/lookup-self".to_owned(), json!(null)),
            ("GET", format!("secret/data/{}/x", scene.ns), json!(null)),
            ("POST", "auth/token/revoke-self".to_owned(), json!({})),
        ] {
            twins.by(name, method, &path, body);
        }
    }
    for body in [
        json!({"role": scene.ns, "jwt": "junk"}),
        json!({"role": scene.ns, "jwt": "a.b.c"}),
        json!({"role": "nobody", "jwt": jwt}),
        json!({"role": scene.ns}),
        json!({"jwt": jwt}),
        json!({}),
    ] {
        twins.by("nobody", "POST", "auth/kubernetes/login", body);
    }
    twins.by("nobody", "GET", "auth/kubernetes/login", json!(null));
    twins.by(
        "nobody",
        "POST",
        "auth/elsewhere/login",
        json!({"role": "a", "jwt": "b"}),
    );
    twins.clean();
}
