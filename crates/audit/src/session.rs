//! Which requests belong together: one task, or one client's work until it pauses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use portcullis_core::{Grant, Identity, Timestamp};
use uuid::Uuid;

/// How many sessions are remembered. More clients than that at once get a session per request: no memory is worth
/// more than the gateway.
const MOST: usize = 16_384;

/// The sessions that are open now.
pub(crate) struct Sessions {
    idle: Duration,
    open: Mutex<HashMap<Client, Session>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Client {
    issuer: String,
    subject: String,
    address: Option<IpAddr>,
    user_agent: Option<String>,
}

struct Session {
    id: String,
    last: Timestamp,
}

impl Sessions {
    pub(crate) fn new(idle: Duration) -> Self {
        Self { idle, open: Mutex::default() }
    }

    /// The session of a request: its grant's, or its client's. Whoever is nobody has none.
    pub(crate) fn of(
        &self,
        identity: Option<&Identity>,
        grant: Option<&Grant>,
        address: Option<IpAddr>,
        user_agent: Option<&str>,
        now: Timestamp,
    ) -> Option<String> {
        if let Some(grant) = grant {
            return Some(grant.id.clone());
        }
        let identity = identity?;
        let client = Client {
            issuer: identity.issuer.clone(),
            subject: identity.subject.clone(),
            address,
            user_agent: user_agent.map(str::to_owned),
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = open.get_mut(&client)
            && !self.is_idle(session, now)
        {
            session.last = session.last.max(now);
            return Some(session.id.clone());
        }
        if open.len() >= MOST {
            open.retain(|_, session| !self.is_idle(session, now));
        }
        let id = Uuid::now_v7().to_string();
        if open.len() < MOST {
            open.insert(client, Session { id: id.clone(), last: now });
        }
        Some(id)
    }

    fn is_idle(&self, session: &Session, now: Timestamp) -> bool {
        now.duration_since(session.last).unsigned_abs() > self.idle && now > session.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_s_session_lasts_until_it_is_idle_and_a_grant_is_one() {
        let sessions = Sessions::new(Duration::from_secs(60));
        let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        let ann = Identity { issuer: "i".into(), subject: "ann".into(), ..Identity::default() };
        let of = |agent, second| sessions.of(Some(&ann), None, None, Some(agent), at(second)).unwrap();
        let first = of("kubectl", 0);
        assert_eq!(of("kubectl", 50), first);
        assert_eq!(of("kubectl", 100), first);
        assert_ne!(of("helm", 100), first);
        assert_ne!(of("kubectl", 161), first);
        assert_eq!(sessions.of(None, None, None, None, at(0)), None);
        let grant = Grant {
            id: "g1".into(),
            profile: "deploy".into(),
            task: None,
            rules: vec![],
            issued_at: at(0),
            expires_at: at(900),
            approvers: vec![],
        };
        assert_eq!(sessions.of(Some(&ann), Some(&grant), None, None, at(9999)), Some("g1".into()));
    }
}
