//! Which issuers are trusted, and what their claims mean: the shape of Kubernetes' `AuthenticationConfiguration` `jwt`
//! list, with presets and a few fields of our own.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Preset;

/// Trusted issuers, and how their keys are kept.
///
/// `jwt` has the shape and meaning of
/// [`AuthenticationConfiguration`](https://kubernetes.io/docs/reference/access-authn-authz/authentication/#using-authentication-configuration)
/// v1, so an API server's entry can be pasted here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OidcConfig {
    /// The issuers. A token is judged by the one whose `issuer.url` equals its `iss`, and by no other.
    pub jwt: Vec<JwtConfig>,
    /// How far clocks may be apart: added to `exp`, taken from `nbf` and `iat`. At most 5 minutes.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub leeway: Duration,
    /// How old an issuer's keys get before they are fetched again, in the background.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub key_refresh: Duration,
    /// How old keys may get while the issuer cannot be reached. After that its tokens are refused (503).
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub outage_tolerance: Duration,
    /// How long to wait between fetches that a token with an unknown key id, or a failed fetch, gives rise to.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub key_retry: Duration,
    /// How long one fetch may take.
    #[serde(with = "friendly")]
    #[schemars(with = "String")]
    pub fetch_timeout: Duration,
    /// How many verified tokens are remembered, so that a token in use costs a SHA-256 rather than a signature check.
    /// 0 remembers none.
    pub token_cache: usize,
}

impl Default for OidcConfig {
    fn default() -> Self {
        Self {
            jwt: Vec::new(),
            leeway: Duration::from_secs(30),
            key_refresh: Duration::from_secs(5 * 60),
            outage_tolerance: Duration::from_secs(60 * 60),
            key_retry: Duration::from_secs(10),
            fetch_timeout: Duration::from_secs(10),
            token_cache: 4096,
        }
    }
}

/// One issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct JwtConfig {
    /// A well-known kind of issuer, which fills in what is left out below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Where tokens come from, and for whom they are.
    pub issuer: IssuerConfig,
    /// What must be true of the claims.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claim_validation_rules: Vec<ClaimValidationRule>,
    /// What the claims mean.
    pub claim_mappings: ClaimMappings,
    /// What must be true of the resulting user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user_validation_rules: Vec<UserValidationRule>,
    /// Signature algorithms to accept, of those that the key's type allows; all of these if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signing_algorithms: Vec<SigningAlgorithm>,
    /// Clients (`azp`) that may have asked for the token. If not empty, a token without `azp` is refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authorized_parties: Vec<String>,
}

/// Where tokens come from, and for whom they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct IssuerConfig {
    /// The issuer: equal to the tokens' `iss`, letter by letter. `https`.
    pub url: String,
    /// Where the discovery document is, if not at `<url>/.well-known/openid-configuration`.
    #[serde(rename = "discoveryURL", skip_serializing_if = "Option::is_none")]
    pub discovery_url: Option<String>,
    /// Certificates (PEM) to trust for the issuer, instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
    /// A token must be for at least one of these (`aud`). Never empty.
    pub audiences: Vec<String>,
    /// `MatchAny`; must be set when there are several audiences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience_match_policy: Option<AudienceMatchPolicy>,
    /// Allows `http` to addresses of this machine (`127.0.0.0/8`, `[::1]`, `localhost`): for demonstrations and tests.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_allow_loopback_http: bool,
}

/// How several audiences are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AudienceMatchPolicy {
    /// The token is for at least one of them.
    MatchAny,
}

/// Something that must be true of the claims: `claim` with `requiredValue`, or a CEL `expression` on `claims`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClaimValidationRule {
    /// A claim that must be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Its value, a string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required_value: Option<String>,
    /// CEL that yields a boolean; `claims` is the token's payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    /// What the caller is told when the expression yields false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What the claims mean.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClaimMappings {
    /// The user name. Required, by configuration or preset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<PrefixedMapping>,
    /// The groups: a string or a list of strings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<PrefixedMapping>,
    /// The stable user id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<Mapping>,
    /// Extra attributes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<ExtraMapping>,
}

/// A claim with a prefix, or a CEL expression: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PrefixedMapping {
    /// The claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// What is put before its value; must be given with `claim`, and may be empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// CEL on `claims`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
}

/// A claim, or a CEL expression: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Mapping {
    /// The claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// CEL on `claims`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
}

/// An extra attribute of the user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtraMapping {
    /// Its key: a lower-case domain with a path, such as `example.com/team`.
    pub key: String,
    /// CEL on `claims` that yields a string or a list of strings; empty ones are left out.
    pub value_expression: String,
}

/// Something that must be true of the user that the mappings yield.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserValidationRule {
    /// CEL that yields a boolean; `user` has `username`, `uid`, `groups` and `extra`.
    pub expression: String,
    /// What the caller is told when it yields false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A JWS algorithm (RFC 7518 §3.1, RFC 8037 §3.1). There is no `none` and no HMAC to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the RFCs name them")]
pub enum SigningAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// A configuration that cannot be meant as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
#[non_exhaustive]
pub struct ConfigError {
    /// Which field, as a dotted path from [`OidcConfig`]: `jwt.0.issuer.url`.
    pub field: String,
    /// What is wrong with it, and what to do.
    pub message: String,
}

impl ConfigError {
    pub(crate) fn at(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Durations as people write them: `30s`, `5m`, `1h 30m`.
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_servers_entry_can_be_pasted() {
        let yaml = r#"
jwt:
  - issuer:
      url: https://issuer.example
      discoveryURL: https://discovery.example/.well-known/openid-configuration
      audiences: [one, two]
      audienceMatchPolicy: MatchAny
    claimValidationRules:
      - { claim: hd, requiredValue: example.com }
      - { expression: 'claims.hd == "example.com"', message: wrong domain }
    claimMappings:
      username: { expression: 'claims.username + ":external-user"' }
      groups: { claim: roles, prefix: "issuer:" }
      uid: { claim: sub }
      extra:
        - { key: example.com/tenant, valueExpression: claims.tenant }
    userValidationRules:
      - { expression: "!user.username.startsWith('system:')", message: reserved }
leeway: 1m
keyRefresh: 1h 30m
"#;
        let config: OidcConfig = serde_yaml::from_str(yaml).unwrap();
        assert_eq!(config.leeway, Duration::from_secs(60));
        assert_eq!(config.key_refresh, Duration::from_secs(5400));
        let again: OidcConfig = serde_yaml::from_str(&serde_yaml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn unknown_fields_are_refused_everywhere() {
        for yaml in ["jwtt: []", "jwt: [{issuer: {ur1: x}}]", "jwt: [{claimMappings: {user: {}}}]"] {
            let error = serde_yaml::from_str::<OidcConfig>(yaml).unwrap_err().to_string();
            assert!(error.contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn there_is_a_schema() {
        let schema = serde_json::to_string(&schemars::schema_for!(OidcConfig)).unwrap();
        assert!(schema.contains("discoveryURL") && schema.contains("insecureAllowLoopbackHttp"));
    }
}
