//! `labelSelector` and `fieldSelector`: which objects of a list or a watch are meant.

use serde_json::Value;

use super::{kinds::Kind, status::ApiError, target::Query};

/// Both selectors of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    labels: Vec<Requirement>,
    fields: Vec<Field>,
}

#[derive(Clone, Debug, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
    More(i64),
    Less(i64),
}

#[derive(Clone, Debug)]
struct Field {
    path: &'static [&'static str],
    value: String,
    equal: bool,
}

/// The fields one may select by, and on what. Others are refused: the API server does so too.
const FIELDS: &[(&str, &str, &[&str])] = &[
    ("*", "metadata.name", &["metadata", "name"]),
    ("*", "metadata.namespace", &["metadata", "namespace"]),
    ("pods", "spec.nodeName", &["spec", "nodeName"]),
    ("pods", "status.phase", &["status", "phase"]),
    ("pods", "status.podIP", &["status", "podIP"]),
    ("pods", "spec.restartPolicy", &["spec", "restartPolicy"]),
    ("pods", "spec.serviceAccountName", &["spec", "serviceAccountName"]),
    ("namespaces", "status.phase", &["status", "phase"]),
    ("secrets", "type", &["type"]),
    ("services", "spec.type", &["spec", "type"]),
    ("services", "spec.clusterIP", &["spec", "clusterIP"]),
    ("events", "involvedObject.kind", &["involvedObject", "kind"]),
    ("events", "involvedObject.name", &["involvedObject", "name"]),
    ("events", "involvedObject.namespace", &["involvedObject", "namespace"]),
    ("events", "involvedObject.uid", &["involvedObject", "uid"]),
    ("events", "involvedObject.apiVersion", &["involvedObject", "apiVersion"]),
    ("events", "involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
    ("events", "involvedObject.resourceVersion", &["involvedObject", "resourceVersion"]),
    ("events", "reason", &["reason"]),
    ("events", "type", &["type"]),
];

impl Selection {
    pub(crate) fn of(query: &Query, kind: &Kind) -> Result<Self, ApiError> {
        Ok(Self {
            labels: labels(query.get("labelSelector").unwrap_or_default())?,
            fields: fields(query.get("fieldSelector").unwrap_or_default(), kind)?,
        })
    }

    /// Whether the object is meant.
    pub(crate) fn admits(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|requirement| requirement.holds(labels[&requirement.key].as_str()))
            && self.fields.iter().all(|field| {
                let value = field.path.iter().fold(object, |value, key| &value[*key]);
                (value.as_str().unwrap_or_default() == field.value) == field.equal
            })
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.iter().any(|item| item == value)),
            Test::NotIn(values) => !value.is_some_and(|value| values.iter().any(|item| item == value)),
            Test::Exists => value.is_some(),
            Test::Missing => value.is_none(),
            Test::More(bound) => number().is_some_and(|number| number > *bound),
            Test::Less(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

/// `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
fn labels(selector: &str) -> Result<Vec<Requirement>, ApiError> {
    let bad = |why: &str| ApiError::bad_request(format!("unable to parse requirement: {why}: {selector:?}"));
    let mut requirements = Vec::new();
    let mut rest = selector.trim();
    while !rest.is_empty() {
        let (term, after) = split_term(rest);
        rest = after.trim_start();
        let term = term.trim();
        if term.is_empty() {
            return Err(bad("found an empty term"));
        }
        requirements.push(requirement(term).ok_or_else(|| bad("found something that is no requirement"))?);
    }
    Ok(requirements)
}

/// The first term of a list, whose commas within parentheses do not separate.
fn split_term(list: &str) -> (&str, &str) {
    let mut depth = 0;
    for (at, c) in list.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => return (&list[..at], &list[at + 1..]),
            _ => {}
        }
    }
    (list, "")
}

fn requirement(term: &str) -> Option<Requirement> {
    let made =
        |key: &str, test| is_label_key(key.trim()).then(|| Requirement { key: key.trim().to_owned(), test });
    if let Some(key) = term.strip_prefix('!') {
        return made(key, Test::Missing);
    }
    if let Some(list) = term.strip_suffix(')') {
        let (head, list) = list.split_once('(')?;
        let values = list.split(',').map(|value| value.trim().to_owned()).collect();
        let (key, operator) = head.trim_end().rsplit_once(char::is_whitespace)?;
        return match operator {
            "in" => made(key, Test::In(values)),
            "notin" => made(key, Test::NotIn(values)),
            _ => None,
        };
    }
    if let Some((key, value)) = term.split_once("!=") {
        return made(key, Test::NotIn(vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return made(key, Test::In(vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = term.split_once('>') {
        return made(key, Test::More(value.trim().parse().ok()?));
    }
    if let Some((key, value)) = term.split_once('<') {
        return made(key, Test::Less(value.trim().parse().ok()?));
    }
    made(term, Test::Exists)
}

fn is_label_key(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
}

fn fields(selector: &str, kind: &Kind) -> Result<Vec<Field>, ApiError> {
    let terms = selector.split(',').filter(|term| !term.is_empty());
    terms
        .map(|term| {
            let (name, value, equal) = if let Some((name, value)) = term.split_once("!=") {
                (name, value, false)
            } else if let Some((name, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
                (name, value, true)
            } else {
                return Err(ApiError::bad_request(format!("invalid field selector: {term:?}")));
            };
            let known =
                FIELDS.iter().find(|(of, field, _)| *field == name && (*of == "*" || *of == kind.plural));
            let Some((_, _, path)) = known else {
                return Err(ApiError::bad_request(format!("field label not supported: {name}")));
            };
            Ok(Field { path, value: value.to_owned(), equal })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(selector: &str, expected: bool) {
        let labels_of = json!({"app": "web", "tier": "front", "weight": "5"});
        let holds = labels(selector).unwrap().iter().all(|one| one.holds(labels_of[&one.key].as_str()));
        assert_eq!(holds, expected, "{selector}");
    }

    #[test]
    fn label_selectors() {
        check("", true);
        check("app=web,tier==front", true);
        check("app!=web", false);
        check("missing!=x", true);
        check("app in (api, web),tier notin (back)", true);
        check("app notin (web)", false);
        check("app,!missing", true);
        check("!app", false);
        check("weight>4,weight<6", true);
        assert!(labels("app in web").is_err() && labels("=x").is_err() && labels("a,,b").is_err());
    }

    #[test]
    fn only_known_fields_select() {
        let pods = super::super::kinds::find("", "pods").unwrap();
        assert!(fields("metadata.name=web,status.phase!=Running", pods).is_ok());
        assert!(fields("spec.containers=x", pods).is_err());
    }

    proptest! {
        #[test]
        fn no_selector_panics(selector in "[a-z=!,()<> in]{0,24}") {
            let _ = labels(&selector);
        }
    }
}
