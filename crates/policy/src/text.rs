//! The small texts a policy is written in: patterns, globs, verbs, durations, field conditions.
//!
//! Each is checked while it is read, so that whatever reads the YAML can say at which line and column it is wrong.

use std::{borrow::Cow, fmt, time::Duration};

use regex::{Regex, RegexBuilder};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How large a compiled regular expression may be; it is the configuration's author who would be waiting.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

/// Verbs that a request can have: Kubernetes' request verbs, the lower-cased HTTP methods of other requests, and `*`.
const VERBS: [&str; 17] = [
    "*",
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "head",
    "post",
    "put",
    "options",
    "trace",
    "connect",
    "query",
    "propfind",
];

/// The name in `known` that `wanted` was probably meant to be.
pub fn closest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|name| (strsim::damerau_levenshtein(wanted, name), name));
    scored.min().filter(|(distance, name)| *distance <= (name.len() / 3).max(1)).map(|(_, name)| name)
}

/// Implements what every checked text has in common: it is a string in YAML and in the schema.
macro_rules! checked_text {
    ($name:ident, $title:literal, $description:literal) => {
        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.to_string()
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $title.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": $description })
            }
        }
    };
}

/// A regular expression (syntax of the `regex` crate: linear time, no look-around). Searched for anywhere in the text,
/// unless it is anchored with `^` and `$`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    ///
    /// What is wrong with it, on one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        RegexBuilder::new(text).size_limit(REGEX_SIZE_LIMIT).build().map(Self).map_err(|error| {
            let text = error.to_string();
            let last = text.lines().next_back().unwrap_or_default().trim().trim_start_matches("error: ");
            format!("not a regular expression: {last}")
        })
    }

    pub(crate) fn is_in(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{self}/")
    }
}

checked_text!(
    Pattern,
    "Pattern",
    "A regular expression; searched for anywhere unless anchored with ^ and $."
);

/// A name, in which each `*` stands for any run of characters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Glob(String);

impl Glob {
    /// Reads a glob. Every text is one.
    ///
    /// # Errors
    ///
    /// None today; the signature is that of its siblings.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }

    /// Whether it covers `name`.
    pub fn covers(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        true
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

checked_text!(Glob, "Glob", "A name; each * stands for any run of characters.");

/// A verb a request can have, or `*`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Verb(String);

impl Verb {
    /// Reads a verb.
    ///
    /// # Errors
    ///
    /// When no request can have it, with the closest one that a request can have.
    pub fn parse(text: &str) -> Result<Self, String> {
        if VERBS.contains(&text) {
            return Ok(Self(text.to_owned()));
        }
        let hint = match closest(&text.to_ascii_lowercase(), VERBS) {
            Some(verb) => format!("did you mean {verb:?}?"),
            None => format!("one of {}", VERBS.join(", ")),
        };
        Err(format!("no request has the verb {text:?}: {hint}"))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

checked_text!(Verb, "Verb", "A Kubernetes request verb, a lower-cased HTTP method, or *.");

/// A length of time, written `500ms`, `50s`, `15m`, `1h30m` or `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct DurationText(pub Duration);

/// The units a [`DurationText`] knows, in milliseconds, the largest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl DurationText {
    /// Reads a duration.
    ///
    /// # Errors
    ///
    /// When it is not a sequence of whole numbers with units.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("not a duration: {text:?}: write 500ms, 50s, 15m, 1h30m or 7d");
        let mut rest = text;
        let mut total: u64 = 0;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, after) = rest.split_at(digits);
            let letters = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
            let (unit, after) = after.split_at(letters);
            let number: u64 = number.parse().map_err(|_| wrong())?;
            let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
            total = number.checked_mul(*millis).and_then(|n| total.checked_add(n)).ok_or_else(wrong)?;
            rest = after;
        }
        Ok(Self(Duration::from_millis(total)))
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, millis) in UNITS {
            if rest >= millis {
                write!(f, "{}{unit}", rest / millis)?;
                rest %= millis;
            }
        }
        Ok(())
    }
}

checked_text!(DurationText, "Duration", "A length of time: 500ms, 50s, 15m, 1h30m, 7d.");

/// A condition on the fields of a request body, at whatever depth they stand: `hostPath` (it is there, and says something),
/// `hostNetwork=true` (it has this value), `serviceAccountName!=default` (it has another).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldCondition {
    pub(crate) name: String,
    test: FieldTest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum FieldTest {
    Present,
    Is(String),
    IsNot(String),
}

impl FieldCondition {
    /// Reads a condition.
    ///
    /// # Errors
    ///
    /// When there is no field name in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, test) = match (text.split_once("!="), text.split_once('=')) {
            (Some((name, value)), _) => (name, FieldTest::IsNot(value.to_owned())),
            (None, Some((name, value))) => (name, FieldTest::Is(value.to_owned())),
            (None, None) => (text, FieldTest::Present),
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(format!("not a field condition: {text:?}: write name, name=value or name!=value"));
        }
        Ok(Self { name: name.to_owned(), test })
    }

    /// Whether a field with this name and `value` meets it. What says nothing (`null`, `""`, `[]`) never does.
    pub(crate) fn is_met_by(&self, value: &Value) -> bool {
        let says_nothing = match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        let is = |wanted: &String| match value {
            Value::String(text) => text == wanted,
            other => {
                let text = other.to_string();
                &text == wanted
            }
        };
        !says_nothing
            && match &self.test {
                FieldTest::Present => true,
                FieldTest::Is(wanted) => is(wanted),
                FieldTest::IsNot(wanted) => !is(wanted),
            }
    }
}

impl fmt::Display for FieldCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.test {
            FieldTest::Present => f.write_str(&self.name),
            FieldTest::Is(value) => write!(f, "{}={value}", self.name),
            FieldTest::IsNot(value) => write!(f, "{}!={value}", self.name),
        }
    }
}

checked_text!(
    FieldCondition,
    "FieldCondition",
    "A field of the body, at any depth: name, name=value, name!=value."
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check_glob(glob: &str, name: &str, expected: bool) {
        assert_eq!(Glob::parse(glob).unwrap().covers(name), expected, "{glob} on {name}");
    }

    #[test]
    fn globs() {
        check_glob("prod", "prod", true);
        check_glob("prod", "prod-eu", false);
        check_glob("prod-*", "prod-eu", true);
        check_glob("*-eu", "prod-eu", true);
        check_glob("p*-*u", "prod-eu", true);
        check_glob("p*-*x", "prod-eu", false);
        check_glob("ab*ab", "ab", false);
        check_glob("*", "", true);
        check_glob("", "", true);
        check_glob("", "x", false);
    }

    fn check_duration(text: &str, expected: Option<u64>) {
        assert_eq!(
            DurationText::parse(text).ok().map(|d| d.0.as_millis()),
            expected.map(u128::from),
            "{text}"
        );
    }

    #[test]
    fn durations() {
        check_duration("50s", Some(50_000));
        check_duration("15m", Some(900_000));
        check_duration("1h30m", Some(5_400_000));
        check_duration("7d", Some(604_800_000));
        check_duration("250ms", Some(250));
        for wrong in ["", "5", "s", "5 s", "-5s", "1.5h", "5w", "99999999999999999999s", "9999999999999999d"]
        {
            check_duration(wrong, None);
        }
    }

    fn check_field(condition: &str, value: Value, expected: bool) {
        assert_eq!(
            FieldCondition::parse(condition).unwrap().is_met_by(&value),
            expected,
            "{condition} on {value}"
        );
    }

    #[test]
    fn field_conditions() {
        check_field("hostPath", json!({"path": "/"}), true);
        check_field("hostPath", json!({}), true);
        check_field("hostPath", Value::Null, false);
        check_field("ownerReferences", json!([]), false);
        check_field("privileged=true", json!(true), true);
        check_field("privileged=true", json!(false), false);
        check_field("serviceAccountName!=default", json!("admin"), true);
        check_field("serviceAccountName!=default", json!("default"), false);
        check_field("serviceAccountName!=default", json!(""), false);
        assert!(FieldCondition::parse("=x").is_err());
    }

    #[test]
    fn a_wrong_verb_is_answered_with_the_right_one() {
        assert!(Verb::parse("GET").unwrap_err().contains("did you mean \"get\"?"));
        assert!(Verb::parse("delet").unwrap_err().contains("did you mean \"delete\"?"));
        assert!(Verb::parse("frobnicate").unwrap_err().contains("one of"));
    }

    proptest! {
        #[test]
        fn durations_survive_being_written(millis in 0u64..10_000_000_000) {
            let duration = DurationText(Duration::from_millis(millis));
            prop_assert_eq!(DurationText::parse(&duration.to_string()), Ok(duration));
        }

        #[test]
        fn nothing_makes_a_parser_panic(text in ".{0,40}", name in ".{0,40}") {
            let _ = (DurationText::parse(&text), FieldCondition::parse(&text), Pattern::parse(&text), Verb::parse(&text));
            let _ = Glob::parse(&text).unwrap().covers(&name);
        }

        #[test]
        fn a_glob_covers_what_it_was_cut_from(a in "[a-z*]{0,6}", b in "[a-z]{0,6}", c in "[a-z]{0,6}") {
            let glob = Glob::parse(&format!("{b}*{c}")).unwrap();
            let name = format!("{b}{a}{c}");
            prop_assert!(glob.covers(&name));
        }
    }
}
