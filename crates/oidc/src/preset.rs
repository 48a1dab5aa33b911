//! What is known of well-known issuers: which claims say who somebody is, and which of them can be relied on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{ClaimValidationRule, ExtraMapping, JwtConfig, Mapping, PrefixedMapping};

/// A well-known kind of issuer. Fills in what its [`JwtConfig`] leaves out; audiences are always yours to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// [GitHub Actions](https://docs.github.com/en/actions/reference/security/oidc): `sub` as user, repository and owner as groups. Anybody's
    /// workflow gets tokens for any audience, so a claim validation rule (such as on `repository_owner`) is required.
    GithubActions,
    /// [GitLab CI](https://docs.gitlab.com/ci/secrets/id_token_authentication/): `sub` as user, project and namespace as groups. On gitlab.com a claim
    /// validation rule (such as on `namespace_path`) is required.
    Gitlab,
    /// A Kubernetes API server's
    /// [service account tokens](https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/). The one preset whose users and groups
    /// may begin with `system:serviceaccount`.
    KubernetesServiceAccount,
    /// [Google](https://developers.google.com/identity/openid-connect/openid-connect): the verified email as user. Anybody has an account, so a validation rule (such as
    /// on `hd`) is required.
    Google,
    /// [Microsoft Entra ID](https://learn.microsoft.com/entra/identity-platform/id-token-claims-reference), v2.0 tokens: `oid` as user, since names can change hands.
    Entra,
    /// [Okta](https://developer.okta.com/docs/reference/api/oidc/): `sub` as user, `groups`.
    Okta,
    /// [Keycloak](https://www.keycloak.org/): `preferred_username` as user, `sub` as uid, `groups`.
    Keycloak,
    /// [Dex](https://dexidp.io/docs/): the verified email as user, `groups`.
    Dex,
}

impl Preset {
    /// Fills in what `config` leaves out.
    pub(crate) fn fill(self, config: &mut JwtConfig) {
        let defaults = self.defaults();
        if config.issuer.url.is_empty() {
            config.issuer.url = defaults.url.to_owned();
        }
        let mappings = &mut config.claim_mappings;
        mappings.username.get_or_insert(defaults.username);
        mappings.groups = mappings.groups.take().or(defaults.groups);
        mappings.uid = mappings.uid.take().or(defaults.uid);
        if mappings.extra.is_empty() {
            mappings.extra = defaults.extra;
        }
        config.claim_validation_rules.extend(defaults.rules);
    }

    /// Whether `url` gives tokens to anybody who asks, so that being signed by it says nothing.
    pub(crate) fn is_open_to_everybody(self, url: &str) -> bool {
        match self {
            Self::GithubActions => url == GITHUB,
            Self::Gitlab => url == GITLAB,
            Self::Google => true,
            _ => false,
        }
    }

    fn defaults(self) -> Defaults {
        match self {
            Self::GithubActions => Defaults {
                url: GITHUB,
                groups: expression(
                    "['github:repository:' + claims.repository, 'github:owner:' + claims.repository_owner]",
                ),
                extra: vec![
                    extra("github.com/actor", "claims.?actor.orValue('')"),
                    extra("github.com/ref", "claims.?ref.orValue('')"),
                    extra("github.com/run-id", "claims.?run_id.orValue('')"),
                    extra("github.com/workflow-ref", "claims.?workflow_ref.orValue('')"),
                ],
                ..Defaults::of("sub", "github:")
            },
            Self::Gitlab => Defaults {
                url: GITLAB,
                groups: expression(
                    "['gitlab:project:' + claims.project_path, 'gitlab:namespace:' + claims.namespace_path]",
                ),
                extra: vec![
                    extra("gitlab.com/pipeline-id", "claims.?pipeline_id.orValue('')"),
                    extra("gitlab.com/job-id", "claims.?job_id.orValue('')"),
                    extra("gitlab.com/ref", "claims.?ref.orValue('')"),
                ],
                ..Defaults::of("sub", "gitlab:")
            },
            Self::KubernetesServiceAccount => Defaults {
                groups: expression(
                    "['system:serviceaccounts', 'system:serviceaccounts:' + claims['kubernetes.io'].namespace]",
                ),
                uid: Some(Mapping {
                    expression: Some("claims['kubernetes.io'].serviceaccount.uid".into()),
                    ..Mapping::default()
                }),
                ..Defaults::of("sub", "")
            },
            Self::Google => Defaults {
                url: "https://accounts.google.com",
                rules: vec![verified_email()],
                uid: claim("sub"),
                ..Defaults::of("email", "google:")
            },
            Self::Entra => Defaults {
                groups: prefixed("groups", "entra:"),
                uid: claim("oid"),
                extra: vec![
                    extra("microsoft.com/name", "claims.?preferred_username.orValue('')"),
                    extra("microsoft.com/tenant", "claims.?tid.orValue('')"),
                ],
                ..Defaults::of("oid", "entra:")
            },
            Self::Okta => Defaults { groups: prefixed("groups", "okta:"), ..Defaults::of("sub", "okta:") },
            Self::Keycloak => Defaults {
                groups: prefixed("groups", "keycloak:"),
                uid: claim("sub"),
                ..Defaults::of("preferred_username", "keycloak:")
            },
            Self::Dex => Defaults {
                groups: prefixed("groups", "dex:"),
                uid: claim("sub"),
                rules: vec![verified_email()],
                ..Defaults::of("email", "dex:")
            },
        }
    }
}

const GITHUB: &str = "https://token.actions.githubusercontent.com";
const GITLAB: &str = "https://gitlab.com";

struct Defaults {
    url: &'static str,
    username: PrefixedMapping,
    groups: Option<PrefixedMapping>,
    uid: Option<Mapping>,
    extra: Vec<ExtraMapping>,
    rules: Vec<ClaimValidationRule>,
}

impl Defaults {
    fn of(username: &str, prefix: &str) -> Self {
        Self {
            url: "",
            username: PrefixedMapping {
                claim: Some(username.into()),
                prefix: Some(prefix.into()),
                expression: None,
            },
            groups: None,
            uid: None,
            extra: Vec::new(),
            rules: Vec::new(),
        }
    }
}

fn prefixed(claim: &str, prefix: &str) -> Option<PrefixedMapping> {
    Some(PrefixedMapping { claim: Some(claim.into()), prefix: Some(prefix.into()), expression: None })
}

fn expression(expression: &str) -> Option<PrefixedMapping> {
    Some(PrefixedMapping { expression: Some(expression.into()), ..PrefixedMapping::default() })
}

fn claim(name: &str) -> Option<Mapping> {
    Some(Mapping { claim: Some(name.into()), expression: None })
}

fn extra(key: &str, value: &str) -> ExtraMapping {
    ExtraMapping { key: key.into(), value_expression: value.into() }
}

fn verified_email() -> ClaimValidationRule {
    ClaimValidationRule {
        expression: Some("claims.email_verified == true".into()),
        message: Some("the email address is not verified".into()),
        ..ClaimValidationRule::default()
    }
}
