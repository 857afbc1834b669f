//! The language of policies, as much of it as policies for KV use:
//! `path "secret/data/*" { capabilities = ["create", "read"] }`, and comments.
//! <https://developer.hashicorp.com/vault/docs/concepts/policies#policy-syntax>

use super::{Capabilities, Capability};

/// The rules in a policy's text.
pub(super) fn rules(text: &str) -> Result<Vec<(String, Capabilities)>, String> {
    let mut reader = Reader {
        tokens: tokens(text)?,
        at: 0,
    };
    let mut rules = Vec::new();
    while let Some(token) = reader.next() {
        match token {
            Token::Word(word) if word == "path" => rules.push(reader.rule()?),
            _ => return Err("failed to parse policy: expected a path".to_owned()),
        }
    }
    Ok(rules)
}

#[derive(Clone, PartialEq, Debug)]
enum Token {
    Word(String),
    Text(String),
    Mark(char),
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '#' => after(rest, "\n"),
            '/' if rest.starts_with("//") => after(rest, "\n"),
            '/' if rest.starts_with("/*") => after(rest, "*/"),
            '"' => {
                let (string, rest) = string(&rest[1..])?;
                tokens.push(Token::Text(string));
                rest
            }
            c if c.is_alphanumeric() || c == '_' => {
                let end = rest
                    .find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '-' | '.'))
                    .unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..end].to_owned()));
                &rest[end..]
            }
            mark => {
                tokens.push(Token::Mark(mark));
                &rest[mark.len_utf8()..]
            }
        }
        .trim_start();
    }
    Ok(tokens)
}

fn after<'a>(text: &'a str, end: &str) -> &'a str {
    text.split_once(end).map_or("", |(_, rest)| rest)
}

/// A text up to its closing quotes, and what follows it.
fn string(text: &str) -> Result<(String, &str), String> {
    let mut string = String::new();
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => {
                string.push(if character == 'n' { '\n' } else { character });
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Ok((string, &text[at + 1..])),
            other => string.push(other),
        }
    }
    Err("failed to parse policy: literal not terminated".to_owned())
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
}

impl Reader {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn text(&mut self) -> Result<String, String> {
        match self.next() {
            Some(Token::Text(text)) => Ok(text),
            other => Err(unexpected(other.as_ref())),
        }
    }

    fn mark(&mut self, mark: char) -> Result<(), String> {
        match self.next() {
            Some(Token::Mark(found)) if found == mark => Ok(()),
            other => Err(unexpected(other.as_ref())),
        }
    }

    /// `"PATH" { FIELD = [...] }`
    fn rule(&mut self) -> Result<(String, Capabilities), String> {
        let path = self.text()?.trim_start_matches('/').to_owned();
        if path.contains("+*") {
            return Err(format!(
                "failed to parse policy: path {path:?}: invalid use of wildcards ('+*' is forbidden)"
            ));
        }
        self.mark('{')?;
        let mut capabilities = Capabilities::default();
        loop {
            match self.next() {
                Some(Token::Mark('}')) => return Ok((path, capabilities)),
                Some(Token::Word(field)) if field == "capabilities" => {
                    self.mark('=')?;
                    capabilities = self.capabilities(&path)?;
                }
                other => return Err(unexpected(other.as_ref())),
            }
        }
    }

    fn capabilities(&mut self, path: &str) -> Result<Capabilities, String> {
        self.mark('[')?;
        let mut found: Vec<Capability> = Vec::new();
        loop {
            match self.next() {
                Some(Token::Mark(']')) => return Ok(found.into_iter().collect()),
                Some(Token::Mark(',')) => {}
                Some(Token::Text(name)) => found.push(Capability::named(&name).ok_or_else(|| {
                    format!("failed to parse policy: path {path:?}: invalid capability {name:?}")
                })?),
                other => return Err(unexpected(other.as_ref())),
            }
        }
    }
}

fn unexpected(token: Option<&Token>) -> String {
    match token {
        None => "failed to parse policy: it ends in the middle".to_owned(),
        Some(token) => format!("failed to parse policy: unexpected {token:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read() {
        let text = r#"
            # A comment, with "quotes".
            path "secret/data/*" { capabilities = ["create", "read"] } // another
            path "a\"b" {
              capabilities = ["deny", "list",]
            }"#;
        let rules = rules(text).map(|rules| {
            let named = |(path, set): &(String, Capabilities)| (path.clone(), set.names().join(","));
            rules.iter().map(named).collect::<Vec<_>>()
        });
        let expected = [("secret/data/*", "create,read"), ("a\"b", "deny")];
        let expected = expected.map(|(path, set)| (path.to_owned(), set.to_owned()));
        assert_eq!(rules, Ok(expected.to_vec()));
    }

    #[test]
    fn the_testbeds_policy_is_read() {
        let rules = rules(include_str!("../../../../../hack/testbed/vault-policy.hcl"));
        let rules = rules.unwrap_or_default();
        assert_eq!(rules.len(), 7);
        assert_eq!(rules[1].0, "secret/metadata/*");
        assert_eq!(rules[1].1.names().len(), 6);
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for text in [
            "path",
            "path \"x\" {",
            "path \"x\" { capabilities = [\"foo\"] }",
            "rule \"x\" {}",
            "path \"x",
        ] {
            assert!(rules(text).is_err(), "{text}");
        }
    }
}
