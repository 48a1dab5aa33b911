//! Is what was asked for no wider than what may be given?

use portcullis_core::{RequestInfo, ResourceRule};

use crate::grants::GrantError;

/// Subresources that no wildcard covers (see [`ResourceRule`]).
const CONNECT: [&str; 4] = ["exec", "attach", "portforward", "proxy"];

/// The most rules one request may ask for, and the most entries each list of a rule may have.
const MAX_RULES: usize = 64;
const MAX_ENTRIES: usize = 128;
/// The most combinations of verb, group, resource, namespace and name that are compared one by one.
const MAX_COMBINATIONS: usize = 10_000;

/// Whether everything `wanted` allows is allowed by `ceiling`.
///
/// One rule covers all of it, or each combination of verb, group, resource, namespace and name is covered by a single rule. The
/// answer is never wrongly yes, and wrongly no only for wildcards that several rules cover together, and for more than
/// 10,000 combinations that several rules cover together.
pub fn covers(ceiling: &[ResourceRule], wanted: &ResourceRule) -> bool {
    ceiling.iter().any(|rule| covers_whole(rule, wanted))
        || (combinations(wanted) <= MAX_COMBINATIONS && covers_each(ceiling, wanted))
}

/// Whether `ceiling` covers all that is `wanted`, in a time that the requester cannot choose.
pub(crate) fn within(ceiling: &[ResourceRule], wanted: &[ResourceRule]) -> Result<(), GrantError> {
    if wanted.len() > MAX_RULES {
        return Err(GrantError::TooMuch(format!("at most {MAX_RULES} rules")));
    }
    if wanted.iter().flat_map(lists).any(|list| list.len() > MAX_ENTRIES) {
        return Err(GrantError::TooMuch(format!("at most {MAX_ENTRIES} entries in each list of a rule")));
    }
    let mut left = MAX_COMBINATIONS;
    for rule in wanted.iter().filter(|rule| !ceiling.iter().any(|other| covers_whole(other, rule))) {
        left = left.checked_sub(combinations(rule)).ok_or_else(|| {
            GrantError::TooMuch(format!(
                "no single rule of the profile covers it, and it has more than {MAX_COMBINATIONS} combinations; ask for less"
            ))
        })?;
        if !covers_each(ceiling, rule) {
            return Err(GrantError::TooWide(serde_json::to_string(rule).unwrap_or_default()));
        }
    }
    Ok(())
}

/// What Kubernetes gives to every identity by `system:discovery`, `system:basic-user` and `system:public-info-viewer`: which APIs
/// there are, and what oneself may do. For [`JitLayer::always_allow`](crate::JitLayer::always_allow) in front of an API server,
/// whose clients cannot work without it; it shows nothing of the cluster's content.
pub fn kubernetes_discovery(info: &RequestInfo) -> bool {
    const PUBLIC: [&str; 5] = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
    const REVIEWS: [(&str, &str); 3] = [
        ("authorization.k8s.io", "selfsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectrulesreviews"),
        ("authentication.k8s.io", "selfsubjectreviews"),
    ];
    if info.is_resource_request {
        let asked = (info.api_group.as_str(), info.resource.as_str());
        return info.verb == "create" && info.subresource.is_empty() && REVIEWS.contains(&asked);
    }
    // Below a group's version there are resources, however the path was classified.
    let at_most = |prefix: &str, segments: usize| match info.path.strip_prefix(prefix) {
        Some("") => true,
        Some(rest) => rest.starts_with('/') && rest.trim_end_matches('/').matches('/').count() <= segments,
        None => false,
    };
    // What some server might read as another path is not among them.
    let is_plain = !info.path.contains('%') && info.path.split('/').all(|part| part != "." && part != "..");
    info.verb == "get"
        && is_plain
        && (PUBLIC.contains(&info.path.as_str())
            || at_most("/api", 1)
            || at_most("/apis", 2)
            || at_most("/openapi", usize::MAX))
}

fn lists(rule: &ResourceRule) -> [&Vec<String>; 6] {
    let ResourceRule { verbs, api_groups, resources, namespaces, resource_names, non_resource_urls } = rule;
    [verbs, api_groups, resources, namespaces, resource_names, non_resource_urls]
}

fn combinations(rule: &ResourceRule) -> usize {
    let or_any = |list: &[String]| list.len().max(1);
    let objects =
        [rule.api_groups.len(), rule.resources.len(), or_any(&rule.namespaces), or_any(&rule.resource_names)];
    let objects = objects.into_iter().fold(1, usize::saturating_mul);
    rule.verbs.len().saturating_mul(objects.saturating_add(rule.non_resource_urls.len()))
}

/// Whether one rule covers another, list by list.
fn covers_whole(ceiling: &ResourceRule, wanted: &ResourceRule) -> bool {
    wanted.verbs.iter().all(|verb| covers_word(&ceiling.verbs, verb))
        && wanted.api_groups.iter().all(|group| covers_word(&ceiling.api_groups, group))
        && wanted.resources.iter().all(|resource| covers_resource_of(ceiling, resource))
        && or_any(&wanted.namespaces).all(|namespace| covers_namespace(ceiling, namespace))
        && or_any(&wanted.resource_names).all(|name| covers_name(ceiling, name))
        && wanted.non_resource_urls.iter().all(|path| covers_path_of(ceiling, path))
}

/// Whether several rules together cover another, combination by combination.
fn covers_each(ceiling: &[ResourceRule], wanted: &ResourceRule) -> bool {
    let covers_one = |verb, group, resource, namespace, name| {
        ceiling.iter().any(|rule| {
            covers_word(&rule.verbs, verb)
                && covers_word(&rule.api_groups, group)
                && covers_namespace(rule, namespace)
                && covers_name(rule, name)
                && covers_resource_of(rule, resource)
        })
    };
    wanted.verbs.iter().all(|verb| {
        let paths = wanted.non_resource_urls.iter().all(|path| {
            ceiling.iter().any(|rule| covers_word(&rule.verbs, verb) && covers_path_of(rule, path))
        });
        paths
            && wanted.api_groups.iter().all(|group| {
                wanted.resources.iter().all(|resource| {
                    or_any(&wanted.namespaces).all(|namespace| {
                        or_any(&wanted.resource_names)
                            .all(|name| covers_one(verb, group, resource, namespace, name))
                    })
                })
            })
    })
}

/// The entries of a list; `None`, which means any, for one that is empty.
fn or_any(list: &[String]) -> impl Iterator<Item = Option<&str>> {
    let any = list.is_empty().then_some(None);
    any.into_iter().chain(list.iter().map(|entry| Some(entry.as_str())))
}

fn covers_namespace(ceiling: &ResourceRule, wanted: Option<&str>) -> bool {
    ceiling.namespaces.is_empty() || covers_word(&ceiling.namespaces, wanted.unwrap_or("*"))
}

/// An object's name is never a wildcard: `*` in a list of names is a name no object has.
fn covers_name(ceiling: &ResourceRule, wanted: Option<&str>) -> bool {
    ceiling.resource_names.is_empty()
        || wanted.is_some_and(|name| ceiling.resource_names.iter().any(|item| item == name))
}

fn covers_resource_of(ceiling: &ResourceRule, wanted: &str) -> bool {
    ceiling.resources.iter().any(|resource| covers_resource(resource, wanted))
}

fn covers_path_of(ceiling: &ResourceRule, wanted: &str) -> bool {
    ceiling.non_resource_urls.iter().any(|path| covers_path(path, wanted))
}

fn covers_word(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn covers_path(ceiling: &str, wanted: &str) -> bool {
    match ceiling.strip_suffix('*') {
        Some(prefix) => wanted.strip_suffix('*').unwrap_or(wanted).starts_with(prefix),
        None => ceiling == wanted,
    }
}

fn covers_resource(ceiling: &str, wanted: &str) -> bool {
    if ceiling == wanted {
        return true;
    }
    let connects = |subresource: &str| CONNECT.contains(&subresource);
    match (ceiling.split_once('/'), wanted.split_once('/')) {
        (None, None) => ceiling == "*",
        (None, Some((_, subresource))) => ceiling == "*" && !connects(subresource),
        (Some(_), None) => false,
        (Some((resource, subresource)), Some((wanted_resource, wanted_subresource))) => {
            (resource == "*" || resource == wanted_resource)
                && (subresource == wanted_subresource
                    || (subresource == "*" && !connects(wanted_subresource)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;

    fn words(from: &'static [&'static str], at_least: usize) -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec(select(from).prop_map(str::to_owned), at_least..3)
    }

    fn rule() -> impl Strategy<Value = ResourceRule> {
        (
            words(&["get", "list", "create", "*"], 1),
            words(&["", "apps", "*"], 0),
            words(&["pods", "secrets", "pods/log", "pods/exec", "pods/*", "*/log", "*/exec", "*/*", "*"], 0),
            words(&["shop", "bank", "*"], 0),
            words(&["web", "db", "*"], 0),
            words(&["/metrics", "/logs/*", "/logs/a", "*"], 0),
        )
            .prop_map(
                |(verbs, api_groups, resources, namespaces, resource_names, non_resource_urls)| {
                    ResourceRule {
                        verbs,
                        api_groups,
                        resources,
                        namespaces,
                        resource_names,
                        non_resource_urls,
                    }
                },
            )
    }

    fn request() -> impl Strategy<Value = RequestInfo> {
        let one = |from: &'static [&'static str]| select(from).prop_map(str::to_owned);
        (
            any::<bool>(),
            one(&["get", "list", "create", "delete"]),
            one(&["", "apps"]),
            one(&["pods", "secrets", "nodes"]),
            one(&["", "log", "exec", "status"]),
            one(&["", "shop", "bank"]),
            one(&["", "web", "db", "*"]),
            one(&["/metrics", "/logs/a", "/logs/b", "/x"]),
        )
            .prop_map(
                |(is_resource_request, verb, api_group, resource, subresource, namespace, name, path)| {
                    RequestInfo {
                        is_resource_request,
                        verb,
                        api_group,
                        resource,
                        subresource,
                        namespace,
                        name,
                        path,
                        ..RequestInfo::default()
                    }
                },
            )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// The one property that matters: nothing gets through a narrower rule that its ceiling would stop.
        #[test]
        fn what_is_covered_allows_nothing_more(
            ceiling in proptest::collection::vec(rule(), 0..3),
            wanted in rule(),
            request in request(),
        ) {
            if covers(&ceiling, &wanted) && wanted.matches(&request) {
                prop_assert!(ceiling.iter().any(|rule| rule.matches(&request)), "{request:?}");
            }
        }

        #[test]
        fn a_rule_covers_itself(rule in rule()) {
            prop_assert!(covers(std::slice::from_ref(&rule), &rule));
        }
    }

    #[test]
    fn narrower_is_covered_and_wider_is_not() {
        let rule = |json: &str| serde_json::from_str::<ResourceRule>(json).unwrap();
        let ceiling = [rule(
            r#"{"verbs":["get","list"],"apiGroups":["","apps"],"resources":["*"],"namespaces":["shop"]}"#,
        )];
        let check =
            |json: &str, expected: bool| assert_eq!(covers(&ceiling, &rule(json)), expected, "{json}");
        check(
            r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods","pods/log"],"namespaces":["shop"]}"#,
            true,
        );
        check(r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}"#, false);
        check(r#"{"verbs":["delete"],"apiGroups":[""],"resources":["pods"],"namespaces":["shop"]}"#, false);
        check(r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods/exec"],"namespaces":["shop"]}"#, false);
        check(r#"{"verbs":["*"],"apiGroups":[""],"resources":["pods"],"namespaces":["shop"]}"#, false);
    }

    #[test]
    fn several_rules_cover_together_what_none_covers_alone() {
        let rule = |verbs: &[&str], namespaces: &[&str], names: usize| ResourceRule {
            verbs: verbs.iter().map(|&verb| verb.into()).collect(),
            api_groups: vec!["".into()],
            resources: vec!["pods".into()],
            namespaces: namespaces.iter().map(|&namespace| namespace.into()).collect(),
            resource_names: (0..names).map(|name| name.to_string()).collect(),
            ..ResourceRule::default()
        };
        let ceiling = [rule(&["get"], &["shop"], 0), rule(&["get"], &["bank"], 0)];
        assert!(covers(&ceiling, &rule(&["get"], &["shop", "bank"], 5_000)));
        assert!(!covers(&ceiling, &rule(&["get"], &["shop", "bank"], 5_001)), "too much to compare");
        assert!(covers(&ceiling, &rule(&["get"], &["shop"], 20_000)), "one rule covers it all");
        assert!(!covers(&ceiling, &rule(&["get", "list"], &["shop"], 1)));
    }

    #[test]
    fn no_request_takes_long_to_compare() {
        let many = |prefix: &str| (0..128).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
        let wide = ResourceRule {
            verbs: many("verb"),
            api_groups: many("group"),
            resources: many("resource"),
            namespaces: many("namespace"),
            resource_names: many("name"),
            ..ResourceRule::default()
        };
        // Half of it is in each: only 34 thousand million comparisons would tell.
        let half = |keep: fn(usize) -> bool| {
            let verbs = wide.verbs.iter().enumerate().filter(|(place, _)| keep(*place));
            ResourceRule { verbs: verbs.map(|(_, verb)| verb.clone()).collect(), ..wide.clone() }
        };
        let ceiling = [half(|place| place < 64), half(|place| place >= 64)];
        let check = |wanted: &[ResourceRule], expected: &str| match within(&ceiling, wanted) {
            Ok(()) => assert_eq!(expected, ""),
            Err(error) => assert!(error.to_string().contains(expected) && !expected.is_empty(), "{error}"),
        };
        check(&ceiling, "");
        check(std::slice::from_ref(&wide), "more than 10000 combinations");
        assert!(!covers(&ceiling, &wide));
        check(&vec![ceiling[0].clone(); 65], "at most 64 rules");
        check(&[ResourceRule { verbs: vec!["verb1".into(); 129], ..wide.clone() }], "at most 128 entries");
        // What is too much for one rule is too much for several.
        let part = |namespaces: usize| ResourceRule {
            verbs: vec!["verb1".into(), "verb100".into()],
            api_groups: vec!["group1".into()],
            resources: vec!["resource1".into()],
            namespaces: wide.namespaces[..namespaces].to_vec(),
            resource_names: wide.resource_names.clone(),
            ..ResourceRule::default()
        };
        check(&[part(20)], "");
        check(&[part(20), part(20)], "more than 10000 combinations");
    }

    #[test]
    fn discovery_is_what_everybody_may_see() {
        let get = |path: &str| kubernetes_discovery(&RequestInfo::non_resource(&http::Method::GET, path));
        for path in
            ["/api", "/api/", "/api/v1", "/apis", "/apis/apps/v1", "/openapi/v3/apis/apps/v1", "/version/"]
        {
            assert!(get(path), "{path}");
        }
        for path in [
            "/",
            "/apisecrets",
            "/api/v1/secrets",
            "/api//secrets",
            "/apis/apps/v1/deployments",
            "/apis/apps/v1/namespaces/shop/deployments",
            "/apis/../secrets",
            "/openapi/%2e%2e/api/v1/secrets",
            "/healthz/etcd",
            "/metrics",
        ] {
            assert!(!get(path), "{path}");
        }
        assert!(!kubernetes_discovery(&RequestInfo::non_resource(&http::Method::POST, "/api")));
        let review = RequestInfo {
            is_resource_request: true,
            verb: "create".into(),
            api_group: "authorization.k8s.io".into(),
            resource: "selfsubjectaccessreviews".into(),
            ..RequestInfo::default()
        };
        assert!(kubernetes_discovery(&review));
        assert!(!kubernetes_discovery(&RequestInfo { resource: "subjectaccessreviews".into(), ..review }));
    }
}
