//! Is what was asked for no wider than what may be given?

use portcullis_core::{RequestInfo, ResourceRule};

/// Subresources that no wildcard covers (see [`ResourceRule`]).
const CONNECT: [&str; 4] = ["exec", "attach", "portforward", "proxy"];

/// Whether everything `wanted` allows is allowed by `ceiling`.
///
/// Each combination of verb, group, resource, namespace and name must be covered by a single rule; the answer is never
/// wrongly yes, and wrongly no only for wildcards that several rules cover together.
pub fn covers(ceiling: &[ResourceRule], wanted: &ResourceRule) -> bool {
    let any = ["*".to_owned()];
    let or_any = |list: &[String]| if list.is_empty() { any.to_vec() } else { list.to_vec() };
    wanted.verbs.iter().all(|verb| {
        let paths = wanted.non_resource_urls.iter().all(|path| {
            ceiling.iter().any(|rule| {
                covers_word(&rule.verbs, verb)
                    && rule.non_resource_urls.iter().any(|other| covers_path(other, path))
            })
        });
        paths
            && wanted.api_groups.iter().all(|group| {
                wanted.resources.iter().all(|resource| {
                    or_any(&wanted.namespaces).iter().all(|namespace| {
                        or_any(&wanted.resource_names).iter().all(|name| {
                            ceiling.iter().any(|rule| {
                                covers_word(&rule.verbs, verb)
                                    && covers_word(&rule.api_groups, group)
                                    && rule.resources.iter().any(|other| covers_resource(other, resource))
                                    && covers_word(&or_any(&rule.namespaces), namespace)
                                    && covers_name(&rule.resource_names, &wanted.resource_names, name)
                            })
                        })
                    })
                })
            })
    })
}

/// What every identity may ask, whatever its grant: what RBAC gives to `system:discovery`, `system:basic-user` and
/// `system:public-info-viewer`. Clients cannot work without it, and it shows nothing of the cluster's content.
pub fn is_always_allowed(info: &RequestInfo) -> bool {
    const PATHS: [&str; 6] = ["/api", "/apis", "/openapi", "/version", "/healthz", "/livez"];
    const REVIEWS: [(&str, &str); 3] = [
        ("authorization.k8s.io", "selfsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectrulesreviews"),
        ("authentication.k8s.io", "selfsubjectreviews"),
    ];
    if info.is_resource_request {
        return info.verb == "create" && REVIEWS.contains(&(info.api_group.as_str(), info.resource.as_str()));
    }
    info.verb == "get"
        && (info.path == "/readyz"
            || PATHS.iter().any(|allowed| {
                info.path.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }))
}

fn covers_word(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

/// An object's name is never a wildcard: `*` in a list of names is a name no object has.
fn covers_name(ceiling: &[String], wanted: &[String], name: &str) -> bool {
    ceiling.is_empty() || (!wanted.is_empty() && ceiling.iter().any(|item| item == name))
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
    fn discovery_is_always_allowed_and_nothing_else() {
        let path = |path: &str| RequestInfo::non_resource(&http::Method::GET, path);
        assert!(is_always_allowed(&path("/apis")) && is_always_allowed(&path("/openapi/v3/apis/apps/v1")));
        assert!(!is_always_allowed(&path("/apisecrets")) && !is_always_allowed(&path("/metrics")));
        let review = RequestInfo {
            is_resource_request: true,
            verb: "create".into(),
            api_group: "authorization.k8s.io".into(),
            resource: "selfsubjectaccessreviews".into(),
            ..RequestInfo::default()
        };
        assert!(is_always_allowed(&review));
        assert!(!is_always_allowed(&RequestInfo { resource: "subjectaccessreviews".into(), ..review }));
    }
}
