//! The authorization endpoint: authorization code with PKCE (RFC 6749 §4.1, RFC 7636, OpenID Connect Core §3.1).

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{RawQuery, State as Shared},
    response::{Html, IntoResponse, Response},
};
use http::{HeaderValue, StatusCode};
use url::Url;

use super::{
    Core, page,
    params::Params,
    state::{Login, random},
};

/// A request that may be answered by a redirect.
struct Asked {
    params: Params,
    redirect: Url,
}

/// Why not: told to the person where the client cannot be trusted with the answer, to the client otherwise.
enum Refused {
    Person(String),
    Client(Box<Asked>, &'static str, &'static str),
}

/// `GET /authorize`: shows the login page.
pub(super) async fn show(Shared(core): Shared<Arc<Core>>, RawQuery(query): RawQuery) -> Response {
    match check(&core, query.unwrap_or_default().as_bytes()) {
        Ok(asked) => {
            let personas: Vec<_> =
                core.personas.iter().map(|persona| (persona.clone(), core.is_enabled(&persona.id))).collect();
            let html = page::login(asked.params.get("client_id"), &asked.params, &personas);
            page_response(StatusCode::OK, html, Some(&asked.redirect))
        }
        Err(refused) => refusal(&core, refused),
    }
}

/// `POST /authorize`: somebody chose who they are.
pub(super) async fn choose(Shared(core): Shared<Arc<Core>>, body: Bytes) -> Response {
    let asked = match check(&core, &body) {
        Ok(asked) => asked,
        Err(refused) => return refusal(&core, refused),
    };
    let persona = asked.params.get("persona");
    if !core.personas.iter().any(|known| known.id == persona) {
        return page_response(
            StatusCode::BAD_REQUEST,
            page::problem("There is nobody of that name here."),
            None,
        );
    }
    if !core.is_enabled(persona) {
        let refused = Refused::Client(Box::new(asked), "access_denied", "this account is disabled");
        return refusal(&core, refused);
    }
    let code = core.state().new_code(Login {
        client: asked.params.get("client_id").to_owned(),
        persona: persona.to_owned(),
        redirect_uri: asked.params.get("redirect_uri").to_owned(),
        challenge: asked.params.get("code_challenge").to_owned(),
        nonce: asked.params.get("nonce").to_owned(),
        scope: asked.params.get("scope").to_owned(),
        at: core.clock.now(),
        family: random(),
    });
    redirect(&core, asked, &[("code", &code)])
}

fn check(core: &Core, encoded: &[u8]) -> Result<Asked, Refused> {
    let person = |message: &str| Err(Refused::Person(message.to_owned()));
    let params = match Params::parse(encoded) {
        Ok(params) => params,
        Err(name) => return person(&format!("The parameter {name:?} was given twice.")),
    };
    let Some(client) = core.client(params.get("client_id")) else {
        return person("The application that sent you here is not known to this provider (client_id).");
    };
    let redirect_uri = params.get("redirect_uri");
    let (true, Ok(redirect)) = (client.may_redirect_to(redirect_uri), Url::parse(redirect_uri)) else {
        return person(
            "The application that sent you here wants its answer where it is not registered (redirect_uri).",
        );
    };
    let asked = Box::new(Asked { params, redirect });
    let params = &asked.params;
    let wrong = if params.get("response_type") != "code" {
        Some(("unsupported_response_type", "only response_type=code is supported"))
    } else if !["", "query"].contains(&params.get("response_mode")) {
        Some(("invalid_request", "only response_mode=query is supported"))
    } else if !params.get("scope").split(' ').any(|scope| scope == "openid") {
        Some(("invalid_scope", "scope must contain openid"))
    } else if params.get("code_challenge_method") != "S256" || params.get("code_challenge").len() != 43 {
        Some(("invalid_request", "PKCE is required: code_challenge with code_challenge_method=S256"))
    } else if params.get("prompt") == "none" {
        Some(("login_required", "this provider keeps no sessions: somebody has to choose"))
    } else {
        None
    };
    match wrong {
        Some((error, description)) => Err(Refused::Client(asked, error, description)),
        None => Ok(*asked),
    }
}

fn refusal(core: &Core, refused: Refused) -> Response {
    match refused {
        Refused::Person(message) => page_response(StatusCode::BAD_REQUEST, page::problem(&message), None),
        Refused::Client(asked, error, description) => {
            redirect(core, *asked, &[("error", error), ("error_description", description)])
        }
    }
}

/// Back to the client, with its `state` and our `iss` (RFC 9207).
fn redirect(core: &Core, asked: Asked, answer: &[(&str, &str)]) -> Response {
    let Asked { params, mut redirect } = asked;
    let mut pairs = redirect.query_pairs_mut();
    pairs.extend_pairs(answer);
    if !params.get("state").is_empty() {
        pairs.append_pair("state", params.get("state"));
    }
    pairs.append_pair("iss", &core.issuer);
    drop(pairs);
    match HeaderValue::from_str(redirect.as_str()) {
        Ok(location) => (StatusCode::SEE_OTHER, [("location", location), NO_STORE]).into_response(),
        Err(_) => {
            page_response(StatusCode::BAD_REQUEST, page::problem("The redirect cannot be written."), None)
        }
    }
}

const NO_STORE: (&str, HeaderValue) = ("cache-control", HeaderValue::from_static("no-store"));

/// A page that runs no script, loads nothing, and is framed by nobody. A browser applies `form-action` to the redirect
/// that answers a form, so the client's origin is in it.
fn page_response(code: StatusCode, html: String, redirect: Option<&Url>) -> Response {
    let target = redirect.map(|url| url.origin().ascii_serialization()).unwrap_or_default();
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self' {target}; base-uri 'none'; frame-ancestors 'none'"
    );
    let mut response = (code, [NO_STORE], Html(html)).into_response();
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert("content-security-policy", policy);
    }
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}
