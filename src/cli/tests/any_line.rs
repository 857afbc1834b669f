//! Whatever is in a flag or a variable: it is used, or refused in words that name it.

use proptest::prelude::*;

use super::*;

/// Every variable that is read beside those of flags.
const VARIABLES: [&str; 17] = [
    "VAULT_NAMESPACE",
    "VAULT_CACERT",
    "VAULT_CACERT_BYTES",
    "VAULT_CAPATH",
    "VAULT_CLIENT_CERT",
    "VAULT_CLIENT_KEY",
    "VAULT_SKIP_VERIFY",
    "VAULT_TLS_SERVER_NAME",
    "VAULT_CLIENT_TIMEOUT",
    "VAULT_MAX_RETRIES",
    "VAULT_PROXY_ADDR",
    "GOMAXPROCS",
    "GOMEMLIMIT",
    "RUST_LOG",
    "POD_NAME",
    "POD_NAMESPACE",
    "HOSTNAME",
];

fn flags() -> Vec<String> {
    let command = args::Cli::command();
    command
        .get_arguments()
        .filter_map(|arg| arg.get_long())
        .filter(|flag| !matches!(*flag, "help" | "version"))
        .map(str::to_owned)
        .collect()
}

fn variables() -> Vec<String> {
    let own = flags().into_iter().map(|flag| args::variable(&flag));
    own.chain(VARIABLES.map(str::to_owned)).collect()
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[-+a-z0-9:/@=.,\\[\\]{}%?#* ]{0,40}",
        prop::sample::select(vec![
            "0",
            "-1",
            "1",
            "99999999999999999999",
            "true",
            "off",
            "1h",
            "KiB",
            "=",
            "a=1,a=2",
            "::",
            "[::]:0",
            "http://",
            "https://v:8200",
            "http://[",
            "http://v:99999",
            "kube=debug",
            "\u{0}",
            "é",
            "=2",
            ",",
        ])
        .prop_map(str::to_owned),
        (0..100_000_usize).prop_map(|length| "x".repeat(length)),
    ]
}

fn with(variable: &str, value: &OsString) -> Result<Config, Exit> {
    let lookup = |name: &str| (name == variable).then(|| value.clone());
    let surroundings = Surroundings {
        variable: &lookup,
        file: &|_| None,
    };
    parse([OsString::from("op")], &surroundings).map(|(_, config)| config)
}

/// A complaint names what is at fault, and ends.
fn names(complaint: &Exit, name: &str) -> Result<(), TestCaseError> {
    let text = &complaint.text;
    prop_assert_eq!(complaint.code, 2, "{}", text);
    prop_assert!(text.contains(name), "{} is not in {}", name, text);
    prop_assert!(text.len() < 3000, "{} bytes about {}", text.len(), name);
    Ok(())
}

proptest! {
    #[test]
    fn any_text_in_a_variable_is_used_or_refused_by_name(
        variable in prop::sample::select(variables()),
        value in value(),
    ) {
        if let Err(complaint) = with(&variable, &value.into()) {
            names(&complaint, &variable)?;
        }
    }

    #[test]
    fn any_bytes_in_a_variable_are_used_or_refused_by_name(
        variable in prop::sample::select(variables()),
        value in prop::collection::vec(any::<u8>(), 0..30),
    ) {
        use std::os::unix::ffi::OsStringExt as _;
        if let Err(complaint) = with(&variable, &OsString::from_vec(value)) {
            names(&complaint, &variable)?;
        }
    }

    #[test]
    fn any_text_after_a_flag_is_used_or_refused_by_name(
        flag in prop::sample::select(flags()),
        value in value(),
    ) {
        let surroundings = Surroundings { variable: &|_| None, file: &|_| None };
        let args = ["op".to_owned(), format!("--{flag}={value}")].map(OsString::from);
        if let Err(complaint) = parse(args, &surroundings) {
            names(&complaint, &format!("--{flag}"))?;
        }
    }

    #[test]
    fn any_command_line_is_used_or_refused(words in prop::collection::vec(value(), 0..6)) {
        let surroundings = Surroundings { variable: &|_| None, file: &|_| None };
        let args = ["op".to_owned()].into_iter().chain(words).map(OsString::from);
        if let Err(exit) = parse(args, &surroundings) {
            prop_assert!(!exit.text.trim().is_empty());
        }
    }

    #[test]
    fn the_password_in_an_address_is_never_repeated(
        variable in prop::sample::select(vec!["VAULT_ADDR", "VAULT_PROXY_ADDR"]),
        scheme in "(http://|https://|socks5://|//|ftp:|)",
        user in "[a-z:]{0,4}",
        rest in "[-@:/a-z0-9.\\[\\]?# %]{0,20}",
    ) {
        let value = format!("{scheme}{user}:hunter2@{rest}");
        let said = match with(variable, &value.clone().into()) {
            Err(complaint) => {
                names(&complaint, variable)?;
                complaint.text
            }
            // What is taken is shown by nobody.
            Ok(config) => format!("{:?}", config.vault),
        };
        prop_assert!(!said.contains("hunter2"), "{}", said);
        if variable == "VAULT_ADDR" {
            let surroundings = Surroundings { variable: &|_| None, file: &|_| None };
            for args in [vec![format!("--vault-addr={value}")], vec!["-vault-addr".into(), value.clone()]] {
                let args = ["op".to_owned()].into_iter().chain(args).map(OsString::from);
                let complaint = parse(args, &surroundings).err().map(|exit| exit.text);
                prop_assert!(complaint.is_none_or(|text| !text.contains("hunter2")));
            }
        }
    }
}
