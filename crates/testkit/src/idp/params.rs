//! Parameters of OAuth requests: each at most once (RFC 6749 §3.1), empty ones as if they were not there.

use std::collections::BTreeMap;

/// What a request said.
#[derive(Clone, Debug, Default)]
pub(super) struct Params(BTreeMap<String, String>);

impl Params {
    /// Reads a query or a form; `Err` names a parameter that was given twice.
    pub(super) fn parse(encoded: &[u8]) -> Result<Self, String> {
        let mut params = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(encoded).into_owned() {
            if value.is_empty() {
                continue;
            }
            if params.contains_key(&name) {
                return Err(name);
            }
            params.insert(name, value);
        }
        Ok(Self(params))
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).unwrap_or_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}
