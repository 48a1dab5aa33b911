//! What is wrong with a policy, and where.

use std::fmt;

use crate::text::closest;

/// A policy that cannot be used: what is wrong, and where, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    message: String,
    rule: Option<String>,
    field: Option<String>,
    location: Option<(usize, usize)>,
}

impl PolicyError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), rule: None, field: None, location: None }
    }

    pub(crate) fn in_rule(rule: &str, message: impl Into<String>) -> Self {
        Self { message: message.into(), rule: Some(rule.to_owned()), field: None, location: None }
    }

    /// In which field: a dotted path from the rule, or from the policy if it is about none.
    #[must_use]
    pub(crate) fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    pub(crate) fn from_yaml(error: &serde_yaml::Error) -> Self {
        let location = error.location().map(|at| (at.line(), at.column()));
        let mut message = error.to_string();
        if let Some((line, column)) = location {
            message = message.replace(&format!(" at line {line} column {column}"), "");
        }
        if let Some(name) = did_you_mean(&message) {
            message = format!("{message}; did you mean `{name}`?");
        }
        Self { message, rule: None, field: None, location }
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The rule it is about, if it is about one.
    pub fn rule(&self) -> Option<&str> {
        self.rule.as_deref()
    }

    /// The field it is about: a dotted path from the rule, or from the policy if it is about no rule.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// Line and column, both from 1.
    pub fn location(&self) -> Option<(usize, usize)> {
        self.location
    }

    /// Finds the rule it is about in the YAML the policy came from, for errors that appear only once all of it is read.
    #[must_use]
    pub fn locate_in(mut self, yaml: &str) -> Self {
        if let (None, Some(rule)) = (self.location, &self.rule) {
            let named = |line: &str| {
                let line = line.trim_start().trim_start_matches("- ").trim_start();
                let value = line.strip_prefix("name:").map(|rest| rest.trim().trim_matches(['"', '\'']));
                value == Some(rule.as_str())
            };
            self.location = yaml
                .lines()
                .enumerate()
                .filter(|(_, line)| named(line))
                .map(|(index, line)| (index + 1, line.find("name:").unwrap_or_default() + 1))
                .last();
        }
        self
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.location {
            write!(f, "{line}:{column}: ")?;
        }
        if let Some(rule) = &self.rule {
            write!(f, "rule {rule:?}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for PolicyError {}

/// The valid name closest to the unknown one that a serde error complains of, if one is close:
/// ``unknown field `verb`, expected one of `verbs`, `names` `` → `verbs`.
pub fn did_you_mean(serde_message: &str) -> Option<&str> {
    if !serde_message.contains("unknown field") && !serde_message.contains("unknown variant") {
        return None;
    }
    let mut names = serde_message.split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    closest(unknown, names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_name_is_offered_if_one_is_close() {
        assert_eq!(did_you_mean("unknown field `verb`, expected one of `verbs`, `names`"), Some("verbs"));
        assert_eq!(did_you_mean("unknown field `colour`, expected `verbs`"), None);
        assert_eq!(did_you_mean("invalid type: `verb`"), None);
    }

    #[test]
    fn a_rule_is_found_by_its_name() {
        let yaml = "rules:\n  - name: one\n  - match: {}\n    name: \"two\"\n";
        let at = |rule| PolicyError::in_rule(rule, "no").locate_in(yaml).location();
        assert_eq!(at("one"), Some((2, 5)));
        assert_eq!(at("two"), Some((4, 5)));
        assert_eq!(at("three"), None);
    }
}
