//! Who counts as the same person, so that nobody approves their own request, or twice.

use portcullis_core::Identity;

/// Whether two identities may be one person: the same principal, the same user name, or one acting for the other, or
/// both for a third. Erring on the side of *one*: an approval must come from somebody else for certain.
pub(crate) fn are_one_person(one: &Identity, other: &Identity) -> bool {
    one.user == other.user || principals(one).any(|principal| principals(other).any(|p| p == principal))
}

/// Everybody who stands behind an identity: itself, and the delegation chain it acts for.
fn principals(identity: &Identity) -> impl Iterator<Item = (&str, &str)> {
    let itself = (identity.issuer.as_str(), identity.subject.as_str());
    let chain = identity.delegation.iter().map(|actor| (actor.issuer.as_str(), actor.subject.as_str()));
    std::iter::once(itself).chain(chain)
}

#[cfg(test)]
mod tests {
    use portcullis_core::Actor;

    use super::*;

    fn identity(subject: &str, user: &str, delegation: &[&str]) -> Identity {
        Identity {
            issuer: "https://idp".into(),
            subject: subject.into(),
            user: user.into(),
            delegation: delegation
                .iter()
                .map(|subject| Actor { issuer: "https://idp".into(), subject: (*subject).into() })
                .collect(),
            ..Identity::default()
        }
    }

    fn check(one: Identity, other: Identity, expected: bool) {
        assert_eq!(are_one_person(&one, &other), expected, "{one:?} {other:?}");
        assert_eq!(are_one_person(&other, &one), expected, "{other:?} {one:?}");
    }

    #[test]
    fn a_bot_and_who_it_acts_for_are_one() {
        check(identity("1", "ann", &[]), identity("2", "bob", &[]), false);
        check(identity("1", "ann", &[]), identity("1", "ann-at-work", &[]), true);
        check(identity("1", "ann", &[]), identity("2", "ann", &[]), true);
        check(identity("9", "bot", &["1"]), identity("1", "ann", &[]), true);
        check(identity("9", "bot", &["1"]), identity("8", "other-bot", &["1"]), true);
        check(identity("9", "bot", &["1"]), identity("2", "bob", &[]), false);
    }
}
