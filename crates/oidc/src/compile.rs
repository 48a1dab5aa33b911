//! From a configuration to an [`Issuer`]; everything that can be wrong with it is said at once.

use rustls_pki_types::{CertificateDer, pem::PemObject};
use url::{Host, Url};

use crate::{
    cel::Expression,
    config::{ConfigError, ExtraMapping, JwtConfig, Mapping, OidcConfig, PrefixedMapping},
    issuer::{Issuer, Rule, Source},
    preset::Preset,
};

/// The longest leeway that still makes `exp` mean something.
const MAX_LEEWAY_SECONDS: u64 = 300;

impl OidcConfig {
    /// Everything that is wrong with this configuration; empty if it is fine.
    pub fn validate(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        if self.leeway.as_secs() > MAX_LEEWAY_SECONDS {
            errors.push(ConfigError::at("leeway", "longer than 5 minutes"));
        }
        if self.key_refresh.is_zero() {
            errors.push(ConfigError::at("keyRefresh", "must not be zero: keys would always be too old"));
        }
        if self.outage_tolerance < self.key_refresh {
            errors.push(ConfigError::at("outageTolerance", "shorter than keyRefresh"));
        }
        if self.key_retry.is_zero() {
            errors.push(ConfigError::at(
                "keyRetry",
                "must not be zero: it limits how often an issuer is asked",
            ));
        }
        if self.fetch_timeout.is_zero() {
            errors.push(ConfigError::at("fetchTimeout", "must not be zero"));
        }
        for (n, jwt) in self.jwt.iter().enumerate() {
            let path = format!("jwt.{n}");
            if let Some(issuer) = issuer(jwt, &path, &mut errors) {
                if seen.contains(&issuer.url) {
                    errors.push(ConfigError::at(format!("{path}.issuer.url"), "named twice"));
                }
                seen.push(issuer.url);
            }
        }
        errors
    }
}

/// Compiles one entry; `None` if `errors` grew.
pub(crate) fn issuer(config: &JwtConfig, path: &str, errors: &mut Vec<ConfigError>) -> Option<Issuer> {
    let before = errors.len();
    let own_rules = config.claim_validation_rules.len() + config.user_validation_rules.len();
    let mut config = config.clone();
    if let Some(preset) = config.preset {
        preset.fill(&mut config);
        if own_rules == 0 && preset.is_open_to_everybody(&config.issuer.url) {
            errors.push(ConfigError::at(
                format!("{path}.claimValidationRules"),
                "this issuer gives tokens to everybody, so at least one rule must say whose are accepted",
            ));
        }
    }
    let mut compiler = Compiler { errors };
    compiler.endpoints(&config, path);
    let rules = compiler.rules(&config, path);
    let mappings = &config.claim_mappings;
    let at = format!("{path}.claimMappings");
    let username = match &mappings.username {
        Some(mapping) => compiler.prefixed(mapping, &format!("{at}.username")),
        None => compiler.wrong(format!("{at}.username"), "required (or name a `preset`)"),
    };
    let groups = mappings.groups.as_ref().map(|mapping| compiler.prefixed(mapping, &format!("{at}.groups")));
    let uid = mappings.uid.as_ref().map(|mapping| compiler.mapping(mapping, &format!("{at}.uid")));
    let extra = mappings
        .extra
        .iter()
        .enumerate()
        .filter_map(|(n, mapping)| compiler.extra(mapping, &mappings.extra[..n], &format!("{at}.extra.{n}")))
        .collect();
    let user_rules = config
        .user_validation_rules
        .iter()
        .enumerate()
        .filter_map(|(n, rule)| {
            let at = format!("{path}.userValidationRules.{n}.expression");
            let expression = compiler.expression(&rule.expression, "user", at)?;
            Some((expression, rule.message.clone()))
        })
        .collect();
    compiler.email_is_verified(&config, &at);
    if errors.len() > before {
        return None;
    }
    Some(Issuer {
        url: config.issuer.url,
        audiences: config.issuer.audiences,
        algorithms: config.signing_algorithms,
        authorized_parties: config.authorized_parties,
        rules,
        username: username?,
        groups: groups.flatten(),
        uid: uid.flatten(),
        extra,
        user_rules,
        names_service_accounts: config.preset == Some(Preset::KubernetesServiceAccount),
    })
}

/// The issuer's URL and preset applied: where its discovery document is.
pub(crate) fn discovery_url(config: &JwtConfig, issuer: &Issuer) -> Option<Url> {
    match &config.issuer.discovery_url {
        Some(url) => Url::parse(url).ok(),
        None => {
            let base = issuer.url.trim_end_matches('/');
            Url::parse(&format!("{base}/.well-known/openid-configuration")).ok()
        }
    }
}

/// Whether a document may be fetched from `url`: over TLS, or (where allowed) from this machine itself.
pub(crate) fn is_fetchable(url: &Url, allow_loopback_http: bool) -> bool {
    let is_loopback = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => return false,
    };
    url.username().is_empty()
        && url.password().is_none()
        && (url.scheme() == "https" || (url.scheme() == "http" && allow_loopback_http && is_loopback))
}

struct Compiler<'e> {
    errors: &'e mut Vec<ConfigError>,
}

impl Compiler<'_> {
    fn note(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.errors.push(ConfigError::at(field, message));
    }

    fn wrong<T>(&mut self, field: impl Into<String>, message: impl Into<String>) -> Option<T> {
        self.note(field, message);
        None
    }

    fn endpoints(&mut self, config: &JwtConfig, path: &str) {
        let issuer = &config.issuer;
        self.url(&issuer.url, issuer.insecure_allow_loopback_http, format!("{path}.issuer.url"));
        if let Some(discovery) = &issuer.discovery_url {
            let at = format!("{path}.issuer.discoveryURL");
            if *discovery == issuer.url {
                self.note(at.clone(), "must not be the issuer's URL itself");
            }
            self.url(discovery, issuer.insecure_allow_loopback_http, at);
        }
        let at = format!("{path}.issuer.audiences");
        if issuer.audiences.is_empty() || issuer.audiences.iter().any(String::is_empty) {
            self.note(at, "name at least one audience: tokens for others must not be accepted");
        } else if issuer.audiences.len() > 1 && issuer.audience_match_policy.is_none() {
            self.note(
                format!("{path}.issuer.audienceMatchPolicy"),
                "must be MatchAny when there are several audiences",
            );
        }
        if let Some(pem) = &issuer.certificate_authority {
            let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
            if found.map_or(true, |certificates| certificates.is_empty()) {
                self.note(format!("{path}.issuer.certificateAuthority"), "no certificate in PEM");
            }
        }
    }

    fn url(&mut self, text: &str, allow_loopback_http: bool, at: String) {
        match Url::parse(text) {
            Err(error) => self.note(at, format!("not a URL: {error}")),
            Ok(url) if url.query().is_some() || url.fragment().is_some() => {
                self.note(at, "must have neither query nor fragment");
            }
            Ok(url) if !is_fetchable(&url, allow_loopback_http) => {
                self.note(at, "must be an https URL without user name and password");
            }
            Ok(_) => {}
        }
    }

    fn rules(&mut self, config: &JwtConfig, path: &str) -> Vec<Rule> {
        let mut rules = Vec::new();
        for (n, rule) in config.claim_validation_rules.iter().enumerate() {
            let at = format!("{path}.claimValidationRules.{n}");
            match (&rule.claim, &rule.required_value, &rule.expression) {
                (Some(claim), value, None) if !claim.is_empty() && rule.message.is_none() => {
                    rules.push(Rule::Equals {
                        claim: claim.clone(),
                        value: value.clone().unwrap_or_default(),
                    });
                }
                (None, None, Some(source)) => {
                    if let Some(expression) = self.expression(source, "claims", format!("{at}.expression")) {
                        rules.push(Rule::Holds { expression, message: rule.message.clone() });
                    }
                }
                _ => self.note(at, "give `claim` and `requiredValue`, or `expression` and perhaps `message`"),
            }
        }
        rules
    }

    fn prefixed(&mut self, mapping: &PrefixedMapping, at: &str) -> Option<Source> {
        match (&mapping.claim, &mapping.prefix, &mapping.expression) {
            (Some(name), Some(prefix), None) if !name.is_empty() => {
                if prefix.starts_with("system:") {
                    return self.wrong(format!("{at}.prefix"), "`system:` names are Kubernetes' own");
                }
                Some(Source::Claim { name: name.clone(), prefix: prefix.clone() })
            }
            (Some(_), None, None) => {
                self.wrong(format!("{at}.prefix"), "must be given with `claim`; \"\" for none")
            }
            (None, None, Some(source)) => {
                self.expression(source, "claims", format!("{at}.expression")).map(Source::Expression)
            }
            _ => self.wrong(at, "give `claim` and `prefix`, or `expression`"),
        }
    }

    fn mapping(&mut self, mapping: &Mapping, at: &str) -> Option<Source> {
        match (&mapping.claim, &mapping.expression) {
            (Some(name), None) if !name.is_empty() => {
                Some(Source::Claim { name: name.clone(), prefix: String::new() })
            }
            (None, Some(source)) => {
                self.expression(source, "claims", format!("{at}.expression")).map(Source::Expression)
            }
            _ => self.wrong(at, "give `claim` or `expression`"),
        }
    }

    fn extra(
        &mut self,
        mapping: &ExtraMapping,
        earlier: &[ExtraMapping],
        at: &str,
    ) -> Option<(String, Expression)> {
        let key = &mapping.key;
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._/".contains(c);
        let domain = key.split_once('/').filter(|(domain, path)| domain.contains('.') && !path.is_empty());
        let Some((domain, _)) = domain.filter(|_| key.chars().all(legal)) else {
            return self.wrong(
                format!("{at}.key"),
                "must be a lower-case domain with a path, such as example.com/team",
            );
        };
        let is_reserved =
            |own: &str| domain == own || domain.strip_suffix(own).is_some_and(|rest| rest.ends_with('.'));
        if ["k8s.io", "kubernetes.io", "portcullis.dev"].into_iter().any(is_reserved) {
            return self.wrong(format!("{at}.key"), "this domain is reserved");
        }
        if earlier.iter().any(|other| other.key == *key) {
            return self.wrong(format!("{at}.key"), "named twice");
        }
        let expression =
            self.expression(&mapping.value_expression, "claims", format!("{at}.valueExpression"))?;
        Some((key.clone(), expression))
    }

    fn expression(&mut self, source: &str, variable: &str, at: String) -> Option<Expression> {
        match Expression::compile(source, variable) {
            Ok(expression) => Some(expression),
            Err(why) => self.wrong(at, why),
        }
    }

    /// As Kubernetes demands: who names people by an email address must look at whether it is theirs.
    fn email_is_verified(&mut self, config: &JwtConfig, at: &str) {
        let username = config.claim_mappings.username.as_ref().and_then(|name| name.expression.as_deref());
        let Some(username) = username.filter(|source| source.contains("claims.email")) else { return };
        let mut sources = config
            .claim_validation_rules
            .iter()
            .filter_map(|rule| rule.expression.as_deref())
            .chain(config.claim_mappings.extra.iter().map(|extra| extra.value_expression.as_str()))
            .chain([username]);
        if !sources.any(|source| {
            source.contains("claims.email_verified") || source.contains("claims.?email_verified")
        }) {
            self.note(
                format!("{at}.username.expression"),
                "uses claims.email, so claims.email_verified must be looked at, here or in a claim validation rule",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str, expected: &[&str]) {
        let config: OidcConfig = serde_yaml::from_str(yaml).unwrap();
        let found: Vec<String> = config.validate().into_iter().map(|error| error.field).collect();
        assert_eq!(found, expected, "{yaml}");
    }

    fn check_jwt(yaml: &str, expected: &[&str]) {
        check(&format!("jwt: [{{ {yaml} }}]"), expected);
    }

    const ISSUER: &str = "issuer: {url: 'https://a', audiences: [x]}";
    const USER: &str = "claimMappings: {username: {claim: sub, prefix: ''}}";

    #[test]
    fn what_is_wrong_is_said_where_it_stands() {
        check_jwt(&format!("{ISSUER}, {USER}"), &[]);
        check("{}", &[]);
        check(
            "{leeway: 6m, outageTolerance: 1m, keyRetry: 0s, fetchTimeout: 0s}",
            &["leeway", "outageTolerance", "keyRetry", "fetchTimeout"],
        );
        check("{keyRefresh: 0s}", &["keyRefresh"]);
        check(&format!("jwt: [{{ {ISSUER}, {USER} }}, {{ {ISSUER}, {USER} }}]"), &["jwt.1.issuer.url"]);
        check_jwt(ISSUER, &["jwt.0.claimMappings.username"]);
        check_jwt(USER, &["jwt.0.issuer.url", "jwt.0.issuer.audiences"]);
        for url in
            ["http://a", "http://127.0.0.1", "ftp://a", "https://u:p@a", "https://a?b", "https://a#b", "a"]
        {
            check_jwt(&format!("issuer: {{url: '{url}', audiences: [x]}}, {USER}"), &["jwt.0.issuer.url"]);
        }
        for url in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
            let issuer = format!("issuer: {{url: '{url}', audiences: [x], insecureAllowLoopbackHttp: true}}");
            check_jwt(&format!("{issuer}, {USER}"), &[]);
        }
        let remote = "issuer: {url: 'http://10.0.0.1', audiences: [x], insecureAllowLoopbackHttp: true}";
        check_jwt(&format!("{remote}, {USER}"), &["jwt.0.issuer.url"]);
        let several = "issuer: {url: 'https://a', audiences: [x, y]}";
        check_jwt(&format!("{several}, {USER}"), &["jwt.0.issuer.audienceMatchPolicy"]);
        let same = "issuer: {url: 'https://a', discoveryURL: 'https://a', audiences: [x]}";
        check_jwt(&format!("{same}, {USER}"), &["jwt.0.issuer.discoveryURL"]);
        let pem = "issuer: {url: 'https://a', audiences: [x], certificateAuthority: nonsense}";
        check_jwt(&format!("{pem}, {USER}"), &["jwt.0.issuer.certificateAuthority"]);
    }

    #[test]
    fn mappings_and_rules_are_checked() {
        let mapping = |yaml: &str, at: &str| {
            check_jwt(
                &format!("{ISSUER}, claimMappings: {{ {yaml} }}"),
                &[&format!("jwt.0.claimMappings.{at}")],
            );
        };
        mapping("username: {claim: sub}", "username.prefix");
        mapping("username: {claim: sub, prefix: 'system:x'}", "username.prefix");
        mapping("username: {claim: sub, prefix: '', expression: claims.sub}", "username");
        mapping("username: {expression: 'claims.sub +'}", "username.expression");
        mapping("username: {expression: user.username}", "username.expression");
        mapping("username: {expression: claims.email}", "username.expression");
        let user = "username: {claim: sub, prefix: ''}";
        mapping(&format!("{user}, groups: {{prefix: x}}"), "groups");
        mapping(&format!("{user}, uid: {{}}"), "uid");
        for key in ["team", "Example.com/x", "x.kubernetes.io/y", "k8s.io/y", "portcullis.dev/grant"] {
            mapping(&format!("{user}, extra: [{{key: {key}, valueExpression: claims.t}}]"), "extra.0.key");
        }
        let rule = |yaml: &str, at: &str| {
            check_jwt(&format!("{ISSUER}, {USER}, {yaml}"), &[&format!("jwt.0.{at}")]);
        };
        rule("claimValidationRules: [{}]", "claimValidationRules.0");
        rule("claimValidationRules: [{claim: a, expression: 'true'}]", "claimValidationRules.0");
        rule("claimValidationRules: [{expression: '('}]", "claimValidationRules.0.expression");
        rule("userValidationRules: [{expression: claims.sub}]", "userValidationRules.0.expression");
    }

    #[test]
    fn issuers_open_to_everybody_need_a_rule() {
        let audience = "issuer: {audiences: [x]}";
        for preset in ["github-actions", "gitlab", "google"] {
            check_jwt(&format!("preset: {preset}, {audience}"), &["jwt.0.claimValidationRules"]);
        }
        let own = "issuer: {url: 'https://gitlab.corp', audiences: [x]}";
        check_jwt(&format!("preset: gitlab, {own}"), &[]);
        check_jwt(&format!("preset: entra, {audience}"), &["jwt.0.issuer.url"]);
    }
}
