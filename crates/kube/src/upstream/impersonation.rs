//! Whose rights a request is done with: `Impersonate-*`, as the API server reads it
//! (<https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/>).

use std::fmt::Write as _;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use portcullis_core::{Approval, Grant, Identity, Reason, Refusal};

const PREFIX: &str = "impersonate-extra-";
/// Keys of `extra` that only the gateway sets.
const OURS: &str = "portcullis.dev/";

/// Sets the headers for `identity`.
///
/// Go trims the white space around a header's value, and would so turn ` admin` into somebody else: such values are refused.
pub(super) fn impersonate(headers: &mut HeaderMap, identity: &Identity) -> Result<(), Refusal> {
    if identity.user.is_empty() {
        return Err(unsendable("the identity has no user name"));
    }
    append(headers, HeaderName::from_static("impersonate-user"), &identity.user)?;
    if let Some(uid) = &identity.uid {
        append(headers, HeaderName::from_static("impersonate-uid"), uid)?;
    }
    for group in &identity.groups {
        if group.is_empty() {
            return Err(unsendable("the identity has a group without a name"));
        }
        append(headers, HeaderName::from_static("impersonate-group"), group)?;
    }
    for (key, values) in &identity.extra {
        if key.to_ascii_lowercase().starts_with(OURS) {
            return Err(unsendable(format!(
                "the identity's extra attribute {OURS}… is reserved for the gateway"
            )));
        }
        append_extra(headers, key, values.iter().map(String::as_str))?;
    }
    Ok(())
}

/// Adds the story behind the request, so that the API server's own audit log tells it too.
pub(super) fn announce(headers: &mut HeaderMap, extensions: &Extensions) -> Result<(), Refusal> {
    let mut tell = |key: &str, values: &mut dyn Iterator<Item = String>| {
        let values: Vec<String> = values.map(|value| escape_value(&value)).collect();
        append_extra(headers, &format!("{OURS}{key}"), values.iter().map(String::as_str))
    };
    if let Some(identity) = extensions.get::<Identity>() {
        let actors = identity.delegation.iter();
        tell("actor", &mut actors.map(|actor| format!("{} {}", actor.issuer, actor.subject)))?;
    }
    if let Some(grant) = extensions.get::<Grant>() {
        tell("grant", &mut std::iter::once(grant.id.clone()))?;
        tell("task", &mut grant.task.iter().cloned())?;
    }
    if let Some(approval) = extensions.get::<Approval>() {
        tell("approval", &mut std::iter::once(approval.ticket.clone()))?;
        tell("approver", &mut approval.approvers.iter().cloned())?;
    }
    Ok(())
}

fn append_extra<'a>(
    headers: &mut HeaderMap,
    key: &str,
    values: impl Iterator<Item = &'a str>,
) -> Result<(), Refusal> {
    let name = HeaderName::try_from(format!("{PREFIX}{}", escape_key(key)))
        .map_err(|_| unsendable("the identity has an extra attribute whose key is too long"))?;
    if key.is_empty() {
        return Err(unsendable("the identity has an extra attribute without a key"));
    }
    for value in values {
        append(headers, name.clone(), value)?;
    }
    Ok(())
}

fn append(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<(), Refusal> {
    let trimmed = value.trim_matches([' ', '\t']).len() != value.len();
    let parsed = HeaderValue::from_bytes(value.as_bytes()).ok().filter(|_| !trimmed);
    let Some(parsed) = parsed else {
        return Err(unsendable(format!("the identity's {name} has characters that no header can carry")));
    };
    headers
        .try_append(name, parsed)
        .map_err(|_| unsendable("the identity has more groups and attributes than headers can carry"))?;
    Ok(())
}

/// The API server lower-cases the name, then decodes it: so what is not lower-case is encoded too.
fn escape_key(key: &str) -> String {
    let mut escaped = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => escaped.push(byte.into()),
            _ => push_escape(&mut escaped, byte),
        }
    }
    escaped
}

/// For text of ours that has a meaning to people only.
fn escape_value(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.trim().bytes() {
        match byte {
            b'%' => push_escape(&mut escaped, byte),
            b' '..=b'~' => escaped.push(byte.into()),
            _ => push_escape(&mut escaped, byte),
        }
    }
    escaped
}

fn push_escape(text: &mut String, byte: u8) {
    let _ = write!(text, "%{byte:02x}");
}

fn unsendable(message: impl Into<String>) -> Refusal {
    Refusal::new(Reason::Forbidden, "upstream/unsendable-identity", message)
        .advice("the identity provider's claims, or how they are mapped, must be corrected")
}

#[cfg(test)]
mod tests {
    use portcullis_core::{Actor, Timestamp};
    use proptest::prelude::*;

    use super::*;

    fn lines(headers: &HeaderMap) -> Vec<String> {
        headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect()
    }

    #[test]
    fn an_identity_becomes_headers() {
        let identity = Identity {
            user: "github:zoë".into(),
            uid: Some("42".into()),
            groups: vec!["devs".into(), "ops team".into()],
            extra: [
                ("example.com/Team".to_owned(), vec!["a".to_owned(), String::new()]),
                ("100%".to_owned(), vec!["b".to_owned()]),
            ]
            .into(),
            ..Identity::default()
        };
        let mut headers = HeaderMap::new();
        impersonate(&mut headers, &identity).unwrap();
        assert_eq!(
            lines(&headers),
            [
                "impersonate-user: github:zoë",
                "impersonate-uid: 42",
                "impersonate-group: devs",
                "impersonate-group: ops team",
                "impersonate-extra-100%25: b",
                "impersonate-extra-example.com%2f%54eam: a",
                "impersonate-extra-example.com%2f%54eam: ",
            ]
        );
    }

    #[test]
    fn what_a_header_cannot_carry_is_refused() {
        let check = |change: fn(&mut Identity)| {
            let mut identity = Identity { user: "bot".into(), ..Identity::default() };
            change(&mut identity);
            let refusal = impersonate(&mut HeaderMap::new(), &identity).unwrap_err();
            assert_eq!(refusal.code(), "upstream/unsendable-identity");
        };
        check(|identity| identity.user.clear());
        check(|identity| identity.user = " admin".into());
        check(|identity| identity.user = "admin\t".into());
        check(|identity| identity.user = "a\r\nImpersonate-Group: system:masters".into());
        check(|identity| identity.uid = Some("\0".into()));
        check(|identity| identity.groups.push(String::new()));
        check(|identity| identity.groups.push("a\nb".into()));
        check(|identity| drop(identity.extra.insert("k".into(), vec!["v ".into()])));
        check(|identity| drop(identity.extra.insert(String::new(), vec!["v".into()])));
        check(|identity| drop(identity.extra.insert("Portcullis.dev/grant".into(), vec!["forged".into()])));
    }

    #[test]
    fn the_story_goes_along() {
        let mut extensions = Extensions::new();
        extensions.insert(Identity {
            delegation: vec![Actor { issuer: "https://ci".into(), subject: "bot".into() }],
            ..Identity::default()
        });
        extensions.insert(Grant {
            id: "g1".into(),
            profile: "deploy".into(),
            task: Some("deploy\nthe shop".into()),
            rules: Vec::new(),
            issued_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::UNIX_EPOCH,
            approvers: Vec::new(),
        });
        let mut headers = HeaderMap::new();
        announce(&mut headers, &extensions).unwrap();
        assert_eq!(
            lines(&headers),
            [
                "impersonate-extra-portcullis.dev%2factor: https://ci bot",
                "impersonate-extra-portcullis.dev%2fgrant: g1",
                "impersonate-extra-portcullis.dev%2ftask: deploy%0athe shop",
            ]
        );
    }

    proptest! {
        #[test]
        fn a_key_comes_back_as_the_api_server_decodes_it(key in ".{1,40}") {
            let mut headers = HeaderMap::new();
            append_extra(&mut headers, &key, ["v"].into_iter()).unwrap();
            let name = headers.keys().next().unwrap().as_str().to_owned();
            let decoded = percent_encoding::percent_decode_str(&name[PREFIX.len()..]).decode_utf8().unwrap();
            prop_assert_eq!(decoded, key);
        }
    }
}
