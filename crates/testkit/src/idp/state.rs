//! What the provider remembers: codes, refresh and access tokens, who is disabled, its keys.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use crate::{TestkitError, jwt::SigningKey};

/// What somebody agreed to on the login page.
#[derive(Clone, Debug)]
pub(super) struct Login {
    pub(super) client: String,
    pub(super) persona: String,
    pub(super) redirect_uri: String,
    pub(super) challenge: String,
    pub(super) nonce: String,
    pub(super) scope: String,
    pub(super) at: Timestamp,
    /// Ties together what came of one login, so that a stolen code takes all of it down.
    pub(super) family: String,
}

impl Login {
    pub(super) fn has_scope(&self, wanted: &str) -> bool {
        self.scope.split(' ').any(|scope| scope == wanted)
    }
}

#[derive(Default)]
pub(super) struct State {
    codes: HashMap<String, Login>,
    spent: HashMap<String, (String, Timestamp)>,
    refresh: HashMap<String, Login>,
    access: HashMap<String, (Login, Timestamp)>,
    pub(super) disabled: HashSet<String>,
}

/// A code is good for this long (RFC 6749 §4.1.2 allows ten times as much).
const CODE: SignedDuration = SignedDuration::from_secs(60);

/// A spent code is recognised for this long.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(1);

impl State {
    pub(super) fn new_code(&mut self, login: Login) -> String {
        let now = login.at;
        self.codes.retain(|_, login| login.at.duration_until(now) <= CODE);
        self.spent.retain(|_, (_, at)| at.duration_until(now) <= REMEMBERED);
        self.access.retain(|_, (_, until)| now < *until);
        let code = random();
        self.codes.insert(code.clone(), login);
        code
    }

    /// Spends a code. One that comes twice was stolen: what came of it the first time ends.
    pub(super) fn spend_code(&mut self, code: &str, now: Timestamp) -> Option<Login> {
        if let Some((family, _)) = self.spent.get(code) {
            self.refresh.retain(|_, login| login.family != *family);
            self.access.retain(|_, (login, _)| login.family != *family);
            return None;
        }
        let login = self.codes.remove(code)?;
        self.spent.insert(code.to_owned(), (login.family.clone(), now));
        (login.at.duration_until(now) <= CODE).then_some(login)
    }

    pub(super) fn new_refresh(&mut self, login: Login) -> String {
        let token = random();
        self.refresh.insert(token.clone(), login);
        token
    }

    /// Spends a refresh token: each is good once (RFC 9700 §4.14).
    pub(super) fn spend_refresh(&mut self, token: &str) -> Option<Login> {
        self.refresh.remove(token)
    }

    pub(super) fn new_access(&mut self, login: Login, until: Timestamp) -> String {
        let token = random();
        self.access.insert(token.clone(), (login, until));
        token
    }

    pub(super) fn access(&self, token: &str, now: Timestamp) -> Option<&Login> {
        let (login, until) = self.access.get(token)?;
        (now < *until).then_some(login)
    }
}

pub(super) fn random() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

/// The keys it signs with, and those it still vouches for.
pub(super) struct Keys {
    pub(super) es256: SigningKey,
    pub(super) rs256: SigningKey,
    pub(super) retired: Vec<SigningKey>,
}

impl Keys {
    pub(super) fn new() -> Result<Self, TestkitError> {
        Ok(Self { es256: SigningKey::es256()?, rs256: SigningKey::rs256()?, retired: Vec::new() })
    }

    /// New keys; the old ones stay published until they are forgotten.
    pub(super) fn rotate(&mut self) -> Result<(), TestkitError> {
        let new = Self::new()?;
        self.retired.push(std::mem::replace(&mut self.es256, new.es256));
        self.retired.push(std::mem::replace(&mut self.rs256, new.rs256));
        Ok(())
    }

    pub(super) fn published(&self) -> impl Iterator<Item = &SigningKey> {
        [&self.es256, &self.rs256].into_iter().chain(&self.retired)
    }
}
