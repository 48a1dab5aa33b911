//! Guesses that a server would confirm: dry runs of writes that set what the writer may not see.
//!
//! A dry run changes nothing, so it can be tried for every guess there is. Two things would tell a good one: a token in the answer
//! that equals the one of the live value, and a conflict, which server-side apply reports only where values differ.

use bytes::Bytes;
use portcullis_core::{Reason, Refusal, RequestInfo};
use serde_json::Value;

use crate::{
    Masker, Scope,
    piece::join,
    seek::{carries_token, documents, essence},
};

/// Whether a body sets a value that is masked for whoever sends it. What is not known of a body counts as set.
pub(crate) fn sets_masked_values(content_type: Option<&str>, body: &Bytes, scope: &Scope) -> bool {
    let Some(documents) = documents(content_type, body) else { return !body.is_empty() };
    documents.iter().any(|document| {
        let (mut masker, mut pieces) = (Masker::suspicious(scope.clone()), Vec::new());
        let read = masker
            .push(Bytes::from(document.to_string()), &mut pieces)
            .and_then(|()| masker.finish(&mut pieces));
        let masked = read.ok().and_then(|()| serde_json::from_slice::<Value>(&join(&pieces)).ok());
        masked.is_none_or(|masked| is_guess(document, &masked))
    })
}

/// Whether a value that was masked is one of the writer's own, and no token.
fn is_guess(value: &Value, masked: &Value) -> bool {
    match (value, masked) {
        (Value::Object(value), Value::Object(masked)) => {
            value.iter().any(|(name, value)| is_guess(value, masked.get(name).unwrap_or(&Value::Null)))
        }
        (Value::Array(value), Value::Array(masked)) => {
            value.iter().zip(masked).any(|(value, masked)| is_guess(value, masked))
        }
        (Value::String(text), masked) => {
            value != masked && !text.is_empty() && !carries_token(text.as_bytes(), 0)
        }
        (value, masked) => value != masked,
    }
}

/// Refuses a server-side apply that would only be tried, and whose conflicts would tell a good guess from a bad one.
pub(crate) fn would_confirm(
    info: &RequestInfo,
    query: Option<&str>,
    content_type: Option<&str>,
    body: &Bytes,
    scope: &Scope,
) -> Result<(), Refusal> {
    let applies =
        content_type.map(essence).is_some_and(|essence| essence.starts_with("application/apply-patch+"));
    let forced =
        query.unwrap_or_default().split('&').any(|pair| ["force=true", "force=1", "force=t"].contains(&pair));
    if !applies || !info.dry_run || forced || !sets_masked_values(content_type, body, scope) {
        return Ok(());
    }
    let message =
        "a dry run of server-side apply may not set what is masked: its conflicts would confirm a guess";
    Err(Refusal::new(Reason::Invalid, "mask/would-reveal", message)
        .advice("leave the masked fields out, or try it with --force-conflicts")
        .cause("FieldValueForbidden", message, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Caller, MaskConfig, MaskKey, Rules};

    fn scope(resource: &str) -> (RequestInfo, Scope) {
        let info = RequestInfo {
            is_resource_request: true,
            verb: "patch".into(),
            api_version: "v1".into(),
            resource: resource.into(),
            dry_run: true,
            ..RequestInfo::default()
        };
        let rules = Rules::new(&MaskConfig::default(), MaskKey::from_bytes(&[7; 32]).unwrap()).unwrap();
        let scope = rules.scope(&info, Caller::default());
        (info, scope)
    }

    #[test]
    fn a_guess_is_told_from_a_token_and_from_what_is_not_masked() {
        let check = |resource: &str, body: &str, expected: bool| {
            let (_, scope) = scope(resource);
            let body = Bytes::copy_from_slice(body.as_bytes());
            assert_eq!(
                sets_masked_values(Some("application/merge-patch+json"), &body, &scope),
                expected,
                "{body:?}"
            );
        };
        check("secrets", r#"{"data":{"password":"Z3Vlc3M="}}"#, true);
        check("secrets", r#"{"data":{"password":"bWFza2VkOnNlY3JldHM6MDEyMzQ1Njc4OWFiY2RlZg=="}}"#, false);
        check("secrets", r#"{"metadata":{"labels":{"a":"b"}}}"#, false);
        check("secrets", r#"{"data":{"password":null}}"#, false);
        check("secrets", "not json", true);
        check("configmaps", r#"{"data":{"a":"b"},"kind":"ConfigMap"}"#, false);
    }

    #[test]
    fn server_side_apply_is_not_tried_with_guesses() {
        let (info, scope) = scope("secrets");
        let guess = Bytes::from_static(b"{\"kind\":\"Secret\",\"data\":{\"password\":\"Z3Vlc3M=\"}}");
        let apply = Some("application/apply-patch+yaml");
        let check = |info: &RequestInfo, query: &str, content_type, passes: bool| {
            let judged = would_confirm(info, Some(query), content_type, &guess, &scope);
            assert_eq!(judged.is_ok(), passes, "{query}");
        };
        check(&info, "dryRun=All&fieldManager=x", apply, false);
        check(&info, "dryRun=All&force=false", apply, false);
        check(&info, "dryRun=All&force=true", apply, true);
        check(&info, "dryRun=All", Some("application/merge-patch+json"), true);
        check(&RequestInfo { dry_run: false, ..info.clone() }, "fieldManager=x", apply, true);
    }
}
