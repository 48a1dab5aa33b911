//! What the tests of rules say, and that they fail for the right reason.

use std::panic::catch_unwind;

use super::*;
use crate::{Detector, Rule};

const RULES: &str = "
rules:
  - { name: widget-passwords, resources: [widgets.example.com], paths: ['spec.**.password'], except: { groups: [security] } }
  - { name: pins, resources: [widgets.example.com], paths: [spec.pin, spec.locked] }
  - { name: notes, resources: [widgets.example.com], paths: [spec.note], detectors: [github] }
  - { name: prod, resources: [widgets.example.com], paths: [spec.site], for: { grants: [deploy] } }
  - { name: users, urls: ['/users*'], keys: ['*password*'], action: drop }
  - { name: strict, set: strict, keys: ['*'] }
  - { name: tickets, urls: ['/log'], patterns: ['TICKET-[0-9]+'], action: partial }
";

const GITHUB: &str = "ghp_0123456789abcdefghijklmnopqrstuvwxyz";
const GET: &str = "get widgets.example.com shop/door";

/// The message that it fails with.
fn failure(test: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let panicked = catch_unwind(test).expect_err("it does not fail");
    panicked.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn values_are_named_with_the_rule_that_masks_them() {
    let rules = RuleTest::yaml(RULES);
    let widget = format!(
        r#"{{"metadata":{{"annotations":{{"kubectl.kubernetes.io/last-applied-configuration":"{{\"spec\":{{\"pin\":1}}}}"}}}},"spec":{{"a b":[{{"password":"x"}},{{"password":"y"}}],"pin":0,"locked":true,"note":"use {GITHUB}","x":1}}}}"#
    );
    let masked = rules.json(GET, &widget);
    masked.assert_masked(&[
        r#"metadata.annotations["kubectl.kubernetes.io/last-applied-configuration"] | spec.pin -> pins"#,
        r#"spec["a b"][0].password -> widget-passwords"#,
        r#"spec["a b"][1].password"#,
        // A zero that is masked looks like one that is not.
        "spec.pin -> pins",
        "spec.locked",
        "spec.note -> notes",
    ]);
    assert_eq!(masked.places().count(), 6);
    assert!(masked.output().contains("use masked:notes:"), "{}", masked.output());
    assert_eq!(masked.output(), rules.json(GET, &widget).output(), "tokens are the same every time");
}

#[test]
fn who_asks_and_what_policy_says_counts() {
    let rules = RuleTest::yaml(RULES);
    let widget = r#"{"spec":{"password":"x","site":"y","data":{"p":"YQ=="}}}"#;
    rules.json(GET, widget).assert_masked(&["spec.password", "spec.site"]);
    let known = rules.clone().caller("ada", &["security"]);
    known.json(GET, widget).assert_nothing_masked();
    known.grant("deploy").json(GET, widget).assert_masked(&["spec.site"]);
    let strict = rules.sets(&["strict"]).json(GET, widget);
    strict.assert_masked(&["spec.password -> strict", "spec.site -> strict", "spec.data.p -> strict"]);
}

#[test]
fn outside_kubernetes_and_in_text() {
    let rules = RuleTest::yaml(RULES);
    rules
        .json("GET /users/1", r#"[{"password":"x"},{"Old_Password":null}]"#)
        .assert_masked(&["[0].password"]);
    rules.json("GET /widgets", r#"[{"password":"x"}]"#).assert_nothing_masked();
    let log = format!("TICKET-12345678: {GITHUB} and {GITHUB}, masked:x:redacted\n");
    rules.text("GET /log", &log).assert_masked(&["TICKET-12345678 -> tickets"]);
    let in_pod = [&*format!("{GITHUB} -> known-formats")];
    rules.text("get pods/log shop/web", &log).assert_masked(&in_pod);
    let code = RuleTest::new(&MaskConfig {
        packs: Vec::new(),
        rules: vec![Rule::new("codes").detector(Detector::Github).action(Action::Drop)],
        ..MaskConfig::default()
    });
    let masked = code.text("GET /", &log);
    masked.assert_masked(&in_pod.map(|_| GITHUB));
    assert!(!masked.output().contains("ghp"));
}

#[test]
fn a_failure_says_what_is_wrong_and_why() {
    let check = |request: &'static str, document: &'static str, expected: &'static [&str], said: &str| {
        let failed = failure(|| RuleTest::yaml(RULES).json(request, document).assert_masked(expected));
        assert_eq!(failed, format!("in the answer to `{request}`:{said}"));
    };
    check(
        "get configmaps shop/c",
        r#"{"kind":"ConfigMap","data":{"p":"x"}}"#,
        &["data.p -> secrets"],
        "\n  not masked: data.p -> secrets (`secrets` would, if it is a Secret)",
    );
    check(
        "get secrets shop/db",
        r#"{"data":{"p":"eA==","q":"eA=="}}"#,
        &["data.p -> pins"],
        "\n  not masked: data.p -> pins (`secrets` masks it)\n  masked, too: data.p -> secrets\n  masked, too: data.q -> secrets",
    );
    check("GET /", "{}", &["a"], "\n  not masked: a (no rule is for this request)");
    check(
        "GET /log",
        "{}",
        &["a"],
        "\n  not masked: a (no rule selects it; for this request there are tickets)",
    );
}

#[test]
fn what_cannot_be_tested_is_said() {
    let failed = failure(|| drop(RuleTest::yaml("rules: [{name: x, pahts: [a]}]")));
    assert!(failed.contains("these are no rules") && failed.contains("pahts"), "{failed}");
    let failed = failure(|| drop(RuleTest::yaml("rules: [{name: x, paths: [a..b]}]")));
    assert!(failed.contains("rules[0].paths[0]"), "{failed}");
    let failed = failure(|| drop(RuleTest::yaml("{}").json("secrets", "{}")));
    assert!(failed.contains("`secrets` is no request"), "{failed}");
    let failed = failure(|| drop(RuleTest::yaml("{}").json("get secrets", "{")));
    assert!(failed.contains("the answer to `get secrets` cannot be masked"), "{failed}");
}

#[test]
fn a_change_that_no_rule_answers_for_is_found() {
    let masked = |output: &str| Masked {
        places: vec![("a.b".into(), "r".into())],
        output: output.into(),
        is_text: false,
        request: "GET /".into(),
        test: RuleTest::yaml("{}"),
    };
    let before = r#"{"a":{"b":1},"c":[2]}"#;
    masked(r#"{"a":{"b":0},"c":[2]}"#).assert_nothing_else_changed(before);
    for (output, place) in
        [(r#"{"a":{"b":0},"c":[3]}"#, "c[0]"), (r#"{"a":{"b":0},"c":[]}"#, "c"), (r#"{"a":{},"c":[2]}"#, "a")]
    {
        let failed = failure(|| masked(output).assert_nothing_else_changed(before));
        assert_eq!(failed, format!("changed, though no rule answers for it: {place}"));
    }
    let failed = failure(|| drop(replaced("a b", "a masked:r:redacted c")));
    assert!(failed.starts_with("changed, though"), "{failed}");
}
