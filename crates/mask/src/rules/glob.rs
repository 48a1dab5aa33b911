//! Names with `*` in them, many at once.

use regex::bytes::{RegexSet, RegexSetBuilder};

use crate::ConfigError;

/// Patterns in which `*` matches any part; letter case does not matter.
#[derive(Clone, Debug)]
pub(crate) struct Globs(RegexSet);

impl Globs {
    pub(crate) fn new<'a>(
        place: &str,
        patterns: impl IntoIterator<Item = &'a String>,
    ) -> Result<Self, ConfigError> {
        Self::compile(place, patterns, true)
    }

    /// The same, but letter case matters: for what exempts.
    pub(crate) fn exact<'a>(
        place: &str,
        patterns: impl IntoIterator<Item = &'a String>,
    ) -> Result<Self, ConfigError> {
        Self::compile(place, patterns, false)
    }

    fn compile<'a>(
        place: &str,
        patterns: impl IntoIterator<Item = &'a String>,
        any_case: bool,
    ) -> Result<Self, ConfigError> {
        let expressions = patterns.into_iter().map(|pattern| {
            let parts: Vec<_> = pattern.split('*').map(regex::escape).collect();
            format!("^(?:{})$", parts.join(".*"))
        });
        RegexSetBuilder::new(expressions)
            .case_insensitive(any_case)
            .dot_matches_new_line(true)
            .build()
            .map(Self)
            .map_err(|error| ConfigError::new(place, format!("cannot be used: {error}")))
    }

    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        self.0.is_match(name)
    }

    /// The numbers of the patterns that match.
    pub(crate) fn which(&self, name: &[u8]) -> impl Iterator<Item = usize> {
        self.0.matches(name).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_any_part_and_case_does_not_matter() {
        let globs =
            Globs::new("test", &["*_KEY".to_owned(), "pass*word".to_owned(), "a.b".to_owned()]).unwrap();
        for (name, expected) in [
            ("API_key", true),
            ("_KEY", true),
            ("KEYS", false),
            ("Pass-the-word", true),
            ("axb", false),
            ("a.b", true),
        ] {
            assert_eq!(globs.matches(name.as_bytes()), expected, "{name}");
        }
        assert_eq!(globs.which(b"password").collect::<Vec<_>>(), [1]);
        let exact = Globs::exact("test", &["helm.sh/*".to_owned()]).unwrap();
        assert!(exact.matches(b"helm.sh/release.v1") && !exact.matches(b"Helm.sh/release.v1"));
    }
}
