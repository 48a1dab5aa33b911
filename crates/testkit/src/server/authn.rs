//! Who is asking: client certificates, bearer tokens, service accounts; and as whom: impersonation.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use http::{HeaderMap, request::Parts};
use percent_encoding::percent_decode_str;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

use super::{rbac::Attributes, status::ApiError};
use crate::listen::PeerCertificate;

/// A user as the API server knows one (`user.Info`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The name.
    pub username: String,
    /// The stable id; empty if there is none.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// Whatever else the authenticator said, by key.
    pub extra: BTreeMap<String, Vec<String>>,
}

const AUTHENTICATED: &str = "system:authenticated";
pub(crate) const ANONYMOUS: &str = "system:anonymous";

impl UserInfo {
    /// A user of that name in those groups, and in `system:authenticated`.
    pub fn new(username: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        groups.push(AUTHENTICATED.into());
        Self { username: username.into(), groups, ..Self::default() }
    }

    pub(crate) fn anonymous() -> Self {
        Self { username: ANONYMOUS.into(), groups: vec!["system:unauthenticated".into()], ..Self::default() }
    }

    pub(crate) fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")];
        Self { uid: uid.into(), ..Self::new(format!("system:serviceaccount:{namespace}:{name}"), &groups) }
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut user = json!({"username": self.username, "groups": self.groups});
        if !self.uid.is_empty() {
            user["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            user["extra"] = json!(self.extra);
        }
        user
    }
}

/// The credentials this server has issued.
#[derive(Default)]
pub(crate) struct Credentials {
    tokens: Mutex<HashMap<String, UserInfo>>,
    certificates: Mutex<HashMap<CertificateDer<'static>, UserInfo>>,
}

impl Credentials {
    pub(crate) fn add_token(&self, token: String, user: UserInfo) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(token, user);
    }

    pub(crate) fn add_certificate(&self, certificate: CertificateDer<'static>, user: UserInfo) {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).insert(certificate, user);
    }

    fn token(&self, token: &str) -> Option<UserInfo> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    fn certificate(&self, certificate: &CertificateDer<'static>) -> Option<UserInfo> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).get(certificate).cloned()
    }

    /// Who sent the request. A bearer token that is not good is an error, whatever else there is; with no credential at all
    /// it is the anonymous user.
    pub(crate) fn authenticate(
        &self,
        parts: &Parts,
        service_account: impl FnOnce(&str) -> Option<UserInfo>,
    ) -> Result<UserInfo, ApiError> {
        if let Some(user) =
            parts.extensions.get::<PeerCertificate>().and_then(|peer| self.certificate(&peer.0))
        {
            return Ok(user);
        }
        let mut headers = parts.headers.get_all("authorization").iter();
        let Some(header) = headers.next() else { return Ok(UserInfo::anonymous()) };
        if headers.next().is_some() {
            return Err(ApiError::unauthorized());
        }
        let text = header.to_str().map_err(|_| ApiError::unauthorized())?;
        let token = match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => return Ok(UserInfo::anonymous()),
        };
        self.token(token).or_else(|| service_account(token)).ok_or_else(ApiError::unauthorized)
    }
}

/// What `Impersonate-*` headers ask for: the user, and what one must be allowed to for it.
pub(crate) struct Impersonation {
    pub(crate) user: UserInfo,
    pub(crate) needs: Vec<Attributes>,
}

/// Reads the `Impersonate-*` headers (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation>).
pub(crate) fn impersonation(headers: &HeaderMap) -> Result<Option<Impersonation>, ApiError> {
    const EXTRA: &str = "impersonate-extra-";
    let one = |name: &str| -> Result<Option<String>, ApiError> {
        let mut values = headers.get_all(name).iter();
        let value = values.next().map(|value| value.to_str().map(str::to_owned));
        match (value, values.next()) {
            (_, Some(_)) => Err(ApiError::bad_request(format!("more than one {name} header"))),
            (Some(Err(_)), _) => Err(ApiError::bad_request(format!("{name} is not text"))),
            (value, None) => Ok(value.and_then(Result::ok)),
        }
    };
    let username = one("impersonate-user")?.unwrap_or_default();
    let uid = one("impersonate-uid")?.unwrap_or_default();
    let mut groups = Vec::new();
    for value in headers.get_all("impersonate-group") {
        groups.push(
            value.to_str().map_err(|_| ApiError::bad_request("impersonate-group is not text"))?.to_owned(),
        );
    }
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            let key = percent_decode_str(key)
                .decode_utf8()
                .map_err(|_| ApiError::bad_request("an extra key is not text"))?;
            let value = value.to_str().map_err(|_| ApiError::bad_request("an extra value is not text"))?;
            extra.entry(key.into_owned()).or_default().push(value.to_owned());
        }
    }
    if username.is_empty() {
        let nothing = groups.is_empty() && uid.is_empty() && extra.is_empty();
        return match nothing {
            true => Ok(None),
            false => Err(ApiError::internal("requested groups, uid or extra without impersonating a user")),
        };
    }
    let mut needs = Vec::new();
    let need = |resource: &str, subresource: &str, group: &str, namespace: &str, name: &str| Attributes {
        subresource: subresource.into(),
        ..Attributes::resource("impersonate", group, resource, namespace, name)
    };
    let account = username.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let account = account.map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
    needs.push(match &account {
        Some((namespace, name)) => need("serviceaccounts", "", "", namespace, name),
        None => need("users", "", "", "", &username),
    });
    needs.extend(groups.iter().map(|group| need("groups", "", "", "", group)));
    if !uid.is_empty() {
        needs.push(need("uids", "", "authentication.k8s.io", "", &uid));
    }
    for (key, values) in &extra {
        needs.extend(values.iter().map(|value| need("userextras", key, "authentication.k8s.io", "", value)));
    }
    if let (Some((namespace, _)), true) = (&account, groups.is_empty()) {
        groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    if username != ANONYMOUS && !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.into());
    }
    Ok(Some(Impersonation { user: UserInfo { username, uid, groups, extra }, needs }))
}
