//! What is written is read back by two readers: one of YAML 1.1's family (libyaml), one of YAML 1.2.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn write(json: &str) -> Result<String, Unwritable> {
    yaml_from_json(json.as_bytes(), 1 << 20)
}

fn check(json: &str, expected: &str) {
    assert_eq!(write(json).as_deref(), Ok(expected), "{json}");
    let value: Value = serde_json::from_str(json).unwrap();
    assert_eq!(serde_yaml::from_str::<Value>(expected).unwrap(), value, "{expected}");
    assert_eq!(serde_saphyr::from_str::<Value>(expected).unwrap(), value, "{expected}");
}

#[test]
fn documents_keep_their_order_and_look_like_kubernetes() {
    check(
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web","labels":{},"f:x":{".":{}}},
            "items":[{"b":1,"a":[]},[1,[2,{"x":[3]}]],"text",null,true],"last":-0.5}"#,
        "kind: Pod\napiVersion: v1\nmetadata:\n  name: web\n  labels: {}\n  f:x:\n    \".\": {}\nitems:\n- b: 1\n  a: []\n\
         - - 1\n  - - 2\n    - x:\n      - 3\n- text\n- null\n- true\nlast: -0.5\n",
    );
    check("[]", "[]\n");
    check(" {} ", "{}\n");
    check("[[],{}]", "- []\n- {}\n");
    check("\"text\"", "text\n");
    check("12", "12\n");
}

#[test]
fn lines_are_shown_as_lines() {
    check(r#"{"a":"x\n  y\n"}"#, "a: |\n  x\n    y\n");
    check(r#"{"a":{"b":"x\n\n\ty"}}"#, "a:\n  b: |-\n    x\n\n    \ty\n");
    check(r#"[["x\n\n",1]]"#, "- - |+\n    x\n\n  - 1\n");
    check(r#"{"a":["x\n"]}"#, "a:\n- |\n  x\n");
    // Where that would lose something, they are not.
    for text in [" x\ny", "\nx", "x \ny", "x\ny ", "x\r\ny", "x\u{85}\ny", "x\u{2028}\n", "\n", "x\n \ny"] {
        let json = json!({ "a": text }).to_string();
        assert!(write(&json).unwrap().starts_with("a: \""), "{text:?}");
        check(&json, &write(&json).unwrap());
    }
    check(r#""x\ny""#, "\"x\\ny\"\n");
}

#[test]
fn strings_stay_strings_for_readers_of_yaml_1_1() {
    for text in [
        "yes",
        "Yes",
        "YES",
        "y",
        "Y",
        "no",
        "n",
        "N",
        "on",
        "On",
        "off",
        "OFF",
        "true",
        "True",
        "false",
        "null",
        "Null",
        "NULL",
        "~",
        "",
        " ",
        " x",
        "x ",
        "0x1f",
        "0o17",
        "017",
        "0b1",
        "1e3",
        "1E3",
        "1.5",
        ".5",
        "5.",
        "1_000",
        "-1",
        "+1",
        "12:30:00",
        "190:20:30",
        "2026-11-28",
        "2026-11-28T08:31:07Z",
        ".inf",
        "-.inf",
        ".nan",
        ".NaN",
        "=",
        "<<",
        "-",
        "- x",
        "? x",
        ": x",
        "x: y",
        "x:",
        "x #y",
        "#x",
        "&x",
        "*x",
        "!x",
        "|",
        ">",
        "%x",
        "@x",
        "`x",
        "'x'",
        "\"x\"",
        "{x}",
        "[x]",
        ",x",
        "---",
        "...",
        "--- x",
        "a\tb",
        "\u{0}",
        "\u{7f}",
        "\u{80}",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "\u{fffe}",
        "1",
        "0",
    ] {
        let json = json!([text, { text: text }]).to_string();
        let yaml = write(&json).unwrap();
        assert!(yaml.starts_with("- \""), "{text:?}: {yaml}");
        check(&json, &yaml);
    }
    for text in [
        "web", "shop.svc", "/run/x", "a b", "f:data", "no-cache", "truely", "v1", "Opaque", "pkg.Type",
        "x=y", "ünï",
    ] {
        let json = json!([text]).to_string();
        assert_eq!(write(&json).unwrap().contains('"'), !text.is_ascii(), "{text}");
        check(&json, &write(&json).unwrap());
    }
    check(r#"["\ud83d\ude00 ü"]"#, "- \"\u{1f600} ü\"\n");
}

#[test]
fn numbers_keep_their_digits() {
    for (json, yaml) in [
        ("0", "0"),
        ("-0", "-0"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("0.10000000000000000555", "0.10000000000000000555"),
        ("1e3", "1.0e+3"),
        ("-1.5E-7", "-1.5e-7"),
        ("1.50E+400", "1.50e+400"),
    ] {
        assert_eq!(write(json).as_deref(), Ok(format!("{yaml}\n").as_str()));
    }
}

#[test]
fn long_keys_are_marked() {
    let key = "k".repeat(5000);
    for value in [json!("x"), json!({"a": 1}), json!([1]), json!("x\ny")] {
        let json = json!([{ key.clone(): value }, 2]).to_string();
        let yaml = write(&json).unwrap();
        assert!(yaml.starts_with("- ? kkk"));
        check(&json, &yaml);
    }
}

#[test]
fn what_is_no_document_is_not_written() {
    for json in [
        "",
        "{",
        "[1",
        "[1,]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "01",
        "1.",
        "-",
        "+1",
        "tru",
        "nul",
        "\"x",
        "\"\\x\"",
        "\"\\ud800\"",
        "\"\n\"",
        "1 2",
        "{} {}",
        "]",
        ",",
        "[1 2]",
        "{\"a\" 1}",
        "[}",
        "{]",
        "{\"a\":1,\"a\":2}",
        "\u{feff}1",
        "NaN",
    ] {
        assert_eq!(write(json), Err(Unwritable::Malformed), "{json:?}");
    }
    assert_eq!(yaml_from_json(b"\"\xff\"", 100), Err(Unwritable::Malformed));
}

#[test]
fn what_is_too_long_is_not_written() {
    assert_eq!(yaml_from_json(b"[1,2]", 8).as_deref(), Ok("- 1\n- 2\n"));
    assert_eq!(yaml_from_json(b"[1,2]", 7), Err(Unwritable::TooLong));
    // Indentation makes much of little, and nesting takes none of the stack.
    let deep = format!("{}{}{}", "[".repeat(100_000), "1,".repeat(100_000), "1");
    assert_eq!(yaml_from_json(deep.as_bytes(), 1 << 20), Err(Unwritable::TooLong));
}

fn documents() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        any::<String>(),
        "[a-z]{1,8}",
        "[ -~\n\t]{0,20}",
        "(yes|no|~|null|0x[0-9a-f]|[0-9]{1,2}:[0-9]{2}|[-+]?[0-9.]{1,4}e?[0-9]?|[a-c: #,\n-]{1,6})",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e12_f64..1e12).prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(text.clone(), inner, 0..6)
                .prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    /// Whatever a document holds, both readers read what was written.
    #[test]
    fn it_reads_as_what_it_was(document in documents()) {
        let yaml = write(&document.to_string()).unwrap();
        prop_assert_eq!(&serde_yaml::from_str::<Value>(&yaml).unwrap(), &document, "{}", yaml);
        prop_assert_eq!(&serde_saphyr::from_str::<Value>(&yaml).unwrap(), &document, "{}", yaml);
    }

    /// Whatever is not JSON is not written, and nothing panics.
    #[test]
    fn only_json_is_written(text in r#"[\[\]{},:"\\a1 .e-]{0,16}"#) {
        let is_json = serde_json::from_str::<Value>(&text).is_ok();
        let written = write(&text);
        prop_assert!(is_json || written.is_err(), "{}", written.unwrap());
    }
}
