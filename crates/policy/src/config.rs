//! A policy as people write it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    expression::Expression,
    text::{DurationText, FieldCondition, Glob, Pattern, Verb},
};

/// The rules that decide what happens to a request.
///
/// Your rules are read in order, and the first that matches decides. What they allow, and what none of them matches, is
/// then judged by the built-in `baseline` rules, and what those do not match either by `default`. A rule of yours that
/// allows something therefore does not switch off the baseline; `overrides` does, by name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// What happens to a request that no rule matches.
    pub default: DefaultAction,
    /// Who decides on held requests whose rule names nobody, those of the baseline included.
    pub approvers: ApproversConfig,
    /// The built-in rules against ways around the gateway.
    pub baseline: BaselineConfig,
    /// The rules, first match first.
    pub rules: Vec<RuleConfig>,
}

/// What happens to a request that no rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DefaultAction {
    /// It passes; the cluster's own RBAC still decides.
    #[default]
    Allow,
    /// It is refused.
    Deny,
}

/// Which of the built-in rules are in force.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BaselineConfig {
    /// Whether the pack is in force at all.
    pub enabled: bool,
    /// Rules of the pack that are not, by name (`baseline/rbac-writes`).
    pub disable: Vec<String>,
}

impl Default for BaselineConfig {
    fn default() -> Self {
        Self { enabled: true, disable: Vec::new() }
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleConfig {
    /// Its name: in refusals, tickets and the audit log.
    pub name: String,
    /// Which requests it is about; all of them, if empty.
    #[serde(rename = "match", default)]
    pub matches: MatchConfig,
    /// A CEL condition over `object`, `request`, `identity` and `grant`. A rule that reads `object` matches only requests
    /// that carry a body. An expression that fails counts as true in a rule that denies or holds, and as false in one
    /// that allows: ask with `has(…)` first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Expression>,
    /// What happens to them.
    pub action: ActionName,
    /// What people are told: in the refusal, or on the ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// On what terms they are held; for `action: hold`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldConfig>,
    /// Names of the mask rule sets for the response; none named means all defaults.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mask: Vec<String>,
    /// Baseline rules that do not judge what this rule allows, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ActionName {
    /// Lets the request pass.
    Allow,
    /// Refuses it.
    Deny,
    /// Asks people first.
    Hold,
}

/// Which requests a rule is about: those that meet every condition that is given.
///
/// Rules that deny or hold read *wide*, rules that allow read *narrow*, so that there is no way around a refusal and no
/// accident in a permission. Wide: `create` covers server-side apply; `delete` covers `deletecollection`, and
/// for `pods` an eviction; a namespace or name covers a request over all of them; `resources: ["*"]` covers connections. Narrow: exactly
/// what is written, and connections (`pods/exec`, `pods/attach`, `pods/portforward`, `*/proxy`) only where they are named.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MatchConfig {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or the lower-cased method of a
    /// request for no Kubernetes resource; `*` for any. Connections are `create`, whatever the HTTP method.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<Verb>,
    /// API groups; `""` is the core group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<Glob>,
    /// `pods`, `pods/exec`, `*/scale`, `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Clusters, by their name in the gateway's configuration; `""` is the default cluster.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<Glob>,
    /// Namespaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<Glob>,
    /// Object names; of an object that is being created, the name in the body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<Glob>,
    /// Users, as they are sent to the API server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<Glob>,
    /// Groups; one is enough.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Glob>,
    /// Issuers of the identity.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<Glob>,
    /// Profiles of the grant the request came with; `*` for any grant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<Glob>,
    /// The `User-Agent`. Clients choose theirs: good for telling tools apart, not for keeping anybody out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<Pattern>,
    /// The path, decoded, without any cluster prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Pattern>,
    /// The command of an exec: its arguments, joined by single spaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Pattern>,
    /// Fields of the body, at any depth; one is enough. In a JSON Patch also what its paths name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldCondition>,
}

/// On what terms a request is held.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HoldConfig {
    /// Who may decide; the policy's `approvers`, if nobody is named.
    #[serde(skip_serializing_if = "ApproversConfig::is_empty")]
    pub approvers: ApproversConfig,
    /// How many different people must approve.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u32>,
    /// How long the connection is kept open before the client is told to come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_for: Option<DurationText>,
    /// How long a ticket waits for a decision before it counts as denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_after: Option<DurationText>,
}

/// Who may decide: anyone named, or in any of the groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ApproversConfig {
    /// User names, as mapped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// Group names, as mapped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

impl ApproversConfig {
    pub(crate) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}
