//! That people agreed to exactly this request.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// People agreed to this very request: left in its extensions by the hold layer, once per approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Approval {
    /// The ticket they decided on.
    pub ticket: String,
    /// The rule that had it held.
    pub rule: String,
    /// Who approved, as `user` names.
    pub approvers: Vec<String>,
    /// When the last needed approval came.
    pub approved_at: Timestamp,
    /// What they agreed to: the digest of identity, cluster, method, canonical URI, content type and body.
    pub digest: String,
}
