//! What a policy judges: one request, and its body if somebody has read it.

use std::cell::OnceCell;

use bytes::Bytes;
use http::{
    header::{CONTENT_TYPE, USER_AGENT},
    request::Parts,
};
use percent_encoding::percent_decode_str;
use portcullis_core::{Grant, Identity, Refusal, RequestInfo};
use serde_json::{Value, json};

use crate::body::Parsed;

/// One request, as rules see it.
pub struct Facts<'a> {
    pub(crate) info: &'a RequestInfo,
    pub(crate) identity: &'a Identity,
    pub(crate) grant: Option<&'a Grant>,
    pub(crate) user_agent: String,
    pub(crate) command: String,
    method: String,
    argv: Vec<String>,
    content_type: Option<String>,
    body: BodyState<'a>,
    parsed: OnceCell<Parsed>,
}

/// What is known of a request's body.
#[derive(Clone, Copy, Debug)]
pub enum BodyState<'a> {
    /// Nobody has read it yet.
    Unread,
    /// There is none, or it is a stream that rules do not see (a connection's).
    Absent,
    /// All of it.
    Read(&'a Bytes),
}

impl<'a> Facts<'a> {
    /// The facts of one request.
    ///
    /// # Errors
    ///
    /// 400 when the command of an exec could be read in two ways.
    pub fn new(
        parts: &Parts,
        info: &'a RequestInfo,
        identity: &'a Identity,
        grant: Option<&'a Grant>,
        body: BodyState<'a>,
    ) -> Result<Self, Refusal> {
        let header = |name| parts.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let argv = match info.is_connect() {
            true => command(parts.uri.query().unwrap_or_default())?,
            false => Vec::new(),
        };
        Ok(Self {
            info,
            identity,
            grant,
            user_agent: header(USER_AGENT).unwrap_or_default().into_owned(),
            command: argv.join(" "),
            method: parts.method.to_string(),
            argv,
            content_type: header(CONTENT_TYPE).map(|value| value.into_owned()),
            body,
            parsed: OnceCell::new(),
        })
    }

    /// The same request, with its body.
    #[must_use]
    pub fn with_body(mut self, body: BodyState<'a>) -> Self {
        self.body = body;
        self.parsed = OnceCell::new();
        self
    }

    pub(crate) fn body(&self) -> BodyState<'a> {
        match self.body {
            BodyState::Read(bytes) if bytes.is_empty() => BodyState::Absent,
            other => other,
        }
    }

    /// The body, read once, however many rules ask.
    pub(crate) fn parsed(&self, bytes: &Bytes) -> &Parsed {
        self.parsed.get_or_init(|| Parsed::read(self.content_type.as_deref(), bytes))
    }

    /// Whether this is a server-side apply, which creates what is not there.
    pub(crate) fn is_apply(&self) -> bool {
        let media_type = self.content_type.as_deref().unwrap_or_default().to_ascii_lowercase();
        self.info.verb == "patch" && media_type.trim_start().starts_with("application/apply-patch")
    }

    /// The value of an expression's variable.
    pub(crate) fn variable(&self, name: &str) -> Value {
        let info = self.info;
        match name {
            "object" => match self.body() {
                BodyState::Read(bytes) => match self.parsed(bytes) {
                    Parsed::Object { value, .. } => value.clone(),
                    _ => Value::Null,
                },
                _ => Value::Null,
            },
            "request" => json!({
                "verb": info.effective_verb(),
                "method": self.method,
                "path": info.path,
                "isResourceRequest": info.is_resource_request,
                "apiGroup": info.api_group,
                "apiVersion": info.api_version,
                "resource": info.resource,
                "subresource": info.subresource,
                "namespace": info.namespace,
                "name": info.name,
                "fieldSelector": info.field_selector,
                "labelSelector": info.label_selector,
                "cluster": info.cluster,
                "dryRun": info.dry_run,
                "userAgent": self.user_agent,
                "contentType": self.content_type,
                "command": self.argv,
            }),
            "identity" => json!({
                "issuer": self.identity.issuer,
                "subject": self.identity.subject,
                "user": self.identity.user,
                "uid": self.identity.uid,
                "groups": self.identity.groups,
                "extra": self.identity.extra,
                "delegation": self.identity.delegation,
            }),
            "grant" => self.grant.map_or(Value::Null, |grant| {
                json!({ "id": grant.id, "profile": grant.profile, "task": grant.task, "approvers": grant.approvers })
            }),
            _ => Value::Null,
        }
    }
}

/// The arguments of an exec: every `command` of the query.
///
/// A query that Go and others read differently is refused: Go drops a pair with `;` or a bad escape in it, and would
/// run another command than the one a rule was shown.
fn command(query: &str) -> Result<Vec<String>, Refusal> {
    let ambiguous = |what: &str| {
        Refusal::bad_request("policy/ambiguous-query", format!("the query of this connection has {what}"))
            .advice("percent-encode it")
    };
    let mut argv = Vec::new();
    for pair in query.split('&') {
        if pair.contains(';') {
            return Err(ambiguous("a semicolon"));
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name), decoded(value));
        let (Some(name), Some(value)) = (name, value) else {
            return Err(ambiguous("a broken escape, or an escape that is no UTF-8"));
        };
        if name == "command" {
            argv.push(value);
        }
    }
    Ok(argv)
}

/// `application/x-www-form-urlencoded` decoding, or `None` where it would have to guess.
fn decoded(text: &str) -> Option<String> {
    let mut after_percent = text.split('%').skip(1);
    let is_escape = |rest: &str| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    if !after_percent.all(is_escape) {
        return None;
    }
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8().ok().map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(query: &str, expected: Option<&[&str]>) {
        let found = command(query);
        assert_eq!(
            found.as_ref().ok().map(|argv| argv.iter().map(String::as_str).collect::<Vec<_>>()).as_deref(),
            expected,
            "{query}"
        );
        if let Err(refusal) = found {
            assert_eq!(refusal.code(), "policy/ambiguous-query");
        }
    }

    #[test]
    fn a_command_is_read_as_go_reads_it_or_not_at_all() {
        check("", Some(&[]));
        check(
            "command=sh&command=-c&command=echo+hi%20there&stdin=true",
            Some(&["sh", "-c", "echo hi there"]),
        );
        check("command=", Some(&[""]));
        check("%63ommand=sh", Some(&["sh"]));
        check("command=sh&command=%zz", None);
        check("command=sh;command=ls", None);
        check("command=%ff", None);
        check("command=%", None);
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(query in ".{0,60}") {
            let _ = command(&query);
        }

        #[test]
        fn what_was_encoded_comes_back(argument in ".{0,20}") {
            let encoded: String =
                percent_encoding::utf8_percent_encode(&argument, percent_encoding::NON_ALPHANUMERIC).to_string();
            prop_assert_eq!(command(&format!("command={encoded}")).ok(), Some(vec![argument]));
        }
    }
}
