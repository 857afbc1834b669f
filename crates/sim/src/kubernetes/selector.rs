//! Selectors: which objects a list or a watch is about.

use serde_json::{Value, json};

use super::call::Options;
use super::resource::Endpoint;
use super::status::Failure;

/// Labels and fields that an object must have.
#[derive(Default)]
pub(super) struct Selector {
    labels: Vec<Label>,
    fields: Vec<Field>,
}

/// What is asked of one label.
struct Label {
    key: String,
    asks: Asks,
}

enum Asks {
    /// It has one of these values.
    In(Vec<String>),
    /// It is not there, or has none of these values.
    NotIn(Vec<String>),
    IsThere,
    IsNotThere,
}

/// What is asked of one field.
struct Field {
    path: String,
    value: String,
    equals: bool,
}

impl Selector {
    /// Reads both selectors of a query.
    pub(super) fn read(endpoint: Endpoint, options: &Options) -> Result<Self, Failure> {
        Ok(Self {
            labels: labels(&options.label_selector)?,
            fields: fields(endpoint, &options.field_selector)?,
        })
    }

    /// Whether it selects everything.
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether it selects this object.
    pub(super) fn fits(&self, object: &Value) -> bool {
        self.fields.iter().all(|field| field.fits(object))
            && self
                .labels
                .iter()
                .all(|label| label.fits(&object["metadata"]["labels"]))
    }
}

impl Label {
    fn fits(&self, labels: &Value) -> bool {
        let value = labels.get(&self.key).and_then(Value::as_str);
        let is_one_of = |values: &[String]| value.is_some_and(|value| values.iter().any(|one| one == value));
        match &self.asks {
            Asks::In(values) => is_one_of(values),
            Asks::NotIn(values) => !is_one_of(values),
            Asks::IsThere => value.is_some(),
            Asks::IsNotThere => value.is_none(),
        }
    }
}

impl Field {
    fn fits(&self, object: &Value) -> bool {
        let found = self.path.split('.').fold(object, |value, word| &value[word]);
        (found.as_str().unwrap_or_default() == self.value) == self.equals
    }
}

/// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
fn labels(text: &str) -> Result<Vec<Label>, Failure> {
    requirements(text).into_iter().map(label).collect()
}

/// Splits at the commas that are in no parentheses.
fn requirements(text: &str) -> Vec<&str> {
    let mut inside = false;
    let parts = text.split(move |sign| {
        inside = (inside || sign == '(') && sign != ')';
        sign == ',' && !inside
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn label(text: &str) -> Result<Label, Failure> {
    let one = |value: &str| vec![value.trim().to_owned()];
    let (key, asks) = if let Some((key, values)) = text.split_once(" notin ") {
        (key, Asks::NotIn(set(values)))
    } else if let Some((key, values)) = text.split_once(" in ") {
        (key, Asks::In(set(values)))
    } else if let Some((key, value)) = text.split_once("!=") {
        (key, Asks::NotIn(one(value)))
    } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (key, Asks::In(one(value)))
    } else if let Some(key) = text.strip_prefix('!') {
        (key, Asks::IsNotThere)
    } else {
        (text, Asks::IsThere)
    };
    let key = key.trim().to_owned();
    if key.is_empty() || key.starts_with('!') {
        return Err(Failure::bad_request(
            "unable to parse requirement: found '!', expected: identifier",
        ));
    }
    Ok(Label { key, asks })
}

/// Reads `(a, b)`.
fn set(text: &str) -> Vec<String> {
    let inside = text.trim().trim_start_matches('(').trim_end_matches(')');
    inside.split(',').map(|value| value.trim().to_owned()).collect()
}

/// Reads `metadata.name=a,type!=b`.
fn fields(endpoint: Endpoint, text: &str) -> Result<Vec<Field>, Failure> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts.map(|part| field(endpoint, part)).collect()
}

fn field(endpoint: Endpoint, text: &str) -> Result<Field, Failure> {
    let (path, value, equals) = if let Some((path, value)) = text.split_once("!=") {
        (path, value, false)
    } else if let Some((path, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (path, value, true)
    } else {
        let message = format!(
            "invalid selector: {}; can't understand {}",
            json!(text),
            json!(text)
        );
        return Err(Failure::bad_request(message));
    };
    let own = endpoint.resource.selectable_fields();
    if !matches!(path, "metadata.name" | "metadata.namespace") && !own.contains(&path) {
        let message = if own.is_empty() {
            format!(
                "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                json!(path)
            )
        } else {
            format!("field label not supported: {path}")
        };
        return Err(Failure::bad_request(message));
    }
    Ok(Field {
        path: path.to_owned(),
        value: value.to_owned(),
        equals,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(selector: &str, labels_of_object: &Value) -> bool {
        let selector = Selector {
            labels: labels(selector).unwrap(),
            fields: Vec::new(),
        };
        selector.fits(&json!({"metadata": {"labels": labels_of_object}}))
    }

    #[test]
    fn labels_select() {
        let object = json!({"app": "web", "tier": "front"});
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (web, db),tier", true),
            ("app notin (web)", false),
            ("!other", true),
            ("!app", false),
            ("other", false),
        ] {
            assert_eq!(fits(selector, &object), expected, "{selector}");
        }
    }

    #[test]
    fn fields_select_and_unknown_ones_are_refused() {
        let secrets = Endpoint::find("v1", "secrets").unwrap();
        let object = json!({"metadata": {"name": "db", "namespace": "shop"}, "type": "Opaque"});
        for (text, expected) in [
            ("metadata.name=db", Some(true)),
            ("metadata.name=db,metadata.namespace!=shop", Some(false)),
            ("type==Opaque", Some(true)),
            ("data.k=v", None),
        ] {
            let mut options = Options::default();
            text.clone_into(&mut options.field_selector);
            let selector = Selector::read(secrets, &options).ok();
            assert_eq!(
                selector.map(|selector| selector.fits(&object)),
                expected,
                "{text}"
            );
        }
    }
}
