//! Go's flag syntax, for users of the predecessor: the forms that it accepts and clap does not.
//! <https://pkg.go.dev/flag#hdr-Command_line_flag_syntax>

use domain::text::excerpt;

use super::values::BadValue;

/// Rewrites a command line into the one form that clap sees: `--flag=value`, or only `--flag`.
///
/// One dash counts as two. A flag with a value takes the next word, whatever it begins with. Booleans and
/// unknown flags never take it. Everything after `--` stays.
pub(super) fn normalise(args: Vec<String>, takes_value: impl Fn(&str) -> bool) -> Vec<String> {
    let mut args = args.into_iter();
    let mut normal: Vec<String> = args.next().into_iter().collect();
    while let Some(arg) = args.next() {
        match arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) {
            Some("") => {
                normal.push(arg);
                break;
            }
            Some("h") => normal.push("--help".to_owned()),
            Some(flag) if takes_value(flag) => match args.next() {
                Some(value) => normal.push(format!("--{flag}={value}")),
                None => normal.push(format!("--{flag}")),
            },
            Some(flag) => normal.push(format!("--{flag}")),
            None => normal.push(arg),
        }
    }
    normal.extend(args);
    normal
}

/// Whether a normalized command line contains the flag.
pub(super) fn names(args: &[String], flag: &str) -> bool {
    args.iter()
        .take_while(|arg| *arg != "--")
        .filter_map(|arg| arg.strip_prefix("--")?.strip_prefix(flag))
        .any(|rest| rest.is_empty() || rest.starts_with('='))
}

/// Go's names for boolean values. <https://pkg.go.dev/strconv#ParseBool>
pub(super) fn boolean(text: &str) -> Result<bool, BadValue> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(BadValue::Boolean(excerpt(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(line: &str) -> String {
        let args = line.split(' ').map(str::to_owned).collect();
        normalise(args, |flag| matches!(flag, "vault-addr" | "concurrency")).join(" ")
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        for (line, expected) in [
            ("op", "op"),
            ("op -leader-elect", "op --leader-elect"),
            ("op --leader-elect", "op --leader-elect"),
            ("op -leader-elect=false run", "op --leader-elect=false run"),
            ("op --leader-elect false", "op --leader-elect false"),
            ("op -vault-addr http://v", "op --vault-addr=http://v"),
            ("op --vault-addr=http://v", "op --vault-addr=http://v"),
            ("op -concurrency -5", "op --concurrency=-5"),
            ("op -vault-addr -leader-elect", "op --vault-addr=-leader-elect"),
            ("op -vault-addr", "op --vault-addr"),
            ("op -h", "op --help"),
            ("op -unknown x", "op --unknown x"),
            (
                "op run -leader-elect -- -x --y",
                "op run --leader-elect -- -x --y",
            ),
            ("op -", "op -"),
        ] {
            assert_eq!(normal(line), expected, "{line}");
        }
    }

    #[test]
    fn a_flag_is_named_by_its_whole_name() {
        let args = ["op", "--vault-addr=x", "--adopt-cluster-id=y", "--", "--kinds"].map(str::to_owned);
        assert!(names(&args, "vault-addr"));
        assert!(!names(&args, "vault"));
        assert!(!names(&args, "adopt"));
        assert!(!names(&args, "kinds"));
    }

    #[test]
    fn booleans_are_gos() {
        for word in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(boolean(word), Ok(true));
        }
        for word in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(boolean(word), Ok(false));
        }
        for word in ["", "yes", "tRUE", "2"] {
            assert!(matches!(boolean(word), Err(BadValue::Boolean(_))));
        }
    }
}
