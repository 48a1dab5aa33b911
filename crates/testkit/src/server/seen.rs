//! Which requests reached this server: what tests ask when they want to know that one did not.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use http::{HeaderMap, Method, StatusCode, request::Parts};

use super::authn::UserInfo;

/// The newest so many requests are remembered.
const KEPT: usize = 10_000;

/// A request that reached the server, from the moment its head arrived.
#[derive(Clone)]
#[non_exhaustive]
pub struct SeenRequest {
    /// Its method.
    pub method: Method,
    /// Its path and query, as sent.
    pub uri: String,
    /// Its headers, as sent. `Debug` does not print them: they carry credentials.
    pub headers: HeaderMap,
    /// Its `Audit-ID`, if it had one.
    pub audit_id: Option<String>,
    /// Who sent it; `None` if the credential was no good.
    pub user: Option<UserInfo>,
    /// As whom, if `Impersonate-*` headers said so (whether they were allowed to or not).
    pub impersonated: Option<UserInfo>,
    /// What was answered; `None` while it is still being worked on.
    pub status: Option<StatusCode>,
}

impl SeenRequest {
    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.uri.split('?').next().unwrap_or_default()
    }
}

impl std::fmt::Debug for SeenRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SeenRequest")
            .field("method", &self.method)
            .field("uri", &self.uri)
            .field("audit_id", &self.audit_id)
            .field("user", &self.user.as_ref().map(|user| &user.username))
            .field("impersonated", &self.impersonated.as_ref().map(|user| &user.username))
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
pub(crate) struct SeenLog(Mutex<Log>);

#[derive(Default)]
struct Log {
    first: u64,
    requests: VecDeque<SeenRequest>,
}

impl Log {
    fn at(&mut self, id: u64) -> Option<&mut SeenRequest> {
        let index = usize::try_from(id.checked_sub(self.first)?).ok()?;
        self.requests.get_mut(index)
    }
}

impl SeenLog {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request before anything else is done with it.
    pub(crate) fn arrived(&self, parts: &Parts) -> u64 {
        let mut headers = parts.headers.clone();
        for value in headers.values_mut() {
            value.set_sensitive(true);
        }
        let audit_id = headers.get("audit-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let mut log = self.log();
        log.requests.push_back(SeenRequest {
            method: parts.method.clone(),
            uri: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            headers,
            audit_id,
            user: None,
            impersonated: None,
            status: None,
        });
        if log.requests.len() > KEPT {
            log.requests.pop_front();
            log.first += 1;
        }
        log.first + log.requests.len() as u64 - 1
    }

    pub(crate) fn identified(&self, id: u64, user: &UserInfo, impersonated: Option<&UserInfo>) {
        if let Some(seen) = self.log().at(id) {
            seen.user = Some(user.clone());
            seen.impersonated = impersonated.cloned();
        }
    }

    pub(crate) fn answered(&self, id: u64, status: StatusCode) {
        if let Some(seen) = self.log().at(id) {
            seen.status = Some(status);
        }
    }

    pub(crate) fn all(&self) -> Vec<SeenRequest> {
        self.log().requests.iter().cloned().collect()
    }

    pub(crate) fn clear(&self) {
        let mut log = self.log();
        log.first += log.requests.len() as u64;
        log.requests.clear();
    }
}
