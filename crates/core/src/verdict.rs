//! What policy decided about a request.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Identity;

/// Policy's answer for one request, left in its extensions by the guard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// What is to happen.
    pub decision: Decision,
    /// The rule that decided; `None` where the default did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<String>,
    /// The rule's words for the person who reads the refusal or the ticket.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
    /// Names of the mask rule sets that apply; none named means all defaults.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub mask_sets: Vec<String>,
}

/// Allow, deny, or ask a human.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "action")]
pub enum Decision {
    /// It may pass.
    #[default]
    Allow,
    /// It may not.
    Deny,
    /// It may pass once people agree.
    Hold(HoldTerms),
}

/// On what terms a request is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HoldTerms {
    /// Who may decide.
    pub approvers: Approvers,
    /// How many different people must approve; at least 1.
    pub quorum: u32,
    /// How long the connection is kept open before the client is told to come back (`429`); the layer's default if `None`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hold_for: Option<Duration>,
    /// How long the ticket waits for a decision before it counts as denied; the layer's default if `None`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_after: Option<Duration>,
}

/// Who may approve: anyone named, or in any of the groups. Nobody, if both are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Approvers {
    /// User names, as mapped.
    pub users: Vec<String>,
    /// Group names, as mapped.
    pub groups: Vec<String>,
}

impl Approvers {
    /// Whether `identity` is among them. (That nobody approves their own request is the ticket's business.)
    pub fn include(&self, identity: &Identity) -> bool {
        self.users.contains(&identity.user) || identity.groups.iter().any(|group| self.groups.contains(group))
    }
}
