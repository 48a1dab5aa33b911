//! The masker against what should come out: case by case, and against a model that sees the whole document at once.

use std::sync::LazyLock;

use bytes::Bytes;
use portcullis_core::RequestInfo;
use proptest::prelude::*;
use serde_json::Value;

use crate::{Caller, MaskConfig, MaskErrorKind, MaskKey, Masker, Piece, Rules, Scope};

fn rules(yaml: &str) -> Rules {
    let config: MaskConfig = serde_yaml::from_str(yaml).unwrap();
    Rules::new(&config, MaskKey::from_bytes(&[7; 32]).unwrap()).unwrap()
}

pub(super) fn resource(group: &str, resource: &str) -> RequestInfo {
    RequestInfo {
        is_resource_request: true,
        verb: "get".into(),
        api_group: group.into(),
        resource: resource.into(),
        namespace: "shop".into(),
        ..RequestInfo::default()
    }
}

pub(super) fn scope(yaml: &str, info: &RequestInfo) -> Scope {
    rules(yaml).scope(info, Caller::default())
}

/// Masks the chunks of a sequence of documents.
pub(super) fn mask(scope: &Scope, chunks: &[&[u8]]) -> Result<(String, Vec<(String, u64)>), MaskErrorKind> {
    let mut masker = Masker::sequence(scope.clone());
    let mut pieces = Vec::new();
    for chunk in chunks {
        masker.push(Bytes::copy_from_slice(chunk), &mut pieces).map_err(|error| error.kind())?;
    }
    masker.finish(&mut pieces).map_err(|error| error.kind())?;
    let masked = String::from_utf8(crate::piece::join(&pieces)).unwrap();
    Ok((masked, masker.take_counts()))
}

/// Tokens differ by key, binding and path; here only the rule matters.
pub(super) fn without_digits(masked: &str) -> String {
    let digits = regex::Regex::new("(masked:[a-z-]+:)[0-9a-f]{16}").unwrap();
    let masked = digits.replace_all(masked, "${1}#").into_owned();
    let base64 = regex::Regex::new("bWFza2Vk[A-Za-z0-9+/=]+").unwrap();
    base64.replace_all(&masked, "base64#").into_owned()
}

/// However it is cut, the same comes out.
pub(super) fn check(scope: &Scope, json: &str, expected: &str) {
    let (whole, counts) = mask(scope, &[json.as_bytes()]).unwrap();
    assert_eq!(without_digits(&whole), expected, "{json}");
    let bytes: Vec<&[u8]> = json.as_bytes().chunks(1).collect();
    assert_eq!(mask(scope, &bytes).unwrap(), (whole.clone(), counts.clone()), "{json} by the byte");
    for cut in 0..json.len() {
        let (left, right) = json.as_bytes().split_at(cut);
        assert_eq!(
            mask(scope, &[left, right]).unwrap(),
            (whole.clone(), counts.clone()),
            "{json} cut at {cut}"
        );
    }
}

#[test]
fn what_was_passed_over_counts_in_the_path() {
    let pods = scope("{}", &resource("", "pods"));
    let container = |name: &str, value: &str| {
        format!(
            r#"{{"a":[1,[2,{{}}]],"env":[{{"name":"X","value":"1"}},{{"name":"{name}","value":"{value}"}}]}}"#
        )
    };
    let pod = |first: String, second: String| {
        format!(r#"{{"metadata":{{"uid":"1"}},"spec":{{"containers":[{first},{second}]}}}}"#)
    };
    let given = pod(container("PASSWORD", "x"), container("TOKEN", "x"));
    let expected = pod(container("PASSWORD", "masked:env:#"), container("TOKEN", "masked:env:#"));
    check(&pods, &given, &expected);
    // A token is of its place: the same value in two containers has two.
    let (text, _) = mask(&pods, &[given.as_bytes()]).unwrap();
    let tokens: Vec<&str> = text.match_indices("masked:env:").map(|(at, _)| &text[at..at + 27]).collect();
    assert!(tokens.len() == 2 && tokens[0] != tokens[1], "{text}");
}

#[test]
fn what_comes_again_is_compared_in_each_chunk() {
    let scope = scope("{packs: [], rules: [{name: r, paths: ['*.spec.pw']}]}", &RequestInfo::default());
    let object = |key: &str| format!(r#"{{"spec":{{"{key}":"{}"}},"n":[1]}}"#, "x".repeat(60));
    let (known, masked) = (object("ok"), r#"{"spec":{"pw":"masked:r:#"},"n":[1]}"#);
    // All of one length, so that each chunk has the same places.
    let chunks = [r#"{"a":"#, &known, r#","b":"#, &known, r#","c":"#, &object("pw"), "}"];
    let parts: Vec<&[u8]> = chunks.iter().map(|chunk| chunk.as_bytes()).collect();
    let expected = format!(r#"{{"a":{known},"b":{known},"c":{masked}}}"#);
    assert_eq!(without_digits(&mask(&scope, &parts).unwrap().0), expected);
}

/// Each time the second one is the first one again, but for what stands around what is the same.
#[test]
fn what_came_to_nothing_is_read_again_where_something_else_is_around_it() {
    let everywhere = RequestInfo { namespace: String::new(), verb: "list".into(), ..resource("", "pods") };
    let check_pair = |yaml: &str, first: &str, second: &str, expected: &str| {
        let pods = scope(yaml, &everywhere);
        let list = |items: &[&str]| format!(r#"{{"x":"a","items":[{}]}}"#, items.join(","));
        let came = list(&[first, second, first, second, first]);
        check(&pods, &came, &list(&[first, expected, first, expected, first]));
    };
    let data = r#""data":{"a":{"long":"enough to be remembered"}}"#;
    let object = |around: &str| format!("{{{around},{data}}}");
    let replaced = |object: &str, token: &str| object.replace("enough to be remembered", token);
    let check_object = |yaml: &str, first: &str, second: &str| {
        let (first, second) = (object(first), object(second));
        check_pair(yaml, &first, &second, &replaced(&second, "masked:r:#"));
    };
    // The object's kind, name, labels or type.
    check_object(
        "{packs: [], rules: [{name: r, kinds: [Secret], paths: ['data.a.long']}]}",
        r#""kind":"ConfigMap""#,
        r#""kind":"Secret""#,
    );
    check_object(
        "{packs: [], rules: [{name: r, kinds: [Secret], whenUnknown: pass, paths: ['data.a.long']}]}",
        r#""kind":"ConfigMap""#,
        r#""kind":"Secret""#,
    );
    for (subject, first, second) in [
        ("namespaces: [b]", r#"{"namespace":"a"}"#, r#"{"namespace":"b"}"#),
        ("names: [b]", r#"{"name":"a"}"#, r#"{"name":"b"}"#),
        (
            "labels: {a: b}",
            r#"{"labels":{"long":"a text of its own"}}"#,
            r#"{"labels":{"long":"a text of its own","a":"b"}}"#,
        ),
        (
            "labels: {a: b}",
            r#"{"annotations":{"a":"b","long":"enough"}}"#,
            r#"{"labels":{"a":"b","long":"a text of its own"}}"#,
        ),
    ] {
        let yaml = format!(
            "{{packs: [], rules: [{{name: r, resources: ['*'], for: {{ {subject} }}, paths: ['data.a.long']}}]}}"
        );
        check_object(&yaml, &format!(r#""metadata":{first}"#), &format!(r#""metadata":{second}"#));
    }
    // What stands beside a container.
    let yaml = "{packs: [], rules: [{name: r, resources: ['*'], paths: ['data'], where: {sibling: name, matches: [b]}}]}";
    check_object(yaml, r#""name":"a""#, r#""name":"b""#);
    // The list that an item is in.
    let list = |kind: &str| format!(r#"{{"kind":"{kind}List","items":[{{{data}}}]}}"#);
    for unknown in ["hold", "pass"] {
        let yaml = format!(
            "{{packs: [], rules: [{{name: r, kinds: [Secret], whenUnknown: {unknown}, paths: ['data.a.long']}}]}}"
        );
        let (first, second) = (list("ConfigMap"), list("Secret"));
        check_pair(&yaml, &first, &second, &replaced(&second, "masked:r:#"));
    }
    // What an object has said of itself is not taken back without a word.
    let yaml = "{packs: [], rules: [{name: r, resources: ['*'], for: {labels: {a: b}}, paths: [data]}]}";
    let said = r#""metadata":{"annotations":{"long":"enough to be remembered"}}"#;
    let list = format!(
        r#"{{"x":"a","items":[{{{said}}},{{{said}}},{{{said},"data":"y","metadata":{{"labels":{{"a":"b"}}}}}}]}}"#
    );
    let pods = scope(yaml, &everywhere);
    let bytes: Vec<&[u8]> = list.as_bytes().chunks(1).collect();
    assert_eq!(mask(&pods, &bytes), Err(MaskErrorKind::Ambiguous));
    let (head, items) = list.as_bytes().split_at(8);
    assert_eq!(mask(&pods, &[head, items]), Err(MaskErrorKind::Ambiguous));
}

#[test]
fn secrets_are_masked_wherever_the_answer_holds_them() {
    let secrets = scope("{}", &resource("", "secrets"));
    check(
        &secrets,
        r#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"db","uid":"1"},"data":{"p":"aHVudGVyMg==", "q":""},"stringData":{"r":"x\"y"},"type":"Opaque"}"#,
        r#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"db","uid":"1"},"data":{"p":"base64#", "q":"base64#"},"stringData":{"r":"masked:secrets:#"},"type":"Opaque"}"#,
    );
    check(
        &secrets,
        r#"{"kind":"SecretList","metadata":{},"items":[{"metadata":{"uid":"1"},"data":{"p":"YQ=="}},{"data":{"p":"YQ=="},"metadata":{"uid":"2"}}]}"#,
        r#"{"kind":"SecretList","metadata":{},"items":[{"metadata":{"uid":"1"},"data":{"p":"base64#"}},{"data":{"p":"base64#"},"metadata":{"uid":"2"}}]}"#,
    );
    check(
        &secrets,
        "{\"type\":\"ADDED\",\"object\":{\"data\":{\"p\":\"YQ==\"}}}\n{\"type\":\"ADDED\",\"object\":{\"kind\":\"Table\",\"rows\":[{\"cells\":[\"db\",1],\"object\":{\"data\":{\"p\":\"YQ==\"}}}]}}\n",
        "{\"type\":\"ADDED\",\"object\":{\"data\":{\"p\":\"base64#\"}}}\n{\"type\":\"ADDED\",\"object\":{\"kind\":\"Table\",\"rows\":[{\"cells\":[\"db\",1],\"object\":{\"data\":{\"p\":\"base64#\"}}}]}}\n",
    );
    // Values that no Secret has are masked all the same.
    check(
        &secrets,
        r#"{"data":{"n":12,"b":true,"z":null,"a":["x",{"y":"z"}],"o":{"p":1.5e3}}}"#,
        r#"{"data":{"n":0,"b":false,"z":null,"a":["base64#",{"y":"base64#"}],"o":{"p":0}}}"#,
    );
}

#[test]
fn objects_are_found_by_their_own_kind() {
    let widgets = scope("{}", &resource("example.com", "widgets"));
    check(
        &widgets,
        r#"{"apiVersion":"v1","kind":"Widget","spec":{"manifest":{"apiVersion":"v1","data":{"p":"YQ=="},"kind":"Secret","metadata":{"name":"x"}}}}"#,
        r#"{"apiVersion":"v1","kind":"Widget","spec":{"manifest":{"apiVersion":"v1","data":{"p":"base64#"},"kind":"Secret","metadata":{"name":"x"}}}}"#,
    );
    check(
        &widgets,
        r#"{"kind":"Widget","a":{"data":{"p":"YQ=="},"kind":"ConfigMap"},"b":{"data":{"p":"YQ=="}},"data":{"p":"x"}}"#,
        r#"{"kind":"Widget","a":{"data":{"p":"YQ=="},"kind":"ConfigMap"},"b":{"data":{"p":"YQ=="}},"data":{"p":"x"}}"#,
    );
    check(
        &widgets,
        r#"{"kind":"List","items":[{"kind":"ConfigMap","data":{"p":"YQ=="}},{"kind":"Secret","data":{"p":"YQ=="}}]}"#,
        r#"{"kind":"List","items":[{"kind":"ConfigMap","data":{"p":"YQ=="}},{"kind":"Secret","data":{"p":"base64#"}}]}"#,
    );
    // A list that says what it holds only at its end.
    check(
        &widgets,
        r#"{"items":[{"data":{"p":"YQ=="}},{"metadata":{"name":"n"}}],"kind":"SecretList"}"#,
        r#"{"items":[{"data":{"p":"base64#"}},{"metadata":{"name":"n"}}],"kind":"SecretList"}"#,
    );
    check(
        &widgets,
        r#"{"items":[{"data":{"p":"YQ=="}}],"kind":"WidgetList"}"#,
        r#"{"items":[{"data":{"p":"YQ=="}}],"kind":"WidgetList"}"#,
    );
    // What an escape hides is found.
    check(
        &widgets,
        r#"{"k\u0069nd":"Se\u0063ret","d\u0061ta":{"p":"YQ=="}}"#,
        r#"{"k\u0069nd":"Se\u0063ret","d\u0061ta":{"p":"base64#"}}"#,
    );
}

#[test]
fn configmaps_keep_their_data() {
    let json = r#"{"kind":"ConfigMapList","apiVersion":"v1","items":[{"metadata":{"name":"a"},"data":{"p":"YQ=="}}]}"#;
    check(&scope("{}", &resource("", "configmaps")), json, json);
}

#[test]
fn the_last_applied_annotation_is_masked_inside() {
    let applied = r#"{\"apiVersion\":\"v1\",\"data\":{\"p\":\"YQ==\"},\"kind\":\"Secret\",\"metadata\":{\"name\":\"db\"}}\n"#;
    let masked = applied.replace("YQ==", "base64#");
    let object = |kind: &str, annotation: &str| {
        format!(
            r#"{{{kind}"metadata":{{"annotations":{{"kubectl.kubernetes.io/last-applied-configuration":"{annotation}","x":"y"}},"uid":"1"}}}}"#
        )
    };
    for (scope, kind) in [
        (scope("{}", &resource("", "secrets")), ""),
        (scope("{}", &resource("example.com", "widgets")), ""),
        (scope("{}", &resource("example.com", "widgets")), r#""kind":"Secret","#),
    ] {
        check(&scope, &object(kind, applied), &object(kind, &masked));
        check(&scope, &object(kind, "not json YQ=="), &object(kind, "masked:last-applied:#"));
        // A copy that does not say what it is, of an object that does not either, is taken for the worst.
        let vague = r#"{\"data\":{\"p\":\"YQ==\"}}"#;
        check(&scope, &object(kind, vague), &object(kind, &vague.replace("YQ==", "base64#")));
    }
    let widgets = scope("{}", &resource("example.com", "widgets"));
    let harmless = object(r#""kind":"Widget","#, r#"{\"data\":{\"p\":\"\u003cYQ==\"}}"#);
    check(&widgets, &harmless, &harmless);
}

#[test]
fn a_copy_of_a_value_has_the_same_token_as_the_value() {
    let secrets = scope("{}", &resource("", "secrets"));
    let json = r#"{"metadata":{"uid":"1","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"data\":{\"p\":\"YQ==\"}}"}},"data":{"p":"YQ==","q":"YQ=="}}"#;
    let (masked, _) = mask(&secrets, &[json.as_bytes()]).unwrap();
    let masked: Value = serde_json::from_str(&masked).unwrap();
    let copy = masked["metadata"]["annotations"].as_object().unwrap().values().next().unwrap();
    let copy: Value = serde_json::from_str(copy.as_str().unwrap()).unwrap();
    assert_eq!(copy["data"]["p"], masked["data"]["p"]);
    assert_ne!(masked["data"]["p"], masked["data"]["q"], "paths tell tokens apart");
}

#[test]
fn tokens_are_bound_to_the_object() {
    let secrets = scope("{}", &resource("", "secrets"));
    let token = |json: &str| {
        let (masked, _) = mask(&secrets, &[json.as_bytes()]).unwrap();
        serde_json::from_str::<Value>(&masked).unwrap()["data"]["p"].clone()
    };
    let first = token(r#"{"metadata":{"uid":"1"},"data":{"p":"YQ=="}}"#);
    assert_eq!(
        token(r#"{"data":{"p":"Y\u0051=="},"metadata":{"uid":"1"}}"#),
        first,
        "order and escapes do not matter"
    );
    assert_ne!(token(r#"{"metadata":{"uid":"2"},"data":{"p":"YQ=="}}"#), first);
    assert_ne!(token(r#"{"metadata":{"uid":"1"},"data":{"p":"Yg=="}}"#), first);
    assert_ne!(token(r#"{"metadata":{"name":"1"},"data":{"p":"YQ=="}}"#), first);
}

#[test]
fn literal_environment_values_are_masked_by_name() {
    let pods = scope("{}", &resource("", "pods"));
    check(
        &pods,
        r#"{"kind":"Pod","metadata":{"uid":"1"},"spec":{"containers":[{"env":[{"name":"DB_PASSWORD","value":"x"},{"name":"MODE","value":"x"},{"value":"x","name":"api_key"},{"value":"x","name":"b"},{"value":"x"},{"name":"TOKEN","valueFrom":{"secretKeyRef":{"name":"db","key":"p"}}}]}]}}"#,
        r#"{"kind":"Pod","metadata":{"uid":"1"},"spec":{"containers":[{"env":[{"name":"DB_PASSWORD","value":"masked:env:#"},{"name":"MODE","value":"x"},{"value":"masked:env:#","name":"api_key"},{"value":"x","name":"b"},{"value":"x"},{"name":"TOKEN","valueFrom":{"secretKeyRef":{"name":"db","key":"p"}}}]}]}}"#,
    );
}

#[test]
fn other_credentials_of_the_kubernetes_api() {
    check(
        &scope("{}", &RequestInfo { subresource: "token".into(), ..resource("", "serviceaccounts") }),
        r#"{"kind":"TokenRequest","metadata":{},"status":{"token":"t","expirationTimestamp":"x"}}"#,
        r#"{"kind":"TokenRequest","metadata":{},"status":{"token":"masked:token-requests:#","expirationTimestamp":"x"}}"#,
    );
    check(
        &scope("{}", &resource("authentication.k8s.io", "tokenreviews")),
        r#"{"kind":"TokenReview","spec":{"token":"t"}}"#,
        r#"{"kind":"TokenReview","spec":{"token":"masked:token-reviews:#"}}"#,
    );
    check(
        &scope("{}", &resource("certificates.k8s.io", "certificatesigningrequests")),
        r#"{"items":[{"metadata":{},"status":{"certificate":"YQ=="}}]}"#,
        r#"{"items":[{"metadata":{},"status":{"certificate":"base64#"}}]}"#,
    );
}

#[test]
fn messages_keep_their_sense_but_not_what_they_echo() {
    let status = |message: &str| format!(r#"{{"kind":"Status","metadata":{{}},"message":{message}}}"#);
    check(
        &scope("{}", &resource("", "secrets")),
        &status(r#""Object 'Kind' is missing in '{\"data\":{\"p\":\"YQ==\"}}'""#),
        &status(r#""Object 'Kind' is missing in 'masked:messages:#'""#),
    );
    let harmless = status(r#""secrets \u003c \"db\" not found""#);
    check(&scope("{}", &resource("", "secrets")), &harmless, &harmless);
}

#[test]
fn actions_keep_types() {
    let info = RequestInfo::default();
    for (action, expected) in [
        ("hash", r#"{"p":"masked:r:#","n":0,"t":false,"z":null,"l":"masked:r:#"}"#),
        ("redact", r#"{"p":"masked:r:redacted","n":0,"t":false,"z":null,"l":"masked:r:redacted"}"#),
        ("partial", r#"{"p":"masked:r:****","n":0,"t":false,"z":null,"l":"masked:r:****90\"é"}"#),
        ("drop", r#"{"p":null,"n":null,"t":null,"z":null,"l":null}"#),
    ] {
        let yaml = format!("rules: [{{name: r, paths: ['*'], action: {action}}}]");
        let json = r#"{"p":"pass","n":-1.5,"t":true,"z":null,"l":"1234567890\"é"}"#;
        check(&scope(&yaml, &info), json, expected);
    }
}

#[test]
fn keys_are_masked_at_any_depth_outside_kubernetes() {
    let yaml = "rules: [{name: passwords, keys: ['*password*']}, {name: cards, paths: ['users[*].card.*']}]";
    check(
        &scope(yaml, &RequestInfo::default()),
        r#"[ {"Password" : "x"}, {"users":[{"card":{"n":"1"}}], "a":{"old_passwords":["x",{"y":2}]}} ]"#,
        r#"[ {"Password" : "masked:passwords:#"}, {"users":[{"card":{"n":"1"}}], "a":{"old_passwords":["masked:passwords:#",{"y":0}]}} ]"#,
    );
    check(
        &scope(yaml, &RequestInfo::default()),
        r#"{"users":[{"card":{"n":"1"}}],"data":{"p":"YQ=="},"kind":"Secret"}"#,
        r#"{"users":[{"card":{"n":"masked:cards:#"}}],"data":{"p":"YQ=="},"kind":"Secret"}"#,
    );
}

#[test]
fn the_first_rule_decides() {
    let yaml = "rules: [{name: mine, resources: [secrets], paths: [data.p], action: redact}]";
    check(
        &scope(yaml, &resource("", "secrets")),
        r#"{"data":{"p":"YQ==","q":"YQ=="},"metadata":{}}"#,
        r#"{"data":{"p":"masked:mine:redacted","q":"base64#"},"metadata":{}}"#,
    );
}

#[test]
fn detectors_replace_what_they_find_in_selected_strings() {
    let yaml = "rules: [{name: logs, paths: ['**.line'], detectors: [github]}]";
    check(
        &scope(yaml, &RequestInfo::default()),
        r#"{"line":"token ghp_0123456789abcdefghijklmnopqrstuvwxyz used","n":{"line":"nothing\u0021"}}"#,
        r#"{"line":"token masked:logs:# used","n":{"line":"nothing\u0021"}}"#,
    );
}

#[test]
fn a_token_in_a_message_is_replaced_whole_whatever_part_of_it_looks_encoded() {
    let token = "eyJhbGciOiJSUzI1NiIsImtpZCI6Ik1FVDIifQ.eyJzdWIiOiJhZ2VudC1jaSJ9.Gx5T41dWQ9kZ\
        Lm2nB7vCx1S8_ktI-RXt2sym7tG9LAS9NXC_Fmtd0Lo8wBtDA-c3VwZXJzZWNyZXQ";
    check(
        &scope("packs: [kubernetes-secrets]", &resource("", "pods")),
        &format!(r#"{{"kind":"Status","message":"pods \"{token}\" not found"}}"#),
        r#"{"kind":"Status","message":"pods \"masked:messages:#\" not found"}"#,
    );
}

#[test]
fn rules_are_for_the_objects_they_name() {
    let everywhere = RequestInfo { namespace: String::new(), verb: "list".into(), ..resource("", "secrets") };
    let secret = |metadata: &str, after: &str| {
        format!(r#"{{"metadata":{{{metadata}}},"data":{{"p":"YQ=="}}{after}}}"#)
    };
    let masked = |item: &str| item.replace("YQ==", "base64#");
    let check_items = |subjects: &str, items: &[(String, bool)]| {
        let yaml = format!(
            "{{packs: [], rules: [{{name: r, kinds: [Secret], resources: [secrets], base64Paths: ['data.*'], {subjects}}}]}}"
        );
        let scope = scope(&yaml, &everywhere);
        let list = |items: Vec<String>| format!(r#"{{"kind":"SecretList","items":[{}]}}"#, items.join(","));
        let came = list(items.iter().map(|(item, _)| item.clone()).collect());
        let expected =
            list(items.iter().map(|(item, is)| if *is { masked(item) } else { item.clone() }).collect());
        check(&scope, &came, &expected);
    };
    check_items(
        "except: { types: ['helm.sh/*'] }",
        &[
            (secret("", r#","type":"helm.sh/release.v1""#), false),
            (secret("", r#","type":"Helm.sh/release.v1""#), true),
            (secret("", r#","type":"Opaque""#), true),
            (secret("", ""), true),
            (r#"{"type":"helm.sh/release.v1","data":{"p":"YQ=="}}"#.into(), false),
        ],
    );
    check_items(
        "for: { namespaces: [prod, 'pay*'], names: ['db-*'] }",
        &[
            (secret(r#""name":"db-1","namespace":"prod""#, ""), true),
            (secret(r#""name":"db-1","namespace":"payments""#, ""), true),
            (secret(r#""name":"db-1","namespace":"dev""#, ""), false),
            (secret(r#""name":"x","namespace":"prod""#, ""), false),
            (secret("", ""), false),
            (r#"{"data":{"p":"YQ=="},"metadata":{"namespace":"prod","name":"db-2"}}"#.into(), true),
        ],
    );
    check_items(
        "except: { labels: { tier: public, app: '*' } }",
        &[
            (secret(r#""labels":{"app":"web","tier":"public"}"#, ""), false),
            (secret(r#""labels":{"tier":"public"}"#, ""), true),
            (secret(r#""labels":{"app":"web","tier":"private"}"#, ""), true),
            // Not the object's own labels.
            (secret(r#""annotations":{"app":"web","tier":"public"}"#, ""), true),
        ],
    );

    let yaml = "{packs: [], limits: {heldBytes: 2000}, rules: [{name: r, resources: [secrets], kinds: [Secret], paths: ['data.*'], except: {types: [x], labels: {a: b}}}]}";
    let scope = scope(yaml, &resource("", "secrets"));
    let fail = |json: &str| mask(&scope, &[json.as_bytes()]).unwrap_err();
    let long = "x".repeat(3000);
    let late = format!(r#"{{"metadata":{{"labels":{{"a":"b"}}}},"data":{{"p":"{long}"}},"type":"x"}}"#);
    assert_eq!(fail(&late), MaskErrorKind::TooMuchHeld);
    // It takes back what was relied on.
    let twice = r#"{"metadata":{"labels":{"a":"b"}},"type":"x","data":{"p":"y"},"type":"z"}"#;
    assert_eq!(fail(twice), MaskErrorKind::Ambiguous);
    let again = r#"{"metadata":{},"data":{"p":"y"},"metadata":{"labels":{"a":"b"}}}"#;
    assert_eq!(fail(again), MaskErrorKind::Ambiguous);
}

#[test]
fn tokens_compare_across_objects_only_where_a_rule_says_so() {
    let tokens = |compare: &str| {
        let yaml = format!(
            "{{packs: [], rules: [{{name: r, resources: [secrets], paths: ['data.*'], compare: {compare}}}]}}"
        );
        let json = r#"{"items":[{"metadata":{"uid":"1"},"data":{"a":"x"}},{"metadata":{"uid":"2"},"data":{"b":"x"}}]}"#;
        let (masked, _) = mask(&scope(&yaml, &resource("", "secrets")), &[json.as_bytes()]).unwrap();
        let digits = regex::Regex::new("masked:r:[0-9a-f]{16}").unwrap();
        digits.find_iter(&masked).map(|found| found.as_str().to_owned()).collect::<Vec<_>>()
    };
    let (object, everywhere) = (tokens("object"), tokens("everywhere"));
    assert!(object.len() == 2 && object[0] != object[1]);
    assert!(everywhere.len() == 2 && everywhere[0] == everywhere[1]);
}

#[test]
fn contradictions_and_excess_end_the_stream() {
    let widgets = scope(
        "{packs: [kubernetes-secrets], limits: {heldBytes: 2000}}",
        &resource("example.com", "widgets"),
    );
    let fail = |json: &str| mask(&widgets, &[json.as_bytes()]).unwrap_err();
    assert_eq!(fail(r#"{"kind":"Widget","data":{"p":"x"},"kind":"Secret"}"#), MaskErrorKind::Ambiguous);
    assert_eq!(fail(r#"{"data":{"p":{"q":"x"}},"kind":"Secret"}"#), MaskErrorKind::Ambiguous);
    assert_eq!(fail(r#"{"env":[{"name":"A","value":"x","name":"TOKEN"}]}"#), MaskErrorKind::Ambiguous);
    let long = "x".repeat(3000);
    assert_eq!(fail(&format!(r#"{{"data":{{"p":"{long}"}},"kind":"Secret"}}"#)), MaskErrorKind::TooMuchHeld);
    assert_eq!(fail(r#"{"data":{"p":"x""#), MaskErrorKind::Truncated);
    // Held back only while it is not known.
    let known = format!(r#"{{"kind":"Secret","metadata":{{}},"data":{{"p":"{long}"}}}}"#);
    assert!(mask(&widgets, &[known.as_bytes()]).unwrap().0.len() < 200);
}

#[test]
fn nothing_of_an_unfinished_value_is_sent_and_the_rest_is_not_copied() {
    let mut masker = Masker::new(scope("{}", &resource("", "secrets")));
    let input = Bytes::from_static(br#"{"metadata":{"uid":"1"},"data":{"p":"c2Vj"#);
    let mut pieces = Vec::new();
    masker.push(input.clone(), &mut pieces).unwrap();
    assert_eq!(pieces, [Piece::Verbatim(input.slice(..36))]);
    assert_eq!(pieces[0].bytes().as_ptr(), input.as_ptr());
    assert!(masker.finish(&mut pieces).is_err());
    assert!(masker.push(Bytes::from_static(b"}"), &mut pieces).is_err(), "an error is final");
}

/// A document as people think of it; keys may repeat.
#[derive(Clone, Debug)]
enum Json {
    Text(String),
    Other(&'static str),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

const CANARY: &str = "canary-4711";

fn keys() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(vec!["kind", "metadata", "data", "stringData", "items", "spec", "env", "name", "value", "uid", "a"])
            .prop_map(str::to_owned),
        1 => "[a-z\"\\\\\u{e9}\n]{0,5}",
    ]
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["Secret", "SecretList", "ConfigMap", "List", "DB_PASSWORD", "MODE", "YQ=="]).prop_map(str::to_owned),
        2 => Just(CANARY.to_owned()),
        1 => any::<String>(),
    ]
}

fn documents() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        4 => texts().prop_map(Json::Text),
        1 => prop::sample::select(vec!["1", "-0.5e3", "true", "false", "null"]).prop_map(Json::Other),
    ];
    leaf.prop_recursive(6, 48, 5, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
            4 => prop::collection::vec((keys(), inner), 0..6).prop_map(Json::Object),
        ]
    })
}

/// One of them, or a list of few different ones that come again and again.
fn lists() -> impl Strategy<Value = Json> {
    let some = prop::collection::vec(documents(), 1..3);
    let order = prop::collection::vec(any::<prop::sample::Index>(), 1..8);
    prop_oneof![
        2 => documents(),
        1 => (some, order).prop_map(|(some, order)| Json::Array(order.iter().map(|at| at.get(&some).clone()).collect())),
    ]
}

impl Json {
    fn write(&self, space: &str, out: &mut String) {
        match self {
            Self::Text(text) => out.push_str(&serde_json::to_string(text).unwrap()),
            Self::Other(other) => out.push_str(other),
            Self::Array(elements) => {
                out.push('[');
                for (index, element) in elements.iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    out.push_str(space);
                    element.write(space, out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (index, (key, member)) in members.iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    out.push_str(space);
                    out.push_str(&serde_json::to_string(key).unwrap());
                    out.push(':');
                    out.push_str(space);
                    member.write(space, out);
                }
                out.push('}');
            }
        }
    }

    fn keys_repeat(&self) -> bool {
        match self {
            Self::Text(_) | Self::Other(_) => false,
            Self::Array(elements) => elements.iter().any(Self::keys_repeat),
            Self::Object(members) => {
                let distinct: std::collections::BTreeSet<_> = members.iter().map(|(key, _)| key).collect();
                distinct.len() < members.len() || members.iter().any(|(_, member)| member.keys_repeat())
            }
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        let Self::Object(members) = self else { return None };
        members.iter().find_map(|(name, member)| match member {
            Self::Text(text) if name == key => Some(text.as_str()),
            _ => None,
        })
    }

    /// The model: sees everything at once, and masks what the pack for secrets says. For documents without repeated keys.
    fn masked(&self, listed: bool, env: bool) -> Json {
        match self {
            Self::Text(_) | Self::Other(_) => self.clone(),
            Self::Array(elements) => {
                Self::Array(elements.iter().map(|element| element.masked(false, env)).collect())
            }
            Self::Object(members) => {
                let secret = listed || self.text("kind") == Some("Secret");
                let lists = self.text("kind") == Some("SecretList");
                let password = env && self.text("name") == Some("DB_PASSWORD");
                let member = |(key, member): &(String, Json)| {
                    let masked = match (key.as_str(), member) {
                        ("data" | "stringData", member) if secret => match member.masked(false, false) {
                            Self::Object(values) => {
                                let masked =
                                    |(name, value): (String, Json)| (name, value.all_masked(key == "data"));
                                Self::Object(values.into_iter().map(masked).collect())
                            }
                            Self::Array(elements) => Self::Array(
                                elements.iter().map(|element| element.all_masked(key == "data")).collect(),
                            ),
                            other => other.all_masked(key == "data"),
                        },
                        ("items", Self::Array(elements)) => {
                            Self::Array(elements.iter().map(|element| element.masked(lists, false)).collect())
                        }
                        ("env", Self::Array(elements)) => {
                            Self::Array(elements.iter().map(|element| element.masked(false, true)).collect())
                        }
                        ("value", value) if password => {
                            value.masked(false, false).all_masked_as("masked:env:#")
                        }
                        (_, member) => member.masked(false, false),
                    };
                    (key.clone(), masked)
                };
                Self::Object(members.iter().map(member).collect())
            }
        }
    }

    fn all_masked(&self, base64: bool) -> Json {
        self.all_masked_as(if base64 { "base64#" } else { "masked:secrets:#" })
    }

    fn all_masked_as(&self, token: &str) -> Json {
        match self {
            Self::Text(_) => Self::Text(token.to_owned()),
            Self::Other("true") => Self::Other("false"),
            Self::Other("null") => Self::Other("null"),
            Self::Other("false") => Self::Other("false"),
            Self::Other(_) => Self::Other("0"),
            Self::Array(elements) => {
                Self::Array(elements.iter().map(|element| element.all_masked_as(token)).collect())
            }
            Self::Object(members) => Self::Object(
                members.iter().map(|(key, member)| (key.clone(), member.all_masked_as(token))).collect(),
            ),
        }
    }
}

static WIDGETS: LazyLock<Scope> =
    LazyLock::new(|| scope("packs: [kubernetes-secrets]", &resource("example.com", "widgets")));
static SECRETS: LazyLock<Scope> = LazyLock::new(|| scope("{}", &resource("", "secrets")));
static PLAIN: LazyLock<Scope> = LazyLock::new(|| {
    scope("{packs: [], rules: [{name: r, paths: [no.such.path]}]}", &RequestInfo::default())
});

pub(super) fn chunks<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn agrees_with_a_model_that_sees_everything(document in lists(), space in "[ \n\t]{0,2}", cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let widgets = WIDGETS.clone();
        let mut json = String::new();
        document.write(&space, &mut json);
        let whole = mask(&widgets, &[json.as_bytes()]);
        let cut = mask(&widgets, &chunks(json.as_bytes(), &cuts));
        let slowly = mask(&widgets, &json.as_bytes().chunks(1).collect::<Vec<_>>());
        prop_assert_eq!(&whole, &cut, "{}", json);
        prop_assert_eq!(&whole, &slowly, "{}", json);
        let Ok((masked, _)) = whole else {
            // Only a contradiction may end it, such as a container that is a secret's value before its kind is known.
            prop_assert_eq!(whole.unwrap_err(), MaskErrorKind::Ambiguous);
            return Ok(());
        };
        serde_json::from_str::<Value>(&masked).unwrap();
        if !document.keys_repeat() {
            let mut expected = String::new();
            document.masked(false, false).write(&space, &mut expected);
            prop_assert_eq!(without_digits(&masked), expected, "{}", json);
        }
    }

    #[test]
    fn what_no_rule_selects_is_not_touched(document in lists(), space in "[ \n\t]{0,2}", cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let plain = PLAIN.clone();
        let mut json = String::new();
        document.write(&space, &mut json);
        let mut masker = Masker::new(plain);
        let mut pieces = Vec::new();
        for chunk in chunks(json.as_bytes(), &cuts) {
            masker.push(Bytes::copy_from_slice(chunk), &mut pieces).unwrap();
        }
        masker.finish(&mut pieces).unwrap();
        prop_assert!(pieces.iter().all(|piece| matches!(piece, Piece::Verbatim(_))));
        prop_assert_eq!(crate::piece::join(&pieces), json.into_bytes());
    }

    #[test]
    fn a_secrets_value_never_comes_out(document in documents(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let secrets = SECRETS.clone();
        let object = Json::Object(vec![("data".to_owned(), document.clone()), ("stringData".to_owned(), document)]);
        let mut json = String::new();
        object.write("", &mut json);
        let mut masker = Masker::new(secrets);
        let mut pieces = Vec::new();
        let mut failed = false;
        for chunk in chunks(json.as_bytes(), &cuts) {
            failed = failed || masker.push(Bytes::copy_from_slice(chunk), &mut pieces).is_err();
        }
        let sent = String::from_utf8(crate::piece::join(&pieces)).unwrap();
        prop_assert!(!sent.contains(CANARY), "{} became {}", json, sent);
    }
}
