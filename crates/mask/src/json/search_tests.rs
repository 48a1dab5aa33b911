//! What detectors find in strings of documents, against a model that sees the whole document at once.

use std::sync::LazyLock;

use portcullis_core::RequestInfo;
use proptest::prelude::*;
use serde_json::Value;

use super::tests::{chunks, mask, scope, without_digits};
use crate::Scope;

const GITHUB: &str = "ghp_0123456789abcdefghijklmnopqrstuvwxyz";
const ADDRESS: &str = "ada@example.com";

#[test]
fn what_is_searched_may_hold_what_is_masked() {
    let scope = scope(
        "{packs: [], rules: [
            {name: wide, paths: ['**.*'], detectors: [github]},
            {name: mail, paths: [spec.people], detectors: [email]},
            {name: deep, paths: [spec.secret]}]}",
        &RequestInfo::default(),
    );
    let json = format!(
        r#"{{"spec":{{"secret":{{"a":["b"]}},"people":[{{"x":"{ADDRESS} {GITHUB}"}}],"x":"{ADDRESS}"}}}}"#
    );
    let (masked, _) = mask(&scope, &[json.as_bytes()]).unwrap();
    let names = regex::Regex::new("masked:([a-z]+):[0-9a-f]{16}").unwrap();
    assert_eq!(
        names.replace_all(&masked, "$1"),
        r#"{"spec":{"secret":{"a":["deep"]},"people":[{"x":"mail wide"}],"x":"ada@example.com"}}"#
    );
}

static SPEC: LazyLock<Scope> = LazyLock::new(|| {
    let rule = "{name: found, paths: [spec, '*[*].spec'], detectors: [github, email, card, high-entropy]}";
    scope(&format!("{{packs: [], rules: [{rule}]}}"), &RequestInfo::default())
});

/// Texts in which what is looked for stands by itself, between what begins like it.
fn texts() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        GITHUB,
        ADDRESS,
        "ghp_",
        "token",
        "@",
        "4111",
        "\"",
        "\\",
        "\n",
        "é",
        "\u{1f600}",
        "",
        "x",
    ]);
    prop::collection::vec(words, 0..5).prop_map(|words| words.join(" "))
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => texts().prop_map(Value::from),
        1 => any::<i32>().prop_map(Value::from),
        1 => prop::sample::select(vec![Value::Null, Value::Bool(true)]),
    ];
    let key = || prop::sample::select(vec!["spec", "a", "data", "ghp_"]);
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..4).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// One of them, or the same few again and again.
fn lists() -> impl Strategy<Value = Value> {
    let some = prop::collection::vec(values(), 1..3);
    let order = prop::collection::vec(any::<prop::sample::Index>(), 1..8);
    prop_oneof![
        2 => values(),
        1 => (some, order).prop_map(|(some, order)| order.iter().map(|at| at.get(&some).clone()).collect()),
        1 => (values(), 1..6_usize).prop_map(|(value, times)| serde_json::json!({"spec": vec![value; times]})),
    ]
}

/// The model: a value, what it is by way of `spec`, and where it stands.
fn searched(value: &Value, inside: bool, place: Place) -> Value {
    match value {
        Value::String(text) if inside => {
            text.replace(GITHUB, "masked:found:#").replace(ADDRESS, "masked:found:#").into()
        }
        Value::Array(elements) => {
            let place = if place == Place::Member { Place::Element } else { Place::Elsewhere };
            elements.iter().map(|element| searched(element, inside, place)).collect()
        }
        Value::Object(members) => members
            .iter()
            .map(|(key, member)| {
                let selected = key == "spec" && matches!(place, Place::Root | Place::Element);
                let below = if place == Place::Root { Place::Member } else { Place::Elsewhere };
                (key.clone(), searched(member, inside || selected, below))
            })
            .collect(),
        other => other.clone(),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Root,
    /// A member of the root.
    Member,
    /// An element of one.
    Element,
    Elsewhere,
}

proptest! {
    #[test]
    fn agrees_with_a_model(document in lists(), pretty: bool, cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let json = if pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) }.unwrap();
        let (whole, _) = mask(&SPEC, &[json.as_bytes()]).unwrap();
        let (cut, _) = mask(&SPEC, &chunks(json.as_bytes(), &cuts)).unwrap();
        let (slowly, _) = mask(&SPEC, &json.as_bytes().chunks(1).collect::<Vec<_>>()).unwrap();
        prop_assert_eq!(&whole, &cut, "{}", json);
        prop_assert_eq!(&whole, &slowly, "{}", json);
        let expected = searched(&document, false, Place::Root);
        let masked: Value = serde_json::from_str(&without_digits(&whole)).unwrap();
        prop_assert_eq!(masked, expected.clone(), "{}", json);
        if expected == document {
            prop_assert_eq!(whole, json);
        }
    }
}
