use http::Request;
use portcullis_core::{Identity, RequestInfo};

use super::*;
use crate::facts::BodyState;

fn check_wrong(yaml: &str, expected: &str) {
    let error = Policy::from_yaml(yaml).unwrap_err();
    assert!(error.to_string().contains(expected), "{yaml}: {error}");
}

#[test]
fn a_wrong_policy_says_what_and_where() {
    check_wrong("rulse: []", "did you mean `rules`?");
    check_wrong("rules:\n- name: a\n  action: alow", "3:11: ");
    check_wrong("rules:\n- name: a\n  action: alow", "did you mean `allow`?");
    check_wrong("rules:\n- name: a\n  action: deny\n  match:\n    verbs: [GET]", "5:12: ");
    check_wrong("rules:\n- name: a\n  action: deny\n  match:\n    verbs: [GET]", "did you mean \"get\"?");
    check_wrong("rules:\n- name: a\n  action: deny\n  match: { path: '(' }", "4:10: ");
    check_wrong("rules:\n- name: a\n  action: deny\n  when: objct.x", "2:3: rules[0]: no variable");
    check_wrong("rules:\n- name: a\n  action: hold\n  hold: { holdFor: 5 minutes }", "not a duration");
    check_wrong(
        "rules:\n- name: a\n  action: deny\n- name: a\n  action: deny",
        "4:3: rule \"a\": another rule",
    );
    check_wrong(
        "rules:\n- name: a\n  action: hold",
        "2:3: rule \"a\": it holds requests, and nobody may approve",
    );
    check_wrong("rules:\n- name: a b\n  action: deny", "a name has");
    check_wrong("rules:\n- name: baseline/x\n  action: deny", "built-in");
    check_wrong("rules:\n- name: a\n  action: deny\n  mask: [x]", "`mask` is for responses");
    check_wrong("rules:\n- name: a\n  action: deny\n  hold: {}", "`action` is not hold");
    check_wrong("rules:\n- name: a\n  action: deny\n  overrides: [baseline/proxy]", "rules that allow");
    check_wrong(
        "rules:\n- name: a\n  action: allow\n  overrides: [baseline/prxy]",
        "did you mean \"baseline/proxy\"?",
    );
    check_wrong("baseline: { disable: [rbac] }", "no baseline rule \"rbac\"");
    check_wrong(
        "rules:\n- name: a\n  action: deny\n  match: { resources: [pods/exec/x] }",
        "a resource is written",
    );
    let held = |hold: &str| {
        format!("approvers: {{ users: [ann] }}\nrules:\n- name: a\n  action: hold\n  hold: {{ {hold} }}")
    };
    check_wrong(&held("quorum: 0"), "at least 1");
    check_wrong(&held("quorum: 2"), "more people than");
    check_wrong(&held("expiresAfter: 0s"), "no time to decide");
    check_wrong(&held("holdFor: 2h, expiresAfter: 1h"), "longer than");
}

#[test]
fn a_policy_is_described_by_a_schema() {
    let schema = serde_json::to_value(schemars::schema_for!(PolicyConfig)).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    assert!(schema["$defs"]["MatchConfig"]["properties"]["userAgent"].is_object(), "{schema}");
}

fn info(verb: &str, group: &str, namespace: &str, resource: &str, name: &str) -> RequestInfo {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    RequestInfo {
        is_resource_request: true,
        verb: verb.into(),
        api_group: group.into(),
        namespace: namespace.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        name: name.into(),
        ..RequestInfo::default()
    }
}

/// What `policy` says of a request: `allow`, `deny rule`, `hold rule` or a refusal's code.
fn judged(policy: &Policy, info: &RequestInfo, content_type: &str, query: &str, body: &str) -> String {
    let identity = Identity { user: "bot".into(), groups: vec!["ci".into()], ..Identity::default() };
    let (parts, ()) = Request::builder()
        .uri(format!("/x?{query}"))
        .header("content-type", content_type)
        .header("user-agent", "kubectl/v1.36")
        .body(())
        .unwrap()
        .into_parts();
    let bytes = body.to_owned().into();
    let body = match body.is_empty() {
        true => BodyState::Absent,
        false => BodyState::Read(&bytes),
    };
    let facts = Facts::new(&parts, info, &identity, None, body).unwrap();
    match policy.judge(&facts) {
        Ok(verdict) => {
            let rule = verdict.rule.unwrap_or_default();
            let action = match verdict.decision {
                Decision::Allow => "allow",
                Decision::Deny => "deny",
                Decision::Hold(_) => "hold",
            };
            format!("{action} {rule}").trim_end().to_owned()
        }
        Err(Unjudged::NeedsBody) => "needs the body".to_owned(),
        Err(Unjudged::Refused(refusal)) => refusal.code().to_owned(),
    }
}

fn check_baseline(info: RequestInfo, body: &str, expected: &str) {
    let policy = Policy::from_yaml("approvers: { groups: [sre] }").unwrap();
    assert_eq!(judged(&policy, &info, "application/json", "", body), expected, "{info:?} {body}");
}

const RBAC: &str = "rbac.authorization.k8s.io";

#[test]
fn the_baseline_leaves_ordinary_work_alone() {
    let plain =
        r#"{"kind":"Deployment","spec":{"template":{"spec":{"containers":[{"name":"web","image":"x"}]}}}}"#;
    check_baseline(info("get", "", "shop", "secrets", "db"), "", "allow");
    check_baseline(info("list", RBAC, "", "clusterrolebindings", ""), "", "allow");
    check_baseline(info("create", "apps", "shop", "deployments", ""), plain, "allow");
    check_baseline(
        info("patch", "apps", "shop", "deployments", "web"),
        r#"{"spec":{"replicas":3}}"#,
        "allow",
    );
    check_baseline(info("delete", "", "shop", "pods", "web"), "", "allow");
    check_baseline(info("create", "", "shop", "pods/eviction", "web"), "{}", "allow");
    check_baseline(info("create", "", "shop", "pods/exec", "web"), "", "allow");
    check_baseline(info("get", "", "shop", "pods/log", "web"), "", "allow");
    check_baseline(info("create", "", "shop", "serviceaccounts/token", "web"), "{}", "allow");
    check_baseline(info("create", "", "shop", "configmaps", ""), r#"{"data":{"a":"b"}}"#, "allow");
    check_baseline(
        info("update", "coordination.k8s.io", "shop", "leases", "x"),
        r#"{"metadata":{}}"#,
        "allow",
    );
}

#[test]
fn the_baseline_closes_the_ways_around() {
    let pod = |spec: &str| format!(r#"{{"kind":"Pod","spec":{spec}}}"#);
    let create_pod = || info("create", "", "shop", "pods", "");
    check_baseline(info("get", "", "", "nodes/proxy", "n1"), "", "deny baseline/node-proxy");
    check_baseline(info("get", "", "shop", "services/proxy", "s"), "", "hold baseline/proxy");
    check_baseline(info("create", RBAC, "", "clusterrolebindings", ""), "{}", "hold baseline/rbac-writes");
    check_baseline(info("deletecollection", RBAC, "a", "roles", ""), "", "hold baseline/rbac-writes");
    check_baseline(
        info("create", "", "kube-system", "pods/exec", "etcd"),
        "",
        "hold baseline/system-namespaces",
    );
    check_baseline(
        info("get", "", "kube-system", "pods/exec", "etcd"),
        "",
        "hold baseline/system-namespaces",
    );
    check_baseline(
        info("patch", "", "a", "pods/ephemeralcontainers", "x"),
        "{}",
        "hold baseline/ephemeral-containers",
    );
    check_baseline(
        info("patch", "admissionregistration.k8s.io", "", "mutatingwebhookconfigurations", "x"),
        "{}",
        "hold baseline/admission",
    );
    check_baseline(
        info("update", "apiregistration.k8s.io", "", "apiservices", "x"),
        "{}",
        "hold baseline/aggregated-apis",
    );
    check_baseline(
        info("update", "certificates.k8s.io", "", "certificatesigningrequests/approval", "x"),
        "{}",
        "hold baseline/certificates",
    );
    check_baseline(
        create_pod(),
        &pod(r#"{"volumes":[{"hostPath":{"path":"/"}}]}"#),
        "hold baseline/privileged-workloads",
    );
    check_baseline(create_pod(), &pod(r#"{"hostNetwork":true}"#), "hold baseline/privileged-workloads");
    check_baseline(
        create_pod(),
        &pod(r#"{"serviceAccountName":"admin"}"#),
        "hold baseline/secrets-in-workloads",
    );
    check_baseline(create_pod(), &pod(r#"{"serviceAccountName":"default"}"#), "allow");
    check_baseline(
        info("create", "batch", "shop", "cronjobs", ""),
        r#"{"spec":{"jobTemplate":{"spec":{"template":{"spec":{"containers":[{"envFrom":[{"secretRef":{"name":"db"}}]}]}}}}}}"#,
        "hold baseline/secrets-in-workloads",
    );
    check_baseline(
        info("create", "", "shop", "secrets", ""),
        r#"{"type":"kubernetes.io/service-account-token"}"#,
        "hold baseline/token-secrets",
    );
    check_baseline(
        info("patch", "", "shop", "secrets", "db"),
        r#"{"metadata":{"ownerReferences":[{"uid":"x"}]}}"#,
        "hold baseline/owner-references",
    );
    check_baseline(create_pod(), r#"{"spec":{"hostPID":true},"spec":{}}"#, "policy/unreadable-body");
}

#[test]
fn what_kubectl_creates_is_read() {
    let policy = Policy::from_yaml("approvers: { groups: [sre] }").unwrap();
    let create = info("create", "", "shop", "secrets", "");
    let protobuf = "application/vnd.kubernetes.protobuf";
    // An envelope around a Secret of that type: `kubectl create secret` as kubectl 1.37 sends it.
    let secret = |kind: &str| {
        let raw = format!("\u{1a}{}{kind}", char::from(kind.len() as u8));
        let known = "\u{a}\u{c}\u{a}\u{2}v1\u{12}\u{6}Secret";
        format!("k8s\0{known}\u{12}{}{raw}", char::from(raw.len() as u8))
    };
    assert_eq!(judged(&policy, &create, protobuf, "", &secret("Opaque")), "allow");
    let token = secret("kubernetes.io/service-account-token");
    assert_eq!(judged(&policy, &create, protobuf, "", &token), "hold baseline/token-secrets");
}

#[test]
fn a_body_that_rules_cannot_read_counts_against_it() {
    let policy = Policy::from_yaml("approvers: { groups: [sre] }").unwrap();
    let create = info("create", "", "shop", "pods", "");
    let protobuf = "application/vnd.kubernetes.protobuf";
    assert_eq!(judged(&policy, &create, protobuf, "", "k8s"), "hold baseline/privileged-workloads");
    let config_map = info("create", "", "shop", "configmaps", "");
    assert_eq!(judged(&policy, &config_map, protobuf, "", "k8s"), "allow");
}

#[test]
fn without_approvers_what_would_be_held_is_refused() {
    let policy = Policy::from_yaml("{}").unwrap();
    let create = info("create", RBAC, "", "clusterrolebindings", "");
    assert_eq!(judged(&policy, &create, "", "", "{}"), "deny baseline/rbac-writes");
}

#[test]
fn allowing_something_overrides_the_baseline_by_name_only() {
    let create = info("create", RBAC, "", "clusterrolebindings", "");
    let judge = |yaml: &str| judged(&Policy::from_yaml(yaml).unwrap(), &create, "", "", "{}");
    let all = "{ name: all, match: { verbs: ['*'], resources: ['*'] }, action: allow }";
    assert_eq!(judge(&format!("rules: [{all}]")), "deny baseline/rbac-writes");
    let named = all.replace("action", "overrides: [baseline/rbac-writes], action");
    assert_eq!(judge(&format!("rules: [{named}]")), "allow all");
    assert_eq!(judge("baseline: { disable: [baseline/rbac-writes] }"), "allow");
    assert_eq!(judge("baseline: { enabled: false }"), "allow");
}

#[test]
fn the_first_rule_that_matches_decides() {
    let yaml = r#"
        default: deny
        rules:
          - { name: no-db, match: { names: [db] }, action: deny }
          - { name: reads, match: { verbs: [get, list], groups: ["c*"] }, action: allow, mask: [strict] }
    "#;
    let policy = Policy::from_yaml(yaml).unwrap();
    let judge = |info: RequestInfo| judged(&policy, &info, "", "", "");
    assert_eq!(judge(info("get", "", "shop", "secrets", "db")), "deny no-db");
    assert_eq!(judge(info("get", "", "shop", "secrets", "web")), "allow reads");
    assert_eq!(judge(info("delete", "", "shop", "secrets", "web")), "deny");
    assert_eq!(policy.mask_sets(), BTreeSet::from(["strict"]));
}

/// Whether a rule with this `match` (and, if it is not empty, `when`) is about the request, as a refusal and as a permission.
fn check(
    rule: &str,
    info: RequestInfo,
    content_type: &str,
    query: &str,
    body: &str,
    refuses: bool,
    allows: bool,
) {
    let judge = |action: &str, default: &str| {
        let yaml = format!(
            "{{ baseline: {{ enabled: false }}, default: {default}, rules: [{{ name: r, {rule}, action: {action} }}] }}"
        );
        judged(&Policy::from_yaml(&yaml).unwrap(), &info, content_type, query, body)
    };
    assert_eq!(judge("deny", "allow") == "deny r", refuses, "deny {rule} on {info:?}");
    assert_eq!(judge("allow", "deny") == "allow r", allows, "allow {rule} on {info:?}");
}

#[test]
fn refusals_read_wide_and_permissions_narrow() {
    let apply = "application/apply-patch+yaml";
    let check =
        |rule: &str, info: RequestInfo, refuses, allows| check(rule, info, apply, "", "", refuses, allows);
    check("match: { verbs: [create] }", info("patch", "", "a", "pods", "x"), true, false);
    check("match: { verbs: [delete] }", info("deletecollection", "", "a", "pods", ""), true, false);
    let evict = || info("create", "", "a", "pods/eviction", "x");
    check("match: { verbs: [delete], resources: [pods] }", evict(), true, false);
    check("match: { verbs: [get], resources: [pods] }", evict(), false, false);
    check("match: { namespaces: [prod] }", info("list", "", "", "secrets", ""), true, false);
    check("match: { namespaces: [prod] }", info("list", "", "", "nodes", ""), false, false);
    check("match: { namespaces: ['*'] }", info("get", "", "", "nodes", "n"), false, false);
    check("match: { namespaces: [prod] }", info("list", "", "prod", "secrets", ""), true, true);
    check("match: { names: [db] }", info("list", "", "a", "secrets", ""), true, false);
    check("match: { names: [db] }", info("get", "", "a", "secrets", "db"), true, true);
    check("match: { names: [db] }", info("get", "", "a", "secrets", "web"), false, false);
    check("match: { resources: ['*'] }", info("create", "", "a", "pods/exec", "x"), true, false);
    check("match: { resources: ['pods/*'] }", info("create", "", "a", "pods/exec", "x"), true, false);
    check("match: { resources: ['pods/exec'] }", info("create", "", "a", "pods/exec", "x"), true, true);
    check("match: { resources: ['*'] }", info("get", "", "a", "pods/log", "x"), true, true);
    check("match: { resources: ['pods/*'] }", info("get", "", "a", "pods", "x"), false, false);
    check("match: {}", info("create", "", "a", "pods/exec", "x"), true, false);
    let plain = RequestInfo { verb: "get".into(), path: "/version".into(), ..RequestInfo::default() };
    check("match: { resources: ['*'] }", plain.clone(), false, false);
    check("match: { path: ^/vers }", plain.clone(), true, true);
    check("match: { userAgent: ^kubectl/ }", plain.clone(), true, true);
    check("match: { groups: [ci, sre] }", plain.clone(), true, true);
    check("match: { users: [b?t] }", plain.clone(), false, false);
    check("match: { profiles: ['*'] }", plain, false, false);
}

#[test]
fn names_of_new_objects_come_from_their_bodies() {
    let check = |body: &str, refuses, allows| {
        check(
            "match: { names: [db] }",
            info("create", "", "a", "secrets", ""),
            "",
            "",
            body,
            refuses,
            allows,
        );
    };
    check(r#"{"metadata":{"name":"db"}}"#, true, true);
    check(r#"{"metadata":{"name":"web"}}"#, false, false);
    check(r#"{"metadata":{"generateName":"d"}}"#, true, false);
}

#[test]
fn commands_are_matched_as_they_are_run() {
    let exec = || info("get", "", "a", "pods/exec", "x");
    let rule = "match: { resources: [pods/exec], command: '^rm -rf' }";
    check(rule, exec(), "", "command=rm&command=-rf&command=/", "", true, true);
    check(rule, exec(), "", "command=ls", "", false, false);
    check(rule, info("get", "", "a", "pods/attach", "x"), "", "command=rm&command=-rf", "", false, false);
}

#[test]
fn conditions_that_fail_count_against_a_request() {
    let create = || info("create", "", "a", "pods", "");
    let body = r#"{"spec":{"replicas":9}}"#;
    check("when: object.spec.replicas > 5", create(), "", "", body, true, true);
    check("when: object.spec.replicas > 50", create(), "", "", body, false, false);
    check("when: object.spec.paused", create(), "", "", body, true, false);
    check("when: object.spec.replicas > 5", create(), "application/cbor", "", body, true, false);
    check("when: object.spec.replicas > 5", info("get", "", "a", "pods", "x"), "", "", "", false, false);
    check("when: \"request.namespace == 'a' && identity.user == 'bot'\"", create(), "", "", "", true, true);
}
