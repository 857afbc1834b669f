//! The command line, as the program's users meet it.

use serde_json::json;

use testkit::{Scene, run_to_end};

#[test]
fn version_is_told_with_one_dash_or_two() {
    for flag in ["--version", "-version"] {
        let (code, text) = run_to_end(&[flag], &[]);
        assert_eq!(code, 0, "{text}");
        assert!(
            text.contains("vault-sync-operator") && text.contains(env!("CARGO_PKG_VERSION")),
            "{text}"
        );
    }
}

#[test]
fn what_cannot_be_used_ends_with_its_name_and_what_is_allowed() {
    for (args, env, words) in [
        (&["--no-such-flag"][..], &[][..], &["no-such-flag"][..]),
        (&["-no-such-flag=1"], &[], &["no-such-flag"]),
        (&["--leader-elect=maybe"], &[], &["leader-elect", "true", "false"]),
        (&["--vault-addr=vault:8200"], &[], &["vault-addr", "http"]),
        (&["--cluster-name=C_1"], &[], &["cluster-name", "a-z"]),
        (
            &["--deletion-policy=hard"],
            &[],
            &["deletion-policy", "soft", "purge", "retain"],
        ),
        (
            &["--namespace-isolation=on"],
            &[],
            &["namespace-isolation", "off", "enforce", "prefix"],
        ),
        (&["--mount=kv=3"], &[], &["mount", "PATH=1", "PATH=2"]),
        (
            &["--metrics-bind-address=nowhere"],
            &[],
            &["metrics-bind-address"],
        ),
        (
            &[],
            &[("VAULT_SYNC_LEADER_ELECT", "maybe")],
            &["VAULT_SYNC_LEADER_ELECT", "true", "false"],
        ),
        (&[], &[("VAULT_ADDR", "vault:8200")], &["VAULT_ADDR", "http"]),
        (&[], &[("GOMAXPROCS", "0")], &["GOMAXPROCS"]),
        (&[], &[("GOMAXPROCS", "many")], &["GOMAXPROCS"]),
        (&[], &[("GOMEMLIMIT", "64XB")], &["GOMEMLIMIT", "MiB", "off"]),
        (
            &[],
            &[("VAULT_CLIENT_TIMEOUT", "soon")],
            &["VAULT_CLIENT_TIMEOUT"],
        ),
        (
            &[],
            &[("VAULT_CLIENT_TIMEOUT", "18446744073709551615")],
            &["VAULT_CLIENT_TIMEOUT", "18446744073709551615", "3600"],
        ),
        (
            &["--resync-interval=1ns"],
            &[],
            &["resync-interval", "1ns", "1s", "8760h", "off"],
        ),
    ] {
        let (code, text) = run_to_end(args, env);
        assert_eq!(code, 2, "{args:?} {env:?}: {text}");
        for word in words {
            assert!(
                text.contains(word),
                "{args:?} {env:?} does not say {word}: {text}"
            );
        }
    }
}

#[test]
fn a_path_policy_that_cannot_be_read_ends_with_the_flags_name() {
    for file in ["/nowhere/policy.yaml", "/proc/self/cmdline"] {
        let (code, text) = run_to_end(&[&format!("--path-policy={file}")], &[]);
        assert_ne!(code, 0, "{text}");
        assert_ne!(code, 124, "it went on: {text}");
        assert!(text.contains("path-policy"), "{text}");
    }
}

#[test]
fn a_wrong_value_is_not_repeated_since_it_may_hold_a_password() {
    let (code, text) = run_to_end(&["--vault-addr=ftp://user:hunter2@vault"], &[]);
    assert_eq!(code, 2, "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn gos_flag_syntax_is_understood() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene
        .run()
        .single_dash()
        .flag("leader-elect", "F")
        .flag("enable-metrics-auth", "1")
        .start();
    scene.doc("db").becomes(json!({"k": "v"}));
}

#[test]
fn flags_have_variables_and_win_over_them() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene
        .run()
        .without_flag("vault-addr")
        .env("VAULT_ADDR", &format!("http://127.0.0.1:{}", scene.vault.port))
        .without_flag("watch-namespaces")
        .env("VAULT_SYNC_WATCH_NAMESPACES", &scene.ns)
        .env("VAULT_SYNC_CLUSTER_NAME", "from-the-variable")
        .flag("cluster-name", "from-the-flag")
        .env("VAULT_SYNC_VAULT_ROLE", "wrong")
        .start();
    scene
        .doc_in("secret", &format!("clusters/from-the-flag/{}/db", scene.ns))
        .becomes(json!({"k": "v"}));
}

#[test]
fn vault_token_in_the_environment_is_never_used() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene.run().env("VAULT_TOKEN", "hvs.not-to-be-used").start();
    scene.doc("db").becomes(json!({"k": "v"}));
    assert!(!scene.vault.heard().concat().contains("hvs.not-to-be-used"));
}

#[test]
fn kubeconfig_comes_from_the_variable_when_there_is_no_flag() {
    let scene = Scene::new();
    scene.own("db", "v");
    let run = scene.run().without_flag("kubeconfig");
    let _operator = run
        .env("KUBECONFIG", scene.dir.join("kubeconfig").to_str().unwrap())
        .start();
    scene.doc("db").becomes(json!({"k": "v"}));
}
