//! Questions a client asks about itself: who am I, may I, what may I. Created, answered, kept nowhere.

use serde_json::{Value, json};

use super::{
    Core,
    authn::UserInfo,
    kinds::REVIEWS,
    object::{is_of_type, items, rfc3339, text},
    rbac::{self, Attributes},
    status::ApiError,
};

/// Answers a review.
pub(crate) fn answer(core: &Core, kind: &str, user: &UserInfo, mut review: Value) -> Result<Value, ApiError> {
    let group =
        REVIEWS.iter().find(|(_, name, _)| *name == kind).map(|(group, ..)| *group).unwrap_or_default();
    if !is_of_type(&mut review, &format!("{group}/v1"), kind) {
        return Err(ApiError::bad_request(format!("the object provided is no {kind}")));
    }
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    review["metadata"]["creationTimestamp"] = json!(rfc3339(core.store.now()));
    review["status"] = match kind {
        "SelfSubjectReview" => json!({"userInfo": user.to_json()}),
        "SelfSubjectAccessReview" => may(core, user, &review["spec"])?,
        _ => rules(core, user, text(&review["spec"]["namespace"])),
    };
    Ok(review)
}

fn may(core: &Core, user: &UserInfo, spec: &Value) -> Result<Value, ApiError> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let wanted = match (resource.is_object(), path.is_object()) {
        (true, false) => Attributes {
            subresource: text(&resource["subresource"]).to_owned(),
            ..Attributes::resource(
                text(&resource["verb"]),
                text(&resource["group"]),
                text(&resource["resource"]),
                text(&resource["namespace"]),
                text(&resource["name"]),
            )
        },
        (false, true) => Attributes {
            verb: text(&path["verb"]).to_owned(),
            path: Some(text(&path["path"]).to_owned()),
            ..Attributes::default()
        },
        _ => {
            return Err(ApiError::unprocessable(
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    Ok(json!({"allowed": rbac::authorize(&core.store, user, &wanted)}))
}

fn rules(core: &Core, user: &UserInfo, namespace: &str) -> Value {
    let held = rbac::rules_of(&core.store, user, namespace);
    let mut rules: Vec<Value> = held.each().cloned().collect();
    if rbac::is_master(user) {
        rules.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        rules.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    let (paths, resources): (Vec<_>, Vec<_>) =
        rules.into_iter().partition(|rule| !items(&rule["nonResourceURLs"]).is_empty());
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}
