//! The token endpoint (RFC 6749 §3.2) and the userinfo endpoint (OpenID Connect Core §5.3).

use std::{sync::Arc, time::Duration};

use aws_lc_rs::constant_time;
use axum::{
    Json,
    body::Bytes,
    extract::State as Shared,
    response::{IntoResponse, Response},
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    Core,
    params::Params,
    state::{Login, random},
};

/// An OAuth error (RFC 6749 §5.2).
struct OauthError(StatusCode, &'static str, &'static str);

const fn bad(error: &'static str, description: &'static str) -> OauthError {
    OauthError(StatusCode::BAD_REQUEST, error, description)
}

/// `POST /token`.
pub(super) async fn issue(Shared(core): Shared<Arc<Core>>, headers: HeaderMap, body: Bytes) -> Response {
    let answer = match grant(&core, &headers, &body) {
        Ok(tokens) => (StatusCode::OK, Json(tokens)).into_response(),
        Err(OauthError(code, error, description)) => {
            let challenge = [("www-authenticate", r#"Basic realm="token""#)];
            let body = Json(json!({"error": error, "error_description": description}));
            match code {
                StatusCode::UNAUTHORIZED => (code, challenge, body).into_response(),
                _ => (code, body).into_response(),
            }
        }
    };
    ([("cache-control", "no-store")], answer).into_response()
}

fn grant(core: &Core, headers: &HeaderMap, body: &[u8]) -> Result<Value, OauthError> {
    let params = Params::parse(body).map_err(|_| bad("invalid_request", "a parameter was given twice"))?;
    let client = authenticated_client(core, headers, &params)?;
    match params.get("grant_type") {
        "authorization_code" => by_code(core, &client, &params),
        "refresh_token" => by_refresh(core, &client, &params),
        "client_credentials" => by_credentials(core, &client, &params),
        "" => Err(bad("invalid_request", "grant_type is missing")),
        _ => {
            Err(bad("unsupported_grant_type", "use authorization_code, refresh_token or client_credentials"))
        }
    }
}

/// Which client asks; one with a secret has shown it (`client_secret_basic` or `client_secret_post`).
fn authenticated_client(core: &Core, headers: &HeaderMap, params: &Params) -> Result<String, OauthError> {
    const REFUSED: OauthError = OauthError(
        StatusCode::UNAUTHORIZED,
        "invalid_client",
        "unknown client, or a wrong or missing secret",
    );
    let basic = match headers.get("authorization") {
        Some(header) => Some(header.to_str().ok().and_then(basic).ok_or(REFUSED)?),
        None => None,
    };
    let (id, secret) =
        basic.unwrap_or_else(|| (params.get("client_id").into(), params.get("client_secret").into()));
    let expected = match core.client(&id) {
        Some(client) => client.secret.clone(),
        None => Some(core.agent_secret(&id).ok_or(REFUSED)?.to_owned()),
    };
    let matches = expected.is_none_or(|expected| {
        constant_time::verify_slices_are_equal(expected.as_bytes(), secret.as_bytes()).is_ok()
    });
    if matches { Ok(id) } else { Err(REFUSED) }
}

/// `Basic`, whose two halves are form-encoded first (RFC 6749 §2.3.1).
fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    let decode =
        |text: &str| Some(percent_decode_str(&text.replace('+', " ")).decode_utf8().ok()?.into_owned());
    scheme.eq_ignore_ascii_case("basic").then_some(())?;
    Some((decode(id)?, decode(secret)?))
}

fn by_code(core: &Core, client: &str, params: &Params) -> Result<Value, OauthError> {
    let login = core.state().spend_code(params.get("code"), core.clock.now());
    let login = login.ok_or(bad("invalid_grant", "the code is unknown, expired or was used before"))?;
    if login.client != client || login.redirect_uri != params.get("redirect_uri") {
        return Err(bad("invalid_grant", "the code was given to another client or redirect_uri"));
    }
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(params.get("code_verifier")));
    if constant_time::verify_slices_are_equal(challenge.as_bytes(), login.challenge.as_bytes()).is_err() {
        return Err(bad("invalid_grant", "code_verifier does not match the code_challenge"));
    }
    tokens(core, login)
}

fn by_refresh(core: &Core, client: &str, params: &Params) -> Result<Value, OauthError> {
    let login = core.state().spend_refresh(params.get("refresh_token"));
    match login.filter(|login| login.client == client) {
        Some(login) => tokens(core, Login { nonce: String::new(), ..login }),
        None => Err(bad("invalid_grant", "the refresh token is unknown or was used before")),
    }
}

/// An agent asks for itself. The audience may be chosen (`audience`, or `resource` of RFC 8707).
fn by_credentials(core: &Core, client: &str, params: &Params) -> Result<Value, OauthError> {
    let agent = core.personas.iter().any(|persona| persona.is_agent && persona.id == client);
    if !agent {
        return Err(bad("unauthorized_client", "only agents may use client_credentials"));
    }
    if !core.is_enabled(client) {
        return Err(bad("invalid_grant", "this account is disabled"));
    }
    let audience = [params.get("audience"), params.get("resource"), &core.audience];
    let audience = audience.into_iter().find(|audience| !audience.is_empty()).unwrap_or_default();
    let token = core.sign(client, audience, core.ttl, &json!({"azp": client})).map_err(|_| SERVER)?;
    Ok(
        json!({"access_token": token, "id_token": token, "token_type": "Bearer", "expires_in": core.ttl.as_secs()}),
    )
}

const SERVER: OauthError =
    OauthError(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "the token cannot be signed");
const ACCESS: Duration = Duration::from_secs(15 * 60);

fn tokens(core: &Core, login: Login) -> Result<Value, OauthError> {
    if !core.is_enabled(&login.persona) {
        return Err(bad("invalid_grant", "this account is disabled"));
    }
    let mut claims = json!({"azp": login.client, "auth_time": login.at.as_second()});
    if !login.nonce.is_empty() {
        claims["nonce"] = json!(login.nonce);
    }
    let id_token = core.sign(&login.persona, &login.client, core.ttl, &claims).map_err(|_| SERVER)?;
    let now = core.clock.now();
    let until = now.saturating_add(ACCESS).unwrap_or(now);
    let offline = login.has_scope("offline_access");
    let mut state = core.state();
    let access_token = state.new_access(login.clone(), until);
    let mut answer = json!({
        "access_token": access_token, "id_token": id_token, "token_type": "Bearer",
        "expires_in": ACCESS.as_secs(), "scope": login.scope,
    });
    if offline {
        answer["refresh_token"] = json!(state.new_refresh(login));
    }
    Ok(answer)
}

/// `GET` or `POST /userinfo`.
pub(super) async fn userinfo(Shared(core): Shared<Arc<Core>>, headers: HeaderMap) -> Response {
    let bearer = headers.get("authorization").and_then(|header| header.to_str().ok());
    let bearer = bearer.and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default();
    let persona = core.state().access(bearer, core.clock.now()).map(|login| login.persona.clone());
    let persona = persona.filter(|persona| core.is_enabled(persona));
    match core.personas.iter().find(|known| Some(&known.id) == persona.as_ref()) {
        Some(persona) => ([("cache-control", "no-store")], Json(persona.claims())).into_response(),
        None => {
            let challenge = [("www-authenticate", r#"Bearer error="invalid_token""#)];
            (StatusCode::UNAUTHORIZED, challenge, Json(json!({"error": "invalid_token"}))).into_response()
        }
    }
}

/// The secret of an agent: new for each provider.
pub(super) fn new_secret() -> String {
    random()
}
