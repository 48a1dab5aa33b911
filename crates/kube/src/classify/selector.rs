//! Field selectors, as far as the authorizer reads them: which value must a field have?

/// The value that `selector` requires `field` to have; `None` if it requires none, or cannot be parsed
/// (`k8s.io/apimachinery/pkg/fields`).
pub(super) fn required_value(selector: &str, field: &str) -> Option<String> {
    // The API server sorts the terms, and takes the first that fits.
    let mut terms = split_terms(selector);
    terms.sort_unstable();
    let mut required = None;
    for term in terms.into_iter().filter(|term| !term.is_empty()) {
        let (name, equal, value) = split_term(term)?;
        let value = unescape(value)?;
        if equal && name == field && required.is_none() {
            required = Some(value);
        }
    }
    required
}

/// Splits at commas that no backslash stands before.
fn split_terms(selector: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in selector.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&selector[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&selector[start..]);
    terms
}

/// `name=value`, `name==value` or `name!=value`: whichever operator comes first.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    term.char_indices().find_map(|(at, _)| {
        [("!=", false), ("==", true), ("=", true)].into_iter().find_map(|(operator, equal)| {
            term[at..].strip_prefix(operator).map(|value| (&term[..at], equal, value))
        })
    })
}

fn unescape(value: &str) -> Option<String> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next().filter(|c| "\\,=".contains(*c))?),
            ',' | '=' => return None,
            _ => plain.push(c),
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(selector: &str, expected: Option<&str>) {
        assert_eq!(required_value(selector, "metadata.name").as_deref(), expected, "{selector}");
    }

    #[test]
    fn the_name_is_found_where_the_api_server_finds_it() {
        check("metadata.name=web", Some("web"));
        check("metadata.name==web", Some("web"));
        check("metadata.name!=web", None);
        check("metadata.namespace=shop,metadata.name=web", Some("web"));
        check("metadata.name=b,metadata.name=a", Some("a"));
        check("metadata.name=web,", Some("web"));
        check(r"metadata.name=we\,b", Some("we,b"));
        check(r"metadata.name=we\xb", None);
        check(r"metadata.name=web\", None);
        check("metadata.name=a=b", None);
        check("metadata.name=web,foo", None);
        check("metadata.name=", Some(""));
        check(" metadata.name=web", None);
        check("", None);
    }

    proptest! {
        #[test]
        fn no_selector_makes_it_panic(selector in "[\\\\,=!a-c\u{e9}.]{0,20}") {
            required_value(&selector, "a");
        }
    }
}
