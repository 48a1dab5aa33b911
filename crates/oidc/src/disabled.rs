//! Off-boarding: identities that are good no more, whatever their tokens say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arc_swap::ArcSwap;
use portcullis_core::{BoxFuture, Ended, Liveness, LivenessSource};
use tokio::sync::watch;

/// The identities that are disabled. Clones share the list.
///
/// Disabling one ends every [`Liveness`] that was given out for it, at once, and refuses it from then on. The list is in
/// memory: whoever disables writes that down and disables again at the next start. Back-channel logout and security
/// event receivers call [`disable`](Self::disable) too.
#[derive(Clone, Debug)]
pub struct DisabledIdentities(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    subjects: ArcSwap<BTreeMap<String, BTreeSet<String>>>,
    changed: watch::Sender<()>,
}

impl Default for DisabledIdentities {
    fn default() -> Self {
        Self(Arc::new(Shared { subjects: ArcSwap::default(), changed: watch::Sender::new(()) }))
    }
}

impl DisabledIdentities {
    /// Nobody is disabled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Disables a subject of an issuer; whether it was not disabled before.
    pub fn disable(&self, issuer: &str, subject: &str) -> bool {
        self.change(issuer, |subjects| subjects.insert(subject.to_owned()))
    }

    /// Enables it again; whether it was disabled. What ended stays ended.
    pub fn enable(&self, issuer: &str, subject: &str) -> bool {
        self.change(issuer, |subjects| subjects.remove(subject))
    }

    /// Whether a subject of an issuer is disabled.
    pub fn is_disabled(&self, issuer: &str, subject: &str) -> bool {
        self.0.subjects.load().get(issuer).is_some_and(|subjects| subjects.contains(subject))
    }

    /// Everyone who is disabled, as `(issuer, subject)`, in order.
    pub fn list(&self) -> Vec<(String, String)> {
        let all = self.0.subjects.load();
        all.iter()
            .flat_map(|(issuer, subjects)| {
                subjects.iter().map(move |subject| (issuer.clone(), subject.clone()))
            })
            .collect()
    }

    /// Ends when the subject is disabled; at once, if it is.
    pub fn liveness(&self, issuer: &str, subject: &str) -> Liveness {
        Liveness::new(Subject {
            disabled: self.clone(),
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
        })
    }

    fn change(&self, issuer: &str, change: impl Fn(&mut BTreeSet<String>) -> bool) -> bool {
        let mut changed = false;
        self.0.subjects.rcu(|all| {
            let mut all = BTreeMap::clone(all);
            changed = change(all.entry(issuer.to_owned()).or_default());
            all
        });
        self.0.changed.send_replace(());
        changed
    }
}

struct Subject {
    disabled: DisabledIdentities,
    issuer: String,
    subject: String,
}

impl LivenessSource for Subject {
    fn ended(&self) -> BoxFuture<'static, Ended> {
        let (disabled, issuer, subject) = (self.disabled.clone(), self.issuer.clone(), self.subject.clone());
        // Subscribed before the first look, so that nothing falls between the two.
        let mut changes = self.disabled.0.changed.subscribe();
        Box::pin(async move {
            while !disabled.is_disabled(&issuer, &subject) {
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            Ended::Disabled
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn disabling_ends_what_is_open_within_the_same_poll() {
        let disabled = DisabledIdentities::new();
        let liveness = disabled.liveness("https://a", "42");
        let mut open = liveness.ended();
        assert_eq!((&mut open).now_or_never(), None);
        assert!(disabled.disable("https://b", "42"));
        assert_eq!((&mut open).now_or_never(), None);
        assert!(disabled.disable("https://a", "42"));
        assert!(!disabled.disable("https://a", "42"));
        assert_eq!(open.now_or_never(), Some(Ended::Disabled));
        assert_eq!(liveness.ended().now_or_never(), Some(Ended::Disabled));
        assert_eq!(disabled.list().len(), 2);

        assert!(disabled.enable("https://a", "42"));
        assert!(!disabled.is_disabled("https://a", "42"));
        assert_eq!(liveness.ended().now_or_never(), None);
    }
}
