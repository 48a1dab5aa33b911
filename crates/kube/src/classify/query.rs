//! Queries, decoded as the API server (Go's `net/url`) decodes them.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use portcullis_core::Refusal;

/// Parameters that the API server takes one value of, and that decide what a request does. (`command` of an exec may well
/// be repeated, so it is not among them.)
const SINGLE: [&str; 14] = [
    "watch",
    "dryRun",
    "fieldSelector",
    "labelSelector",
    "limit",
    "timeoutSeconds",
    "container",
    "follow",
    "path",
    "stdin",
    "stdout",
    "stderr",
    "tty",
    "propagationPolicy",
];

/// A query's parameters, in order.
#[derive(Debug, Default)]
pub(crate) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Go drops pairs that it cannot decode, and pairs with a `;`; others do not. Such a query is refused, unless it is for
    /// a proxied service (`lenient`).
    pub(crate) fn parse(query: &'a str, lenient: bool) -> Result<Self, Refusal> {
        let mut pairs: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (pair.contains(';'), decode(key), decode(value)) {
                (false, Some(key), Some(value)) => pairs.push((key, value)),
                _ if lenient => {}
                _ => return Err(ambiguous("the query cannot be decoded").advice("percent-encode its values")),
            }
        }
        let query = Self(pairs);
        for key in SINGLE {
            let mut values = query.all(key);
            if let Some(first) = values.next()
                && values.any(|value| value != first)
                && !lenient
            {
                return Err(ambiguous(format!("the query gives {key} twice, with different values")));
            }
        }
        Ok(query)
    }

    /// Every value of a parameter.
    pub(crate) fn all<'q>(&'q self, key: &'q str) -> impl Iterator<Item = &'q str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_ref())
    }

    /// The first value of a parameter: the one that the API server takes.
    pub(crate) fn first<'q>(&'q self, key: &'q str) -> Option<&'q str> {
        self.all(key).next()
    }

    /// A boolean, as the API server reads one: anything but `false` and `0` is true, even nothing.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.first(key).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }
}

fn decode(text: &str) -> Option<Cow<'_, str>> {
    let bytes = text.as_bytes();
    let valid = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(|(at, _)| {
        bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if !valid {
        return None;
    }
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(|text| Cow::Owned(text.into_owned()))
}

fn ambiguous(message: impl Into<String>) -> Refusal {
    Refusal::bad_request("kube/ambiguous-query", message)
}
