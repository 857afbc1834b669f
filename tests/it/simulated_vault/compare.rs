//! Whether two replies are the same, but for what each Vault draws by itself.

use serde_json::{Map, Value};

/// A reply.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

/// Fields whose values are random, or times. Only whether there is one is compared.
const DRAWN: [&str; 15] = [
    "request_id",
    "accessor",
    "uuid",
    "id",
    "client_token",
    "client_id",
    "entity_id",
    "created_time",
    "updated_time",
    "deletion_time",
    "creation_time",
    "expire_time",
    "issue_time",
    "last_renewal",
    "last_renewal_time",
];

/// What the real one learns of a ServiceAccount from Kubernetes.
const OF_THE_ACCOUNT: [&str; 5] = [
    "display_name",
    "service_account_name",
    "service_account_namespace",
    "service_account_secret_name",
    "service_account_uid",
];

/// Seconds, which may differ by one.
const SECONDS: [&str; 3] = ["ttl", "lease_duration", "creation_ttl"];

/// The error says what differs.
pub(super) fn same(real: &Answer, sim: &Answer) -> Result<(), String> {
    if real.status != sim.status {
        return Err(format!("status {}, not {}", sim.status, real.status));
    }
    compare("", &real.body, &sim.body)
}

fn compare(at: &str, real: &Value, sim: &Value) -> Result<(), String> {
    let name = at.rsplit('.').next().unwrap_or_default();
    let equal = match (real, sim) {
        (Value::Object(real), Value::Object(sim)) => return objects(at, real, sim),
        (Value::Array(real), Value::Array(sim)) if real.len() == sim.len() => {
            let mut pairs = real.iter().zip(sim).enumerate();
            return pairs.try_for_each(|(index, (real, sim))| compare(&format!("{at}.{index}"), real, sim));
        }
        _ if DRAWN.contains(&name) => is_empty(real) == is_empty(sim),
        (Value::Number(real), Value::Number(sim)) if SECONDS.contains(&name) => {
            let number = |number: &serde_json::Number| number.as_i64().unwrap_or_default();
            (number(real) - number(sim)).abs() <= 1
        }
        (Value::String(real), Value::String(sim)) => words(real) == words(sim) || of_two_faults(real, sim),
        _ => real == sim,
    };
    if equal {
        Ok(())
    } else {
        Err(format!("{at} is {sim}, not {real}"))
    }
}

fn objects(at: &str, real: &Map<String, Value>, sim: &Map<String, Value>) -> Result<(), String> {
    for (name, real) in real
        .iter()
        .filter(|(name, _)| !OF_THE_ACCOUNT.contains(&name.as_str()))
    {
        let at = format!("{at}.{name}");
        let sim = sim
            .get(name)
            .ok_or_else(|| format!("{at} is missing, not {real}"))?;
        compare(&at, real, sim)?;
    }
    let extra = sim.keys().find(|name| !real.contains_key(*name));
    match extra {
        None => Ok(()),
        Some(name) => Err(format!("{at}.{name} is there, and the real one does not have it")),
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value == ""
}

/// Whether each names another one of several fields that do not fit.
fn of_two_faults(real: &str, sim: &str) -> bool {
    const FAULT: &str = "error converting input for field ";
    let field = |text: &str| {
        let (begin, fault) = text.split_once(FAULT)?;
        Some((begin.to_owned(), fault.split(':').next()?.to_owned()))
    };
    match (field(real), field(sim)) {
        (Some((begin, field)), Some((same, other))) => begin == same && field != other,
        _ => false,
    }
}

/// A text without what may differ: the order of several faults, and the seconds in a warning.
fn words(text: &str) -> Vec<String> {
    let is_warning = text.starts_with("TTL of ");
    let kept = text
        .chars()
        .map(|c| if is_warning && c.is_ascii_digit() { '0' } else { c });
    let mut lines: Vec<String> = kept.collect::<String>().lines().map(ToOwned::to_owned).collect();
    if text.contains(" errors occurred:") {
        lines.sort();
    }
    lines
}
