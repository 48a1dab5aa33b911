//! Role-based access control, and nothing else: what no rule allows is forbidden.
//! (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/>)

use std::sync::Arc;

use serde_json::Value;

use super::{
    authn::UserInfo,
    kinds,
    object::{items, meta, text},
    store::Objects,
    target::{ResourceTarget, Target},
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// What somebody wants to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The path of a non-resource request; then the other fields but the verb are empty.
    pub(crate) path: Option<String>,
}

impl Attributes {
    pub(crate) fn resource(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Self {
        Self {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Self::default()
        }
    }

    pub(crate) fn of(target: &Target, method: &http::Method) -> Self {
        match target {
            Target::Path(path) => Self {
                verb: method.as_str().to_ascii_lowercase(),
                path: Some(path.clone()),
                ..Self::default()
            },
            Target::Resource(target) => Self::of_resource(target.verb, target),
        }
    }

    pub(crate) fn of_resource(verb: &str, target: &ResourceTarget) -> Self {
        let name = if target.name.is_empty() { &target.selected } else { &target.name };
        Self {
            subresource: target.subresource.clone(),
            ..Self::resource(verb, &target.group, &target.resource, &target.namespace, name)
        }
    }

    /// The message of a refusal, in the API server's own words.
    pub(crate) fn refusal(&self, user: &UserInfo) -> String {
        let verb = &self.verb;
        let user = &user.username;
        if let Some(path) = &self.path {
            return format!("forbidden: User {user:?} cannot {verb} path {path:?}");
        }
        let resource = self.qualified();
        let (path, group) = (self.resource_path(), &self.group);
        let qualified = if self.name.is_empty() { resource } else { format!("{resource} {:?}", self.name) };
        let scope = match self.namespace.is_empty() || self.resource == "namespaces" {
            true if self.resource == "namespaces" && !self.namespace.is_empty() => {
                format!("in the namespace {:?}", self.namespace)
            }
            true => "at the cluster scope".to_owned(),
            false => format!("in the namespace {:?}", self.namespace),
        };
        format!(
            "{qualified} is forbidden: User {user:?} cannot {verb} resource {path:?} in API group {group:?} {scope}"
        )
    }

    fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.clone()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    fn resource_path(&self) -> String {
        match self.subresource.is_empty() {
            true => self.resource.clone(),
            false => format!("{}/{}", self.resource, self.subresource),
        }
    }
}

/// The rules a user has, and where.
pub(crate) struct Rules(Vec<(String, Arc<Value>)>);

/// Collects the rules bound to `user`: those of cluster role bindings and, if `namespace` is not empty, those of role
/// bindings in it.
pub(crate) fn rules_of(store: &impl Objects, user: &UserInfo, namespace: &str) -> Rules {
    let mut rules = Vec::new();
    let mut collect = |plural: &str, of: &str| {
        let Some(kind) = kinds::find(GROUP, plural) else { return };
        for binding in store.list_of(kind, of) {
            let of = meta(&binding, "namespace").to_owned();
            if items(&binding["subjects"]).iter().any(|subject| is_subject(subject, user, &of))
                && let Some(role) = role_of(store, &binding)
            {
                rules.push((of, role));
            }
        }
    };
    collect("clusterrolebindings", "");
    if !namespace.is_empty() {
        collect("rolebindings", namespace);
    }
    Rules(rules)
}

fn role_of(store: &impl Objects, binding: &Value) -> Option<Arc<Value>> {
    let role = &binding["roleRef"];
    match text(&role["kind"]) {
        "Role" => store.object(kinds::find(GROUP, "roles")?, meta(binding, "namespace"), text(&role["name"])),
        "ClusterRole" => store.object(kinds::find(GROUP, "clusterroles")?, "", text(&role["name"])),
        _ => None,
    }
}

fn is_subject(subject: &Value, user: &UserInfo, namespace: &str) -> bool {
    let name = text(&subject["name"]);
    match text(&subject["kind"]) {
        "User" => user.username == name,
        "Group" => user.groups.iter().any(|group| group == name),
        "ServiceAccount" => {
            let of = subject["namespace"].as_str().unwrap_or(namespace);
            user.username == format!("system:serviceaccount:{of}:{name}")
        }
        _ => false,
    }
}

/// Whether the user may.
pub(crate) fn authorize(store: &impl Objects, user: &UserInfo, wanted: &Attributes) -> bool {
    if is_master(user) {
        return true;
    }
    let namespace = if wanted.path.is_some() { "" } else { &wanted.namespace };
    rules_of(store, user, namespace).each().any(|rule| allows(rule, wanted))
}

/// `system:masters` may do everything, before any rule is looked at.
pub(crate) fn is_master(user: &UserInfo) -> bool {
    user.groups.iter().any(|group| group == "system:masters")
}

impl Rules {
    pub(crate) fn each(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().flat_map(|(_, role)| items(&role["rules"]))
    }
}

fn has(list: &Value, wanted: &str) -> bool {
    items(list).iter().any(|item| item == "*" || item == wanted)
}

/// Whether one rule allows what is wanted.
pub(crate) fn allows(rule: &Value, wanted: &Attributes) -> bool {
    if !has(&rule["verbs"], &wanted.verb) {
        return false;
    }
    if let Some(path) = &wanted.path {
        return items(&rule["nonResourceURLs"]).iter().any(|pattern| path_matches(text(pattern), path));
    }
    let named = items(&rule["resourceNames"]);
    has(&rule["apiGroups"], &wanted.group)
        && items(&rule["resources"]).iter().any(|resource| resource_matches(text(resource), wanted))
        && (named.is_empty() || named.iter().any(|name| *name == wanted.name.as_str()))
}

fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

fn resource_matches(rule: &str, wanted: &Attributes) -> bool {
    rule == "*"
        || rule == wanted.resource_path()
        || (!wanted.subresource.is_empty() && rule.strip_prefix("*/") == Some(wanted.subresource.as_str()))
}

/// The first rule of `wanted` that goes beyond what `held` allows: nobody may hand out what they do not have.
/// (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping>)
pub(crate) fn beyond<'a>(held: &Rules, wanted: &'a [Value]) -> Option<&'a Value> {
    wanted.iter().find(|rule| !single(rule).all(|one| held.each().any(|own| covers(own, &one))))
}

/// A rule's single permissions: one verb, one group, one resource, one name each; or one verb and one path.
fn single(rule: &Value) -> impl Iterator<Item = [String; 5]> {
    let list = |field: &str| -> Vec<String> {
        items(&rule[field]).iter().map(|item| text(item).to_owned()).collect()
    };
    let names = match list("resourceNames") {
        names if names.is_empty() => vec![String::new()],
        names => names,
    };
    let (groups, resources, paths) = (list("apiGroups"), list("resources"), list("nonResourceURLs"));
    let mut all = Vec::new();
    for verb in list("verbs") {
        for path in &paths {
            all.push([verb.clone(), String::new(), String::new(), String::new(), path.clone()]);
        }
        for group in &groups {
            for resource in &resources {
                for name in &names {
                    all.push([verb.clone(), group.clone(), resource.clone(), name.clone(), String::new()]);
                }
            }
        }
    }
    all.into_iter()
}

/// Whether a rule covers a single permission. A wildcard is covered by a wildcard only.
fn covers(own: &Value, [verb, group, resource, name, path]: &[String; 5]) -> bool {
    if !has(&own["verbs"], verb) {
        return false;
    }
    if !path.is_empty() {
        return items(&own["nonResourceURLs"])
            .iter()
            .any(|pattern| text(pattern) == path || path_matches(text(pattern), path));
    }
    let subresource = resource.split_once('/').map(|(_, sub)| sub);
    let covered = items(&own["resources"]).iter().map(text).any(|rule| {
        rule == "*" || rule == resource || (subresource.is_some() && rule.strip_prefix("*/") == subresource)
    });
    let names = items(&own["resourceNames"]);
    covered
        && has(&own["apiGroups"], group)
        && (names.is_empty() || names.iter().any(|one| *one == name.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(rule: Value, verb: &str, resource: &str, name: &str, expected: bool) {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let wanted = Attributes {
            subresource: subresource.into(),
            ..Attributes::resource(verb, "", resource, "shop", name)
        };
        assert_eq!(allows(&rule, &wanted), expected, "{rule} {wanted:?}");
    }

    #[test]
    fn rules_allow_what_they_say() {
        let pods = || json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/log"], "resourceNames": ["web"]});
        check(pods(), "get", "pods", "web", true);
        check(pods(), "get", "pods", "db", false);
        check(pods(), "list", "pods", "", false);
        check(pods(), "get", "pods/log", "web", true);
        check(pods(), "get", "pods/exec", "web", false);
        let all = || json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
        check(all(), "create", "pods/exec", "web", true);
        let other = json!({"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"]});
        check(other, "get", "pods", "web", false);
    }

    #[test]
    fn nobody_hands_out_what_they_do_not_have() {
        let held = |rule: Value| Rules(vec![(String::new(), Arc::new(json!({"rules": [rule]})))]);
        let view = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]});
        let admin = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
        assert!(beyond(&held(admin.clone()), &[view.clone(), admin.clone()]).is_none());
        assert!(beyond(&held(view.clone()), std::slice::from_ref(&view)).is_none());
        assert_eq!(beyond(&held(view.clone()), &[view, admin.clone()]), Some(&admin));
    }
}
