use super::*;
use domain::document::{KvVersion, Mount};
use domain::settings::{Adopt, DeletionPolicy, NamespaceIsolation, PrefixStyle};

mod any_line;
mod complaints;

/// Reads a command line, split at blanks, with variables, and without any file.
fn read(line: &str, variables: &[(&str, &str)]) -> Result<Config, Exit> {
    let variable = |name: &str| {
        variables
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.into())
    };
    let surroundings = Surroundings {
        variable: &variable,
        file: &|_| None,
    };
    parse(
        format!("op {line}").split_whitespace().map(OsString::from),
        &surroundings,
    )
    .map(|(_, config)| config)
}

/// The first line of the complaint.
fn complaint_of(line: &str, variables: &[(&str, &str)]) -> String {
    let exit = read(line, variables).unwrap_err();
    assert_eq!(exit.code, 2, "{}", exit.text);
    exit.text.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn defaults_are_the_contract() {
    let config = read("", &[]).unwrap();
    let expected = Config {
        vault: crate::vault::Access {
            address: "http://vault:8200".into(),
            role: "vault-sync-operator".into(),
            auth_path: "kubernetes".into(),
            token_file: "/var/run/secrets/kubernetes.io/serviceaccount/token".into(),
            namespace: None,
            ca_cert: None,
            ca_cert_bytes: None,
            ca_path: None,
            client_cert: None,
            client_key: None,
            skip_verify: false,
            tls_server_name: None,
            timeout: Duration::from_mins(1),
            max_retries: 2,
            proxy: None,
            max_rps: None,
        },
        settings: Settings {
            cluster_name: String::new(),
            cluster_prefix: String::new(),
            prefix_style: PrefixStyle::InsideMount,
            isolation: NamespaceIsolation::Off,
            adopt: Adopt::Never,
            adopt_cluster_ids: vec![],
            deletion: DeletionPolicy::Soft,
            max_document_size: None,
            finalizers: true,
            mounts: vec![],
        },
        path_policy: None,
        discover: Discover {
            image_pull_secrets: false,
            csi: false,
        },
        max_documents: 5000,
        cleanup_timeout: Duration::from_secs(30),
        resync_interval: Some(Duration::from_hours(1)),
        kinds: vec![Kind::Deployment, Kind::Secret],
        watch_namespaces: vec![],
        concurrency: 16,
        kubeconfig: None,
        namespace: "default".into(),
        instance: "vault-sync-operator".into(),
        pod_uid: None,
        leader_elect: false,
        metrics_bind_address: Some(":8080".into()),
        enable_metrics_auth: true,
        health_probe_bind_address: Some(":8081".into()),
        shutdown_grace: Duration::from_secs(20),
        repeat_events: Duration::from_mins(50),
        logs: config.logs.clone(),
        runtime: Runtime {
            max_procs: config.runtime.max_procs,
            memory_limit: None,
        },
    };
    assert_eq!(config, expected);
    assert!(config.runtime.max_procs >= 1);
}

#[test]
fn the_predecessors_command_line_is_read() {
    let line = "-leader-elect -metrics-bind-address=127.0.0.1:9 --health-probe-bind-address 0 -enable-metrics-auth=F \
                -vault-addr https://v.example/ --vault-role=r -vault-auth-path clusters/a/ --cluster-name=c1 -kubeconfig k";
    let config = read(line, &[]).unwrap();
    assert!(config.leader_elect);
    assert!(!config.enable_metrics_auth);
    assert_eq!(config.metrics_bind_address.as_deref(), Some("127.0.0.1:9"));
    assert_eq!(config.health_probe_bind_address, None);
    assert_eq!(config.vault.address, "https://v.example");
    assert_eq!(config.vault.role, "r");
    assert_eq!(config.vault.auth_path, "clusters/a");
    assert_eq!(config.settings.cluster_name, "c1");
    assert_eq!(config.settings.cluster_prefix, "clusters/c1");
    assert_eq!(config.kubeconfig, Some("k".into()));
}

#[test]
fn flags_stand_before_and_after_the_command() {
    let config = read(
        "--concurrency=3 run --adopt=all --kinds Secret",
        &[("VAULT_SYNC_CONCURRENCY", "9")],
    )
    .unwrap();
    assert_eq!((config.concurrency, config.settings.adopt), (3, Adopt::All));
    assert_eq!(config.kinds, [Kind::Secret]);
    let config = read("run --concurrency=3", &[("VAULT_SYNC_CONCURRENCY", "9")]).unwrap();
    assert_eq!(config.concurrency, 3);
    let config = read("run", &[("VAULT_SYNC_CONCURRENCY", "9")]).unwrap();
    assert_eq!(config.concurrency, 9);
}

#[test]
fn a_boolean_never_takes_the_next_word() {
    assert!(complaint_of("--leader-elect false", &[]).contains("'false'"));
    assert!(read("--leader-elect run", &[]).unwrap().leader_elect);
    assert!(!read("--finalizers=0", &[]).unwrap().settings.finalizers);
}

#[test]
fn the_last_of_a_repeated_flag_counts_and_lists_grow() {
    assert_eq!(
        read("--concurrency=1 -concurrency 2", &[]).unwrap().concurrency,
        2
    );
    let config = read(
        "--mount a=1,/b/c/=2 --mount=d=2 --mount d=2 --adopt-cluster-id=x,y --discover=csi",
        &[],
    )
    .unwrap();
    let mount = |path: &str, version| Mount {
        path: path.into(),
        version,
    };
    assert_eq!(
        config.settings.mounts,
        [
            mount("a", KvVersion::V1),
            mount("b/c", KvVersion::V2),
            mount("d", KvVersion::V2)
        ]
    );
    assert_eq!(config.settings.adopt_cluster_ids, ["x", "y"]);
    assert_eq!(
        config.discover,
        Discover {
            image_pull_secrets: false,
            csi: true
        }
    );
    assert_eq!(
        read("--watch-namespaces=a,b --watch-namespaces=c", &[])
            .unwrap()
            .watch_namespaces,
        ["a", "b", "c"]
    );
}

#[test]
fn a_flag_wins_over_its_variable_and_an_empty_one_is_none() {
    let addr = [("VAULT_ADDR", "http://env:1")];
    assert_eq!(read("", &addr).unwrap().vault.address, "http://env:1");
    assert_eq!(
        read("-vault-addr=http://flag:1", &addr).unwrap().vault.address,
        "http://flag:1"
    );
    assert_eq!(
        read("", &[("VAULT_ADDR", "")]).unwrap().vault.address,
        "http://vault:8200"
    );
    assert_eq!(
        read("", &[("VAULT_SYNC_VAULT_ADDR", "http://no:1")])
            .unwrap()
            .vault
            .address,
        "http://vault:8200"
    );
    assert!(
        read("", &[("VAULT_SYNC_LEADER_ELECT", "1")])
            .unwrap()
            .leader_elect
    );
    assert!(
        !read("--leader-elect=0", &[("VAULT_SYNC_LEADER_ELECT", "1")])
            .unwrap()
            .leader_elect
    );
    // A list on the command line replaces the variable's, it does not add to it.
    assert_eq!(
        read("--kinds=Secret", &[("VAULT_SYNC_KINDS", "CronJob")])
            .unwrap()
            .kinds,
        [Kind::Secret]
    );
    assert_eq!(
        read("", &[("VAULT_SYNC_KINDS", "CronJob,Secret")]).unwrap().kinds,
        [Kind::CronJob, Kind::Secret]
    );
    // A value that looks like a flag stays a value.
    assert_eq!(
        read("", &[("VAULT_SYNC_VAULT_ROLE", "--x")]).unwrap().vault.role,
        "--x"
    );
}

#[test]
fn the_environment_of_vault_is_read() {
    let config = read(
        "",
        &[
            ("VAULT_NAMESPACE", "team/a/"),
            ("VAULT_CACERT", "/ca.pem"),
            ("VAULT_SKIP_VERIFY", "true"),
            ("VAULT_CLIENT_TIMEOUT", "5"),
            ("VAULT_MAX_RETRIES", "0"),
            ("VAULT_PROXY_ADDR", "http://u:p@proxy:3128"),
            ("VAULT_TOKEN", "never read"),
            ("GOMAXPROCS", "3"),
            ("GOMEMLIMIT", "100MiB"),
            ("POD_NAME", "op-0"),
            ("POD_NAMESPACE", "vault-sync"),
        ],
    )
    .unwrap();
    assert_eq!(config.vault.namespace.as_deref(), Some("team/a"));
    assert_eq!(config.vault.ca_cert, Some("/ca.pem".into()));
    assert!(config.vault.skip_verify);
    assert_eq!(config.vault.timeout, Duration::from_secs(5));
    assert_eq!(config.vault.max_retries, 0);
    assert_eq!(config.vault.proxy.as_deref(), Some("http://u:p@proxy:3128"));
    assert_eq!(
        config.runtime,
        Runtime {
            max_procs: 3,
            memory_limit: Some(104_857_600)
        }
    );
    assert_eq!(
        (config.instance.as_str(), config.namespace.as_str()),
        ("op-0", "vault-sync")
    );
    assert!(!format!("{config:?}").contains("u:p@"));
}

#[test]
fn our_namespace_comes_from_the_pod() {
    let surroundings = Surroundings {
        variable: &|_| None,
        file: &|path| {
            (path == "/var/run/secrets/kubernetes.io/serviceaccount/namespace").then(|| "ops\n".into())
        },
    };
    let namespace = |args: &[&str]| {
        parse(args.iter().map(OsString::from), &surroundings)
            .unwrap()
            .1
            .namespace
    };
    assert_eq!(namespace(&["op"]), "ops");
    assert_eq!(namespace(&["op", "--namespace=mine"]), "mine");
}

#[test]
fn help_and_version_are_no_complaints() {
    let version = read("--version", &[]).unwrap_err();
    assert_eq!(
        (version.text.as_str(), version.code),
        ("vault-sync-operator 0.1.0\n", 0)
    );
    for line in ["--help", "-h", "-help", "run --help"] {
        let help = read(line, &[]).unwrap_err();
        assert_eq!(help.code, 0);
        let text = help.text.split_whitespace().collect::<Vec<_>>().join(" "); // it is wrapped
        for part in [
            "[env: VAULT_ADDR]",
            "[default: http://vault:8200]",
            "[env: VAULT_SYNC_LEADER_ELECT]",
            " Vault: --",
            " Cluster: --",
            " Paths and ownership: --",
            " Deletion: --",
            " Kubernetes: --",
            " Endpoints: --",
            " Tuning: --",
            " Logs: --",
        ] {
            assert!(text.contains(part), "{line} lacks {part:?}: {text}");
        }
    }
}
