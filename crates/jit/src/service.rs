//! The token service: OAuth 2.0 endpoints that give out grants, keep them alive and take them back.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Form, Json, Router,
    extract::{DefaultBodyLimit, FromRequest, Request, State, rejection::FormRejection},
    http::{HeaderMap, StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use portcullis_core::{AuditId, AuthenticationError, Authenticator, BearerToken, Connection, Trail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    grants::{GrantError, GrantRequest, Grants},
    token::{AuthorizationDetails, Confirmation, DETAILS_TYPE},
};

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// Subject tokens are JWTs, whatever the caller calls them (RFC 8693 §3).
const SUBJECT_TOKEN_TYPES: [&str; 3] =
    ["urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token", ACCESS_TOKEN];

/// The longest form anybody reads.
const FORM_LIMIT: usize = 64 * 1024;
/// The longest task description that is kept.
const TASK_LIMIT: usize = 1024;

#[derive(Clone)]
struct TokenService {
    grants: Grants,
    authenticator: Arc<dyn Authenticator>,
}

/// Routes: `/token` (RFC 8693), `/renew`, `/revoke` (RFC 7009), `/introspect` (RFC 7662), `/jwks` (RFC 7517).
///
/// Mount them under the issuer's path. Subject tokens are verified by `authenticator`.
pub fn token_service(grants: Grants, authenticator: Arc<dyn Authenticator>) -> Router {
    Router::new()
        .route("/token", post(token))
        .route("/renew", post(renew))
        .route("/revoke", post(revoke))
        .route("/introspect", post(introspect))
        .route("/jwks", get(jwks))
        .layer(DefaultBodyLimit::max(FORM_LIMIT))
        .with_state(TokenService { grants, authenticator })
}

/// The authorization server's metadata (RFC 8414 §2), for `/.well-known/oauth-authorization-server<path of the issuer>`.
/// `endpoints` is the URL that [`token_service`] is mounted at.
pub fn metadata(grants: &Grants, endpoints: &str) -> Value {
    json!({
        "issuer": grants.issuer(),
        "token_endpoint": format!("{endpoints}/token"),
        "revocation_endpoint": format!("{endpoints}/revoke"),
        "introspection_endpoint": format!("{endpoints}/introspect"),
        "jwks_uri": format!("{endpoints}/jwks"),
        "grant_types_supported": [TOKEN_EXCHANGE],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
        "authorization_details_types_supported": [DETAILS_TYPE],
    })
}

/// RFC 8693 §2.1, RFC 9396 §2; `profile`, `task` and `ttl` (whole seconds) are ours. A parameter without a value is as good as
/// absent (RFC 6749 §3.2).
#[derive(Deserialize)]
struct TokenForm {
    grant_type: String,
    #[serde(default)]
    subject_token: String,
    #[serde(default)]
    subject_token_type: String,
    #[serde(default)]
    profile: String,
    #[serde(default)]
    task: String,
    #[serde(default)]
    ttl: String,
    #[serde(default)]
    authorization_details: String,
}

/// RFC 8693 §2.2.1; what follows `expires_in` is ours.
#[derive(Serialize)]
struct TokenResponse {
    access_token: String,
    issued_token_type: &'static str,
    token_type: &'static str,
    expires_in: u64,
    authorization_details: Value,
    grant_id: String,
    renewal_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_seconds: Option<u64>,
}

async fn token(
    State(service): State<TokenService>,
    trail: Option<Extension<Trail>>,
    audit_id: Option<Extension<AuditId>>,
    connection: Option<Extension<Connection>>,
    OAuthForm(form): OAuthForm<TokenForm>,
) -> Result<Response, OAuthError> {
    if form.grant_type != TOKEN_EXCHANGE {
        return Err(OAuthError::new(
            "unsupported_grant_type",
            format!("this server knows {TOKEN_EXCHANGE} only"),
        ));
    }
    if !SUBJECT_TOKEN_TYPES.contains(&form.subject_token_type.as_str()) {
        let known = SUBJECT_TOKEN_TYPES.join(", ");
        return Err(OAuthError::new("invalid_request", format!("subject_token_type must be one of {known}")));
    }
    if form.subject_token.is_empty() || form.profile.is_empty() {
        return Err(OAuthError::new("invalid_request", "subject_token and profile are needed"));
    }
    if form.task.len() > TASK_LIMIT {
        return Err(OAuthError::new("invalid_request", format!("task is longer than {TASK_LIMIT} bytes")));
    }
    let ttl = given(form.ttl).map(|ttl| ttl.parse().map(Duration::from_secs));
    let ttl =
        ttl.transpose().map_err(|_| OAuthError::new("invalid_request", "ttl is no number of seconds"))?;
    let rules = given(form.authorization_details).as_deref().map(parse_details).transpose()?;
    // A grant cannot beget grants: a task would outlive itself.
    if service.grants.claims(&form.subject_token) {
        return Err(OAuthError::new("invalid_grant", "a grant cannot be exchanged for another grant"));
    }
    let subject = service.authenticator.authenticate(&form.subject_token).await?;
    let Extension(trail) = trail.unwrap_or_default();
    trail.note().identity = Some(subject.identity.clone());
    let request = GrantRequest {
        profile: form.profile,
        task: given(form.task),
        ttl,
        rules,
        certificate_sha256: connection.and_then(|Extension(connection)| connection.certificate_sha256),
        audit_id: audit_id.map(|Extension(id)| id),
    };
    let issued = service.grants.issue(&subject.identity, request).await?;
    trail.note().grant = Some(issued.grant.clone());
    let lives = issued.grant.expires_at.duration_since(issued.grant.issued_at);
    Ok(no_store(TokenResponse {
        access_token: issued.token,
        issued_token_type: ACCESS_TOKEN,
        token_type: "Bearer",
        expires_in: u64::try_from(lives.as_secs()).unwrap_or_default(),
        authorization_details: json!([{ "type": DETAILS_TYPE, "rules": issued.grant.rules }]),
        grant_id: issued.grant.id,
        renewal_token: issued.renewal_token,
        lease_seconds: issued.heartbeat.map(|heartbeat| heartbeat.as_secs()),
    }))
}

fn given(value: String) -> Option<String> {
    (!value.is_empty()).then_some(value)
}

fn parse_details(text: &str) -> Result<Vec<portcullis_core::ResourceRule>, OAuthError> {
    let wrong = |message: String| OAuthError::new("invalid_authorization_details", message);
    let details: Vec<AuthorizationDetails> =
        serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    match details.iter().find(|details| details.kind != DETAILS_TYPE) {
        Some(other) => {
            Err(wrong(format!("`{}` is no type this server knows; it knows {DETAILS_TYPE}", other.kind)))
        }
        None => Ok(details.into_iter().flat_map(|details| details.rules).collect()),
    }
}

#[derive(Deserialize)]
struct RenewForm {
    renewal_token: String,
}

async fn renew(
    State(service): State<TokenService>,
    OAuthForm(form): OAuthForm<RenewForm>,
) -> Result<Response, OAuthError> {
    let record = service.grants.renew(&form.renewal_token).await?;
    Ok(no_store(json!({
        "grant_id": record.grant.id,
        "lease_seconds": record.heartbeat.map(|heartbeat| heartbeat.as_secs()),
        "expires_at": record.grant.expires_at,
    })))
}

#[derive(Deserialize)]
struct TokenOnly {
    token: String,
}

/// RFC 7009 §2.2: a token that is not known is as good as revoked.
async fn revoke(
    State(service): State<TokenService>,
    audit_id: Option<Extension<AuditId>>,
    OAuthForm(form): OAuthForm<TokenOnly>,
) -> Result<Response, OAuthError> {
    service.grants.revoke_by_token(&form.token, audit_id.map(|Extension(id)| id)).await?;
    Ok(StatusCode::OK.into_response())
}

/// RFC 7662: for holders of an OIDC token of their own.
async fn introspect(
    State(service): State<TokenService>,
    headers: HeaderMap,
    OAuthForm(form): OAuthForm<TokenOnly>,
) -> Result<Response, OAuthError> {
    let bearer = BearerToken::find(&headers).ok().flatten();
    let bearer = bearer.ok_or_else(|| OAuthError::unauthenticated("introspection needs a bearer token"))?;
    service
        .authenticator
        .authenticate(bearer.reveal())
        .await
        .map_err(|error| OAuthError::unauthenticated(error.public))?;
    let active = match service.grants.verify(&form.token).await {
        Ok(active) => active,
        // Nobody can tell: "not active" would be a lie that others may remember.
        Err(GrantError::Unavailable(detail)) => return Err(OAuthError::unavailable(&detail)),
        Err(_) => return Ok(no_store(json!({ "active": false }))),
    };
    let grant = &active.record.grant;
    let mut answer = json!({
        "active": true,
        "token_type": "Bearer",
        "iss": service.grants.issuer(),
        "sub": active.record.identity.subject,
        "username": active.record.identity.user,
        "jti": grant.id,
        "client_id": grant.profile,
        "iat": grant.issued_at.as_second(),
        "exp": grant.expires_at.as_second(),
        "authorization_details": [{ "type": DETAILS_TYPE, "rules": grant.rules }],
    });
    // RFC 8705 §3.2
    if let Some(cnf) = active.record.certificate_sha256.as_deref().and_then(Confirmation::of) {
        answer["cnf"] = json!(cnf);
    }
    Ok(no_store(answer))
}

async fn jwks(State(service): State<TokenService>) -> Json<Value> {
    Json(service.grants.key().jwks())
}

/// Answers that hold tokens are kept by nobody (RFC 6749 §5.1).
fn no_store(body: impl Serialize) -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// A form, or an answer in OAuth's words: a parameter that is missing, or there twice, is an invalid request (RFC 6749 §5.2).
struct OAuthForm<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for OAuthForm<T> {
    type Rejection = OAuthError;

    async fn from_request(request: Request, state: &S) -> Result<Self, OAuthError> {
        match Form::from_request(request, state).await {
            Ok(Form(form)) => Ok(Self(form)),
            Err(rejection) => Err(rejection.into()),
        }
    }
}

/// An error as OAuth writes it (RFC 6749 §5.2).
struct OAuthError {
    status: StatusCode,
    error: &'static str,
    description: String,
}

impl OAuthError {
    fn new(error: &'static str, description: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, description: description.into() }
    }

    fn unauthenticated(description: impl Into<String>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, ..Self::new("invalid_client", description) }
    }

    fn unavailable(detail: &str) -> Self {
        tracing::error!(detail, "the token service cannot answer");
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            ..Self::new("temporarily_unavailable", "the token service cannot answer just now")
        }
    }
}

impl From<FormRejection> for OAuthError {
    fn from(rejection: FormRejection) -> Self {
        let status = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self { status, ..Self::new("invalid_request", rejection.body_text()) }
    }
}

impl From<AuthenticationError> for OAuthError {
    fn from(error: AuthenticationError) -> Self {
        match error.unavailable {
            true => Self::unavailable(&error.detail),
            // RFC 8693 §2.2.2: a subject token that is not believed is an invalid request.
            false => {
                Self::new("invalid_request", format!("the subject token is not believed: {}", error.public))
            }
        }
    }
}

impl From<GrantError> for OAuthError {
    fn from(error: GrantError) -> Self {
        let description = error.to_string();
        match error {
            GrantError::NoProfile(_) => Self::new("unauthorized_client", description),
            GrantError::TooWide(_) | GrantError::TooMuch(_) => {
                Self::new("invalid_authorization_details", description)
            }
            GrantError::TooLong(_) | GrantError::TooMany(_) | GrantError::Disabled => {
                Self::new("invalid_request", description)
            }
            GrantError::NotActive => Self::new("invalid_grant", description),
            GrantError::Unavailable(detail) => Self::unavailable(&detail),
        }
    }
}

impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.error, "error_description": self.description });
        (self.status, no_store(body)).into_response()
    }
}
