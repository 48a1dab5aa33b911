//! One issuer's rules, compiled: is a token's payload good, and whom does it name?

use std::{collections::BTreeMap, time::Duration};

use kube_cel::cel::Value as Cel;
use portcullis_core::{Actor, AuthenticationError, Identity, Timestamp};
use serde_json::{Map, Value, json};

use crate::{
    cel::{Expression, to_cel},
    config::SigningAlgorithm,
    jws::shown,
};

/// What must be true of an issuer's tokens, and what their claims mean. Built by [`crate::compile`].
#[derive(Debug)]
pub(crate) struct Issuer {
    pub(crate) url: String,
    pub(crate) audiences: Vec<String>,
    /// Empty for all.
    pub(crate) algorithms: Vec<SigningAlgorithm>,
    /// Empty for any.
    pub(crate) authorized_parties: Vec<String>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) username: Source,
    pub(crate) groups: Option<Source>,
    pub(crate) uid: Option<Source>,
    pub(crate) extra: Vec<(String, Expression)>,
    pub(crate) user_rules: Vec<(Expression, Option<String>)>,
    /// Whether users and groups may be `system:serviceaccount…`.
    pub(crate) names_service_accounts: bool,
}

/// A condition on the claims.
#[derive(Debug)]
pub(crate) enum Rule {
    Equals { claim: String, value: String },
    Holds { expression: Expression, message: Option<String> },
}

/// Where a value comes from.
#[derive(Debug)]
pub(crate) enum Source {
    Claim { name: String, prefix: String },
    Expression(Expression),
}

type Claims = Map<String, Value>;

impl Issuer {
    /// The checks that need no key: they can only refuse, so they come before the costly one. Yields when the token
    /// runs out.
    pub(crate) fn check_envelope(
        &self,
        claims: &Claims,
        now: Timestamp,
        leeway: Duration,
    ) -> Result<Timestamp, AuthenticationError> {
        let expires_at = check_times(claims, now, leeway)?;
        let for_us = match claims.get("aud") {
            Some(Value::String(one)) => self.audiences.contains(one),
            Some(Value::Array(several)) => several
                .iter()
                .filter_map(Value::as_str)
                .any(|one| self.audiences.iter().any(|audience| audience == one)),
            _ => false,
        };
        if !for_us {
            return Err(AuthenticationError::invalid(
                "oidc/wrong-audience",
                format!("the token is not for this gateway: its audience must be {}", list(&self.audiences)),
                format!("aud {}", shown(&claims.get("aud").unwrap_or(&Value::Null).to_string())),
            ));
        }
        match claims.get("azp") {
            Some(Value::String(party)) if self.is_authorized(party) => {}
            None if self.authorized_parties.is_empty() => {}
            other => {
                return Err(AuthenticationError::invalid(
                    "oidc/wrong-party",
                    "the token was issued to a client (`azp`) that may not use it here",
                    format!("azp {}", shown(&other.unwrap_or(&Value::Null).to_string())),
                ));
            }
        }
        Ok(expires_at)
    }

    /// Whom a verified payload names.
    pub(crate) fn identity(&self, claims: &Claims) -> Result<Identity, AuthenticationError> {
        let subject = match claims.get("sub") {
            Some(Value::String(subject)) if !subject.is_empty() => subject.clone(),
            _ => return Err(mapping("the token has no subject (`sub`)")),
        };
        let cel = to_cel(&Value::Object(claims.clone()));
        for rule in &self.rules {
            rule.check(claims, &cel)?;
        }
        let user = match self.username.strings(claims, &cel)?.as_mut_slice() {
            [one] => std::mem::take(one),
            _ => return Err(mapping("the token yields no user name")),
        };
        let groups = match &self.groups {
            Some(source) => source.strings(claims, &cel)?,
            None => Vec::new(),
        };
        let uid = match &self.uid {
            Some(source) => match source.strings(claims, &cel)?.as_mut_slice() {
                [] => None,
                [one] => Some(std::mem::take(one)),
                _ => return Err(mapping("the token yields several uids")),
            },
            None => None,
        };
        let mut extra = BTreeMap::new();
        for (key, expression) in &self.extra {
            let values = expression.strings("claims", &cel).map_err(mapping)?;
            if !values.is_empty() {
                extra.insert(key.clone(), values);
            }
        }
        let identity = Identity {
            issuer: self.url.clone(),
            subject,
            user,
            uid,
            groups,
            extra,
            delegation: self.delegation(claims)?,
        };
        self.check_names(&identity)?;
        self.check_user(&identity)?;
        Ok(identity)
    }

    fn is_authorized(&self, party: &String) -> bool {
        self.authorized_parties.is_empty() || self.authorized_parties.contains(party)
    }

    /// `system:` names carry rights that no identity provider hands out.
    fn check_names(&self, identity: &Identity) -> Result<(), AuthenticationError> {
        let user_is_fine = |user: &str| {
            !user.starts_with("system:")
                || (self.names_service_accounts && user.starts_with("system:serviceaccount:"))
        };
        let group_is_fine = |group: &String| {
            !group.starts_with("system:")
                || (self.names_service_accounts
                    && (group == "system:serviceaccounts" || group.starts_with("system:serviceaccounts:")))
        };
        if !user_is_fine(&identity.user) || !identity.groups.iter().all(group_is_fine) {
            return Err(AuthenticationError::invalid(
                "oidc/reserved-name",
                "the token claims a user or group that begins with `system:`, which is Kubernetes' own",
                format!("user {}, groups {}", shown(&identity.user), shown(&identity.groups.join(","))),
            ));
        }
        let mut names = identity.groups.iter().chain(identity.extra.values().flatten());
        if identity.user.contains(char::is_control) || names.any(|name| name.contains(char::is_control)) {
            return Err(mapping("a user, group or extra value contains a control character"));
        }
        Ok(())
    }

    fn check_user(&self, identity: &Identity) -> Result<(), AuthenticationError> {
        if self.user_rules.is_empty() {
            return Ok(());
        }
        let user = to_cel(&json!({
            "username": identity.user,
            "uid": identity.uid.as_deref().unwrap_or_default(),
            "groups": identity.groups,
            "extra": identity.extra,
        }));
        for (expression, message) in &self.user_rules {
            refuse_unless(expression.holds("user", &user), "oidc/user-rule", expression, message.as_deref())?;
        }
        Ok(())
    }

    /// RFC 8693 §4.1: the nearest actor is outermost.
    fn delegation(&self, claims: &Claims) -> Result<Vec<Actor>, AuthenticationError> {
        let mut chain = Vec::new();
        let mut next = claims.get("act");
        while let Some(actor) = next {
            let issuer = actor.get("iss").map_or(Some(self.url.as_str()), Value::as_str);
            let (Some(issuer), Some(subject)) = (issuer, actor.get("sub").and_then(Value::as_str)) else {
                return Err(mapping("an actor (`act`) has no subject"));
            };
            if chain.len() == 16 {
                return Err(mapping("the chain of actors (`act`) is too long"));
            }
            chain.push(Actor { issuer: issuer.to_owned(), subject: subject.to_owned() });
            next = actor.get("act");
        }
        Ok(chain)
    }
}

impl Rule {
    fn check(&self, claims: &Claims, cel: &Cel) -> Result<(), AuthenticationError> {
        match self {
            Self::Equals { claim, value } => match claims.get(claim) {
                Some(Value::String(found)) if found == value => Ok(()),
                found => Err(AuthenticationError::invalid(
                    "oidc/claim-rule",
                    format!("the token's `{claim}` is not what is required"),
                    format!("{claim}: {}", shown(&found.unwrap_or(&Value::Null).to_string())),
                )),
            },
            Self::Holds { expression, message } => refuse_unless(
                expression.holds("claims", cel),
                "oidc/claim-rule",
                expression,
                message.as_deref(),
            ),
        }
    }
}

/// A rule that cannot be evaluated is one that does not hold.
fn refuse_unless(
    holds: Result<bool, String>,
    code: &'static str,
    expression: &Expression,
    message: Option<&str>,
) -> Result<(), AuthenticationError> {
    let detail = match holds {
        Ok(true) => return Ok(()),
        Ok(false) => format!("`{}` is false", expression.source()),
        Err(error) => error,
    };
    let public = message.unwrap_or("the token does not satisfy a validation rule of this gateway");
    Err(AuthenticationError::invalid(code, public, detail))
}

impl Source {
    fn strings(&self, claims: &Claims, cel: &Cel) -> Result<Vec<String>, AuthenticationError> {
        let (name, prefix) = match self {
            Self::Expression(expression) => return expression.strings("claims", cel).map_err(mapping),
            Self::Claim { name, prefix } => (name, prefix),
        };
        let not_strings = || mapping(format!("the claim `{name}` is not a string or list of strings"));
        let prefixed = |text: &str| format!("{prefix}{text}");
        match claims.get(name) {
            None | Some(Value::Null) => match claims.get("_claim_names").and_then(|names| names.get(name)) {
                None => Ok(Vec::new()),
                // Going on without them would drop groups that a rule may deny by.
                Some(_) => Err(mapping(format!(
                    "the claim `{name}` is distributed (too many groups for a token), which is not supported"
                ))),
            },
            Some(Value::String(text)) if text.is_empty() => Ok(Vec::new()),
            Some(Value::String(text)) => {
                if name == "email"
                    && claims.get("email_verified").is_some_and(|yes| *yes != Value::Bool(true))
                {
                    return Err(mapping("the email address is not verified"));
                }
                Ok(vec![prefixed(text)])
            }
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().map(prefixed).ok_or_else(not_strings)).collect()
            }
            Some(_) => Err(not_strings()),
        }
    }
}

fn check_times(claims: &Claims, now: Timestamp, leeway: Duration) -> Result<Timestamp, AuthenticationError> {
    let date = |name: &'static str| match claims.get(name) {
        None => Ok(None),
        Some(value) => numeric_date(value).map(Some).ok_or_else(|| {
            AuthenticationError::invalid(
                "oidc/malformed",
                format!("the token is malformed: its `{name}` is not a date"),
                name,
            )
        }),
    };
    let Some(expires_at) = date("exp")? else {
        return Err(AuthenticationError::invalid(
            "oidc/malformed",
            "the token never expires (it has no `exp`), so it is not accepted",
            "no exp",
        ));
    };
    let leeway = jiff::SignedDuration::try_from(leeway).unwrap_or_default();
    if now.saturating_sub(leeway).map_or(true, |earlier| earlier >= expires_at) {
        return Err(AuthenticationError::invalid(
            "oidc/expired",
            format!("the token expired at {expires_at}"),
            format!("it is {now}"),
        ));
    }
    let latest = now.saturating_add(leeway).unwrap_or(now);
    for (name, date) in [("nbf", date("nbf")?), ("iat", date("iat")?)] {
        if let Some(date) = date.filter(|date| *date > latest) {
            return Err(AuthenticationError::invalid(
                "oidc/not-yet-valid",
                format!("the token is not valid before {date} (`{name}`)"),
                format!("it is {now}"),
            ));
        }
    }
    Ok(expires_at)
}

/// RFC 7519 §2: seconds since the epoch, perhaps with a fraction.
fn numeric_date(value: &Value) -> Option<Timestamp> {
    if let Some(seconds) = value.as_i64() {
        return Timestamp::from_second(seconds).ok();
    }
    let seconds = value.as_f64().filter(|seconds| seconds.abs() < 1e12)?;
    Timestamp::from_millisecond((seconds * 1000.0) as i64).ok()
}

fn mapping(why: impl Into<String>) -> AuthenticationError {
    let why = why.into();
    // The expression that failed is the operator's business.
    let public = match why.starts_with('`') {
        true => "the token lacks a claim that this gateway needs".to_owned(),
        false => why.clone(),
    };
    AuthenticationError::invalid("oidc/mapping", public, why)
}

fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(" or ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{compile, config::JwtConfig};

    const NOW: i64 = 1_750_000_000;

    fn issuer(extra: &str) -> Issuer {
        let yaml = format!(
            "issuer: {{url: 'https://a', audiences: [portcullis, two], audienceMatchPolicy: MatchAny}}\n{extra}"
        );
        let config: JwtConfig = serde_yaml::from_str(&yaml).unwrap();
        let mut errors = Vec::new();
        let issuer = compile::issuer(&config, "jwt.0", &mut errors);
        assert_eq!(errors, []);
        issuer.unwrap()
    }

    const PLAIN: &str =
        "claimMappings: {username: {claim: sub, prefix: 'a:'}, groups: {claim: groups, prefix: 'a:'}}";

    fn verify(issuer: &Issuer, claims: &Value) -> Result<Identity, AuthenticationError> {
        let mut all = json!({ "iss": "https://a", "sub": "42", "aud": "portcullis", "exp": NOW + 60 });
        for (name, value) in claims.as_object().unwrap() {
            match value {
                Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
                _ => all[name] = value.clone(),
            }
        }
        let all = all.as_object().unwrap();
        issuer.check_envelope(all, Timestamp::from_second(NOW).unwrap(), Duration::from_secs(30))?;
        issuer.identity(all)
    }

    fn check(config: &str, claims: Value, expected: Result<(&str, &[&str]), &str>) {
        let found = verify(&issuer(config), &claims);
        match (&found, expected) {
            (Ok(identity), Ok((user, groups))) => {
                assert_eq!(
                    (identity.user.as_str(), identity.groups.as_slice()),
                    (user, &*to_strings(groups))
                );
            }
            (Err(error), Err(code)) => assert_eq!(error.code, code, "{claims}: {error:?}"),
            _ => panic!("{claims}: {found:?}"),
        }
    }

    fn to_strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn dates_are_checked_with_a_leeway() {
        let fine = Ok(("a:42", &[][..]));
        for (claims, expected) in [
            (json!({ "exp": NOW - 29 }), fine),
            (json!({ "exp": NOW - 30 }), Err("oidc/expired")),
            (json!({ "exp": NOW as f64 + 0.5 }), fine),
            (json!({ "exp": null }), Err("oidc/malformed")),
            (json!({ "exp": "soon" }), Err("oidc/malformed")),
            (json!({ "exp": 1e300 }), Err("oidc/malformed")),
            (json!({ "exp": u64::MAX }), Err("oidc/malformed")),
            (json!({ "exp": i64::MIN }), Err("oidc/malformed")),
            (json!({ "nbf": NOW + 30 }), fine),
            (json!({ "nbf": NOW + 31 }), Err("oidc/not-yet-valid")),
            (json!({ "iat": NOW + 31 }), Err("oidc/not-yet-valid")),
            (json!({ "iat": {} }), Err("oidc/malformed")),
        ] {
            check(PLAIN, claims, expected);
        }
    }

    #[test]
    fn the_token_must_be_for_us() {
        let fine = Ok(("a:42", &[][..]));
        check(PLAIN, json!({ "aud": ["x", "two"] }), fine);
        for aud in [json!("x"), json!([]), json!(["x"]), json!(7), json!([["two"]]), json!(null), json!("")] {
            check(PLAIN, json!({ "aud": aud }), Err("oidc/wrong-audience"));
        }
        check(PLAIN, json!({ "azp": "anyone" }), fine);
        check(PLAIN, json!({ "azp": 7 }), Err("oidc/wrong-party"));
        let parties = &format!("{PLAIN}\nauthorizedParties: [cli]");
        check(parties, json!({ "azp": "cli" }), fine);
        check(parties, json!({ "azp": "other" }), Err("oidc/wrong-party"));
        check(parties, json!({}), Err("oidc/wrong-party"));
    }

    #[test]
    fn claims_become_user_and_groups() {
        check(PLAIN, json!({ "groups": ["dev", "ops"] }), Ok(("a:42", &["a:dev", "a:ops"])));
        check(PLAIN, json!({ "groups": "dev" }), Ok(("a:42", &["a:dev"])));
        check(PLAIN, json!({ "groups": [7] }), Err("oidc/mapping"));
        check(PLAIN, json!({ "groups": {} }), Err("oidc/mapping"));
        check(PLAIN, json!({ "_claim_names": { "groups": "src1" } }), Err("oidc/mapping"));
        check(PLAIN, json!({ "sub": null }), Err("oidc/mapping"));
        check(PLAIN, json!({ "sub": "" }), Err("oidc/mapping"));
        check(PLAIN, json!({ "sub": "a\nb" }), Err("oidc/mapping"));

        let email = "claimMappings: {username: {claim: email, prefix: ''}}";
        check(email, json!({ "email": "a@x" }), Ok(("a@x", &[])));
        check(email, json!({ "email": "a@x", "email_verified": true }), Ok(("a@x", &[])));
        check(email, json!({ "email": "a@x", "email_verified": false }), Err("oidc/mapping"));
        check(email, json!({}), Err("oidc/mapping"));

        let cel = "claimMappings: {username: {expression: \"claims.sub + '@a'\"}, groups: {expression: claims.roles}}";
        check(cel, json!({ "roles": ["r"] }), Ok(("42@a", &["r"])));
        check(cel, json!({}), Err("oidc/mapping"));
    }

    #[test]
    fn uid_extra_and_actors_come_along() {
        let config = "claimMappings: {username: {claim: sub, prefix: ''}, uid: {claim: oid}, extra: [{key: x.org/t, valueExpression: claims.t}]}";
        let claims = json!({ "oid": "7", "t": ["a", "b"], "act": { "sub": "bot", "act": { "sub": "ci", "iss": "https://b" } } });
        let identity = verify(&issuer(config), &claims).unwrap();
        assert_eq!(identity.uid.as_deref(), Some("7"));
        assert_eq!(identity.extra["x.org/t"], ["a", "b"]);
        let actors: Vec<(&str, &str)> =
            identity.delegation.iter().map(|actor| (&*actor.issuer, &*actor.subject)).collect();
        assert_eq!(actors, [("https://a", "bot"), ("https://b", "ci")]);
        assert_eq!(verify(&issuer(PLAIN), &json!({ "act": "bot" })).unwrap_err().code, "oidc/mapping");
    }

    #[test]
    fn system_names_are_refused() {
        let bare = "claimMappings: {username: {claim: sub, prefix: ''}, groups: {claim: groups, prefix: ''}}";
        check(bare, json!({ "sub": "system:admin" }), Err("oidc/reserved-name"));
        check(bare, json!({ "groups": ["x", "system:masters"] }), Err("oidc/reserved-name"));
        check(bare, json!({ "sub": "system:serviceaccount:a:b" }), Err("oidc/reserved-name"));

        let preset = "preset: kubernetes-service-account";
        let claims = json!({
            "sub": "system:serviceaccount:shop:bot",
            "kubernetes.io": { "namespace": "shop", "serviceaccount": { "uid": "u" } },
        });
        check(
            preset,
            claims.clone(),
            Ok((
                "system:serviceaccount:shop:bot",
                &["system:serviceaccounts", "system:serviceaccounts:shop"],
            )),
        );
        assert_eq!(verify(&issuer(preset), &claims).unwrap().uid.as_deref(), Some("u"));
        let mut claims = claims;
        claims["sub"] = json!("system:admin");
        check(preset, claims, Err("oidc/reserved-name"));
    }

    #[test]
    fn rules_refuse_what_they_do_not_cover() {
        let equals = &format!("{PLAIN}\nclaimValidationRules: [{{claim: hd, requiredValue: x.org}}]");
        check(equals, json!({ "hd": "x.org" }), Ok(("a:42", &[])));
        check(equals, json!({ "hd": ["x.org"] }), Err("oidc/claim-rule"));
        check(equals, json!({}), Err("oidc/claim-rule"));
        let holds = &format!("{PLAIN}\nclaimValidationRules: [{{expression: 'claims.n < 5', message: big}}]");
        check(holds, json!({ "n": 4 }), Ok(("a:42", &[])));
        check(holds, json!({ "n": 5 }), Err("oidc/claim-rule"));
        check(holds, json!({}), Err("oidc/claim-rule"));
        assert_eq!(verify(&issuer(holds), &json!({ "n": 5 })).unwrap_err().public, "big");
        let user = &format!(
            "{PLAIN}\nuserValidationRules: [{{expression: \"user.groups.all(g, g.startsWith('a:')) && user.uid == ''\"}}]"
        );
        check(user, json!({ "groups": ["x"] }), Ok(("a:42", &["a:x"])));
        let user = &format!("{PLAIN}\nuserValidationRules: [{{expression: \"user.username != 'a:42'\"}}]");
        check(user, json!({}), Err("oidc/user-rule"));
    }

    #[test]
    fn presets_say_what_is_known() {
        let github =
            "preset: github-actions\nclaimValidationRules: [{claim: repository_owner, requiredValue: octo}]";
        let yaml = format!("issuer: {{audiences: [portcullis]}}\n{github}");
        let config: JwtConfig = serde_yaml::from_str(&yaml).unwrap();
        let issuer = compile::issuer(&config, "jwt.0", &mut Vec::new()).unwrap();
        assert_eq!(issuer.url, "https://token.actions.githubusercontent.com");
        let claims = json!({ "sub": "repo:octo/app:ref:x", "repository": "octo/app", "repository_owner": "octo", "actor": "mona" });
        let identity = verify(&issuer, &claims).unwrap();
        assert_eq!(identity.user, "github:repo:octo/app:ref:x");
        assert_eq!(identity.groups, ["github:repository:octo/app", "github:owner:octo"]);
        assert_eq!(identity.extra.keys().collect::<Vec<_>>(), ["github.com/actor"]);

        let google = "preset: google\nclaimValidationRules: [{claim: hd, requiredValue: x.org}]";
        check(google, json!({ "hd": "x.org", "email": "a@x.org" }), Err("oidc/claim-rule"));
        let claims = json!({ "hd": "x.org", "email": "a@x.org", "email_verified": true });
        check(google, claims, Ok(("google:a@x.org", &[])));
        check("preset: entra", json!({ "oid": "1", "groups": ["g"] }), Ok(("entra:1", &["entra:g"])));
        check("preset: keycloak", json!({ "preferred_username": "ann" }), Ok(("keycloak:ann", &[])));
        check("preset: okta", json!({}), Ok(("okta:42", &[])));
        check("preset: dex", json!({ "email": "a@x", "email_verified": true }), Ok(("dex:a@x", &[])));
    }

    proptest! {
        #[test]
        fn any_date_gets_an_answer(number in any::<f64>(), whole in any::<i64>()) {
            let _ = verify(&issuer(PLAIN), &json!({ "exp": number, "nbf": whole }));
        }
    }
}
