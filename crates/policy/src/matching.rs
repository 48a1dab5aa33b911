//! Whether a rule is about a request.
//!
//! Rules that deny or hold read *wide*, rules that allow read *narrow* (see [`MatchConfig`]): what a request may also
//! mean counts against it, never for it.

use portcullis_core::{Refusal, RequestInfo};
use serde_json::Value;

use crate::{
    body::{Parsed, has_field},
    config::{ActionName, MatchConfig},
    expression::Expression,
    facts::{BodyState, Facts},
    text::Glob,
};

/// Built-in resources that are in no namespace: a list of them is not a list over all namespaces.
const CLUSTER_SCOPED: [&str; 28] = [
    "apiservices",
    "certificatesigningrequests",
    "clusterrolebindings",
    "clusterroles",
    "clustertrustbundles",
    "componentstatuses",
    "csidrivers",
    "csinodes",
    "customresourcedefinitions",
    "deviceclasses",
    "flowschemas",
    "ingressclasses",
    "ipaddresses",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "mutatingwebhookconfigurations",
    "namespaces",
    "nodes",
    "persistentvolumes",
    "priorityclasses",
    "prioritylevelconfigurations",
    "runtimeclasses",
    "servicecidrs",
    "storageclasses",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "validatingwebhookconfigurations",
    "volumeattachments",
];

/// Whether a rule is about a request.
#[derive(Debug)]
pub(crate) enum Applies {
    /// It is not.
    No,
    /// It is; says so if only because something could not be read or evaluated.
    Yes {
        /// Why it counts as matching although nobody could tell.
        unsure: Option<String>,
    },
    /// That depends on the body, which nobody has read yet.
    NeedsBody,
    /// Nobody can tell, and the request is refused for it.
    Refused(Refusal),
}

/// How a rule reads a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Wide,
    Narrow,
}

/// Whether a rule with these conditions and this action is about the request.
pub(crate) fn applies(
    matches: &MatchConfig,
    when: Option<&Expression>,
    action: ActionName,
    facts: &Facts<'_>,
) -> Applies {
    let reading = match action {
        ActionName::Allow => Reading::Narrow,
        ActionName::Deny | ActionName::Hold => Reading::Wide,
    };
    if !head_matches(matches, facts, reading) {
        return Applies::No;
    }
    let named = names_match(&matches.names, facts, reading);
    if matches!(named, Applies::No | Applies::NeedsBody | Applies::Refused(_)) {
        return named;
    }
    let reads_object = when.is_some_and(Expression::reads_object);
    if !matches.fields.is_empty() || reads_object {
        let bytes = match facts.body() {
            BodyState::Unread => return Applies::NeedsBody,
            BodyState::Absent => return Applies::No,
            BodyState::Read(bytes) => bytes,
        };
        match facts.parsed(bytes) {
            Parsed::Malformed(problem) => return Applies::Refused(unreadable(problem)),
            Parsed::Opaque(media_type) => return opaque(media_type, reading),
            Parsed::Object { value, is_json_patch } => {
                if !matches.fields.is_empty() && !has_field(value, *is_json_patch, &matches.fields) {
                    return Applies::No;
                }
            }
        }
    }
    match when.map(|expression| expression.holds(|name| facts.variable(name))) {
        None => named,
        Some(Ok(true)) => named,
        Some(Ok(false)) => Applies::No,
        Some(Err(_)) if reading == Reading::Narrow => Applies::No,
        Some(Err(problem)) => Applies::Yes { unsure: Some(format!("its condition failed: {problem}")) },
    }
}

fn unreadable(problem: &str) -> Refusal {
    Refusal::bad_request(
        "policy/unreadable-body",
        format!("a policy rule must read the body of this request, and it is {problem}"),
    )
}

fn opaque(media_type: &str, reading: Reading) -> Applies {
    match reading {
        Reading::Narrow => Applies::No,
        Reading::Wide => {
            Applies::Yes { unsure: Some(format!("it cannot read a body of type {media_type:?}; send JSON")) }
        }
    }
}

fn head_matches(matches: &MatchConfig, facts: &Facts<'_>, reading: Reading) -> bool {
    let (info, identity) = (facts.info, facts.identity);
    let verbs_match = matches.verbs.is_empty()
        || matches.verbs.iter().any(|verb| verb_covers(verb.as_str(), facts, reading));
    let is_about_resources = !matches.resources.is_empty() || !matches.api_groups.is_empty();
    verbs_match
        && (!is_about_resources || info.is_resource_request)
        && any(&matches.api_groups, &info.api_group)
        && resources_match(matches, info, reading)
        && any(&matches.clusters, &info.cluster)
        && namespaces_match(&matches.namespaces, info, reading)
        && any(&matches.users, &identity.user)
        && (matches.groups.is_empty() || identity.groups.iter().any(|group| any(&matches.groups, group)))
        && any(&matches.issuers, &identity.issuer)
        && (matches.profiles.is_empty()
            || facts.grant.is_some_and(|grant| any(&matches.profiles, &grant.profile)))
        && matches.user_agent.as_ref().is_none_or(|pattern| pattern.is_in(&facts.user_agent))
        && matches.path.as_ref().is_none_or(|pattern| pattern.is_in(&info.path))
        && matches
            .command
            .as_ref()
            .is_none_or(|pattern| info.subresource == "exec" && pattern.is_in(&facts.command))
}

/// Whether any glob covers the name; no globs do not narrow.
fn any(globs: &[Glob], name: &str) -> bool {
    globs.is_empty() || globs.iter().any(|glob| glob.covers(name))
}

fn verb_covers(verb: &str, facts: &Facts<'_>, reading: Reading) -> bool {
    let requested = facts.info.effective_verb();
    if verb == "*" || verb == requested {
        return true;
    }
    reading == Reading::Wide
        && match verb {
            "create" => facts.is_apply(),
            "delete" => requested == "deletecollection" || is_eviction(facts.info),
            _ => false,
        }
}

fn is_eviction(info: &RequestInfo) -> bool {
    info.resource == "pods" && info.subresource == "eviction"
}

fn resources_match(matches: &MatchConfig, info: &RequestInfo, reading: Reading) -> bool {
    let wide = reading == Reading::Wide;
    let evicts = wide && is_eviction(info) && matches.verbs.iter().any(|verb| verb.as_str() == "delete");
    let may_connect = wide || !info.is_connect();
    matches.resources.is_empty() && may_connect
        || matches.resources.iter().any(|pattern| match pattern.split_once('/') {
            None if pattern == "*" => may_connect,
            None => pattern == &info.resource && (info.subresource.is_empty() || evicts),
            Some((resource, subresource)) => {
                (resource == "*" || resource == info.resource)
                    && (subresource == info.subresource
                        || (subresource == "*" && !info.subresource.is_empty() && may_connect))
            }
        })
}

fn namespaces_match(namespaces: &[Glob], info: &RequestInfo, reading: Reading) -> bool {
    let is_over_all = info.is_resource_request
        && info.namespace.is_empty()
        && is_collection(info)
        && !CLUSTER_SCOPED.contains(&info.resource.as_str());
    let is_somewhere = !info.namespace.is_empty() || namespaces.is_empty();
    (is_somewhere && any(namespaces, &info.namespace)) || (reading == Reading::Wide && is_over_all)
}

fn is_collection(info: &RequestInfo) -> bool {
    ["list", "watch", "deletecollection"].contains(&info.verb.as_str())
}

fn names_match(names: &[Glob], facts: &Facts<'_>, reading: Reading) -> Applies {
    let info = facts.info;
    let yes = || Applies::Yes { unsure: None };
    if names.is_empty() || (!info.name.is_empty() && any(names, &info.name)) {
        return yes();
    }
    if !info.name.is_empty() || !info.is_resource_request {
        return Applies::No;
    }
    if info.verb != "create" {
        let may_be_among_them = reading == Reading::Wide && is_collection(info);
        return if may_be_among_them { yes() } else { Applies::No };
    }
    match facts.body() {
        BodyState::Unread => Applies::NeedsBody,
        BodyState::Absent => Applies::No,
        BodyState::Read(bytes) => match facts.parsed(bytes) {
            Parsed::Malformed(problem) => Applies::Refused(unreadable(problem)),
            Parsed::Opaque(media_type) => opaque(media_type, reading),
            Parsed::Object { value, .. } => match value.pointer("/metadata/name").and_then(Value::as_str) {
                Some(name) if !name.is_empty() => {
                    if any(names, name) {
                        yes()
                    } else {
                        Applies::No
                    }
                }
                // The server will make up a name (`generateName`): it may be any.
                _ if reading == Reading::Wide => yes(),
                _ => Applies::No,
            },
        },
    }
}
