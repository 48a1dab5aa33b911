//! Every way in which a token can be bad, through the layer: what is refused, with which code, and that nothing got past.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::support::{Key, START, TestIssuer, clock, unsigned};
use crate::{OidcAuthenticator, OidcConfig, OidcLayer};
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use portcullis_core::{Authenticator, Body, Ended, Identity, Liveness, Refusal, Trail};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt, service_fn};

const URL: &str = "https://issuer.example";

struct Setup {
    issuer: TestIssuer,
    key: Key,
    authenticator: Arc<OidcAuthenticator>,
    passed: Arc<AtomicUsize>,
}

fn config(more: &str) -> OidcConfig {
    serde_yaml::from_str(&format!(
        "jwt: [{{issuer: {{url: '{URL}', audiences: [portcullis]}}, claimMappings: {{username: {{claim: sub, prefix: 'a:'}}}} }}]\n{more}"
    ))
    .unwrap()
}

fn setup_with(key: Key, more: &str) -> Setup {
    let issuer = TestIssuer::new(URL);
    issuer.publish(&[key.public("k1")]);
    let authenticator = OidcAuthenticator::builder(config(more))
        .clock(clock())
        .fetcher(Arc::new(issuer.clone()))
        .build()
        .unwrap();
    Setup { issuer, key, authenticator: Arc::new(authenticator), passed: Arc::default() }
}

fn setup() -> Setup {
    setup_with(Key::es256(), "")
}

fn claims() -> Value {
    json!({ "iss": URL, "sub": "ann", "aud": "portcullis", "exp": START + 600, "iat": START })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

impl Setup {
    fn good(&self) -> String {
        self.key.token("k1", &claims())
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        let passed = self.passed.clone();
        let inner = service_fn(move |request: Request<Body>| {
            passed.fetch_add(1, Ordering::SeqCst);
            let mut response = Response::new(Body::empty());
            *response.headers_mut() = request.headers().clone();
            *response.extensions_mut() = request.extensions().clone();
            async { Ok::<_, Infallible>(response) }
        });
        OidcLayer::new(self.authenticator.clone()).layer(inner).oneshot(request).await.unwrap()
    }

    async fn send_token(&self, token: &str) -> Response<Body> {
        let request = Request::get("/").header("authorization", format!("Bearer {token}"));
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// What becomes of a request with this token: the user, or the refusal's code.
    async fn outcome(&self, token: &str) -> Result<String, &'static str> {
        let before = self.passed.load(Ordering::SeqCst);
        let response = self.send_token(token).await;
        let passed = self.passed.load(Ordering::SeqCst) - before;
        match response.extensions().get::<Refusal>() {
            None => {
                assert_eq!((response.status(), passed), (StatusCode::OK, 1));
                Ok(response.extensions().get::<Identity>().unwrap().user.clone())
            }
            Some(refusal) => {
                assert_eq!(passed, 0, "the inner service saw a refused request");
                let unauthorized = response.status() == StatusCode::UNAUTHORIZED;
                assert!(unauthorized || response.status() == StatusCode::SERVICE_UNAVAILABLE);
                assert_eq!(response.headers().contains_key("www-authenticate"), unauthorized);
                for part in token.split('.').filter(|part| part.len() > 8) {
                    assert!(!format!("{refusal:?}").contains(part), "the token is shown");
                }
                Err(refusal.code())
            }
        }
    }

    async fn refused(&self, token: &str, code: &str) {
        let outcome = self.outcome(token).await;
        assert_eq!(
            outcome,
            Err(code).map_err(|code: &str| Box::leak(code.to_owned().into_boxed_str()) as &str)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_of_every_algorithm_are_accepted() {
    let rsa = || aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let keys =
        [Key::rs256(), Key::Rs512(rsa()), Key::Ps256(rsa()), Key::es256(), Key::es384(), Key::ed25519()];
    for key in keys {
        let setup = setup_with(key, "");
        assert_eq!(setup.outcome(&setup.good()).await, Ok("a:ann".into()), "{}", setup.key.algorithm());
        assert_eq!(setup.outcome(&setup.good()).await, Ok("a:ann".into()));
    }
}

#[tokio::test(start_paused = true)]
async fn bad_tokens_are_refused_and_nothing_gets_past() {
    let setup = setup_with(Key::rs256(), "");
    let key = &setup.key;
    let header = |extra: Value| {
        let mut header = json!({ "alg": "RS256", "kid": "k1" });
        header.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        header
    };

    setup.refused(&key.token("k1", &with("exp", json!(START - 31))), "oidc/expired").await;
    setup.refused(&key.token("k1", &with("nbf", json!(START + 31))), "oidc/not-yet-valid").await;
    setup.refused(&key.token("k1", &with("aud", json!("other"))), "oidc/wrong-audience").await;
    setup.refused(&key.token("k1", &with("sub", json!(7))), "oidc/mapping").await;

    // A stranger: of another issuer, or one who pretends to be ours.
    for issuer in ["https://evil.example", "https://issuer.example/", "HTTPS://issuer.example", ""] {
        setup.refused(&key.token("k1", &with("iss", json!(issuer))), "oidc/unknown-issuer").await;
    }
    setup.refused(&Key::rs256().token("k1", &claims()), "oidc/bad-signature").await;
    setup.refused(&Key::rs256().token_of(&json!({ "alg": "RS256" }), &claims()), "oidc/bad-signature").await;

    // Unsigned.
    for none in ["none", "None", "NONE", ""] {
        let message = unsigned(&header(json!({ "alg": none })), &claims());
        setup.refused(&format!("{message}."), "oidc/algorithm").await;
    }
    let message = unsigned(&header(json!({})), &claims());
    setup.refused(&format!("{message}."), "oidc/bad-signature").await;
    setup.refused(&message, "oidc/malformed").await;

    // HMAC-signed with the public key, in whatever form the attacker thinks it is used as a secret.
    let public = key.public("k1");
    let modulus = URL_SAFE_NO_PAD.decode(public["n"].as_str().unwrap()).unwrap();
    for secret in [modulus, public.to_string().into_bytes(), public["n"].to_string().into_bytes()] {
        let message = unsigned(&header(json!({ "alg": "HS256" })), &claims());
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
        let forged = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()));
        setup.refused(&forged, "oidc/algorithm").await;
    }

    // The right key, under the name of another algorithm.
    setup.refused(&key.token_of(&header(json!({ "alg": "ES256" })), &claims()), "oidc/unknown-key").await;
    setup.refused(&key.token_of(&header(json!({ "alg": "PS256" })), &claims()), "oidc/bad-signature").await;
    // A key the attacker brings along.
    let own = Key::rs256();
    let brought = header(json!({ "jwk": own.public("k1"), "jku": "https://evil.example", "x5u": "x" }));
    setup.refused(&own.token_of(&brought, &claims()), "oidc/bad-signature").await;

    setup.refused(&key.token("k2", &claims()), "oidc/unknown-key").await;
    let critical = header(json!({ "crit": ["b64"], "b64": false }));
    setup.refused(&key.token_of(&critical, &claims()), "oidc/critical-extension").await;
    setup.refused(&key.token_of(&header(json!({ "typ": "logout+jwt" })), &claims()), "oidc/wrong-type").await;
    setup.refused(&key.token("k1", &with("x", json!("a".repeat(1 << 20)))), "credential/too-large").await;
    setup.refused("", "credential/malformed").await;
    setup.refused("nonsense", "oidc/malformed").await;

    // One that was changed on the way.
    let good = setup.good();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = message.split_once('.').unwrap();
    let root = URL_SAFE_NO_PAD.encode(with("sub", json!("root")).to_string());
    setup.refused(&format!("{header}.{root}.{signature}"), "oidc/bad-signature").await;
    assert_eq!(setup.outcome(&good).await, Ok("a:ann".into()));
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_token_is_refused() {
    let setup = setup();
    for request in [Request::get("/"), Request::get("/").header("authorization", "Basic YTpi")] {
        let response = setup.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.extensions().get::<Refusal>().unwrap().code(), "oidc/missing");
    }
    let two = Request::get("/").header("authorization", "Bearer a").header("authorization", "Bearer b");
    let response = setup.send(two.body(Body::empty()).unwrap()).await;
    assert_eq!(response.extensions().get::<Refusal>().unwrap().code(), "credential/ambiguous");
    assert_eq!(setup.passed.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn the_identity_goes_in_and_the_token_stays_out() {
    let setup = setup();
    let trail = Trail::default();
    let mut request = Request::get("/").header("authorization", format!("bearer {}", setup.good()));
    request.extensions_mut().unwrap().insert(trail.clone());
    let response = setup.send(request.body(Body::empty()).unwrap()).await;
    assert!(response.headers().is_empty());
    assert!(response.extensions().get::<Liveness>().is_some());
    assert_eq!(trail.snapshot().identity.unwrap().subject, "ann");

    let carried = URL_SAFE_NO_PAD.encode(setup.good());
    let protocols = format!("v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.{carried}");
    let request =
        Request::get("/").header("upgrade", "websocket").header("sec-websocket-protocol", protocols);
    let response = setup.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    assert_eq!(response.extensions().get::<Identity>().unwrap().user, "a:ann");
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_is_there_already_is_kept() {
    let setup = setup();
    let mut request = Request::get("/").body(Body::empty()).unwrap();
    request.extensions_mut().insert(Identity { user: "grant".into(), ..Identity::default() });
    let response = setup.send(request).await;
    assert_eq!(response.extensions().get::<Identity>().unwrap().user, "grant");
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_found_and_made_up_ones_cost_little() {
    let setup = setup();
    assert!(setup.outcome(&setup.good()).await.is_ok());
    assert_eq!(setup.issuer.asked(), 1);

    // The issuer rotates: the new key id is unknown here, so it is asked, once the last question is long enough ago.
    let new = Key::es256();
    setup.issuer.publish(&[new.public("k2")]);
    let token = new.token("k2", &claims());
    setup.refused(&token, "oidc/unknown-key").await;
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(setup.outcome(&token).await, Ok("a:ann".into()));
    assert_eq!(setup.issuer.asked(), 2);

    // The old key is gone, and so is what it signed, though it was verified before.
    setup.refused(&setup.good(), "oidc/unknown-key").await;

    for n in 0..100 {
        setup.refused(&new.token(&format!("made-up-{n}"), &claims()), "oidc/unknown-key").await;
    }
    assert_eq!(setup.issuer.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_key_under_an_old_id_is_found_too() {
    let setup = setup();
    assert!(setup.outcome(&setup.good()).await.is_ok());
    let new = Key::es256();
    setup.issuer.publish(&[new.public("k1")]);
    let token = new.token("k1", &claims());
    setup.refused(&token, "oidc/bad-signature").await;
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(setup.outcome(&token).await, Ok("a:ann".into()));
    for _ in 0..100 {
        setup.refused(&Key::es256().token("k1", &claims()), "oidc/bad-signature").await;
    }
    assert_eq!(setup.issuer.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn keys_are_renewed_in_the_background() {
    let setup = setup();
    let long = setup.key.token("k1", &with("exp", json!(START + 86_400)));
    assert!(setup.outcome(&long).await.is_ok());
    tokio::time::advance(Duration::from_secs(301)).await;
    // Nobody waits: the answer comes from the keys at hand.
    assert!(setup.outcome(&long).await.is_ok());
    tokio::time::timeout(Duration::from_secs(1), async {
        while setup.issuer.asked() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_borne_for_a_bounded_time() {
    let setup = setup();
    let long = setup.key.token("k1", &with("exp", json!(START + 86_400)));
    assert!(setup.outcome(&long).await.is_ok());
    setup.issuer.set_up(false);
    for _ in 0..11 {
        tokio::time::advance(Duration::from_secs(300)).await;
        assert!(setup.outcome(&long).await.is_ok());
        tokio::task::yield_now().await;
    }
    // A key that may be new cannot be judged.
    tokio::time::advance(Duration::from_secs(10)).await;
    setup
        .refused(&setup.key.token("k2", &with("exp", json!(START + 86_400))), "oidc/issuer-unavailable")
        .await;
    // After an hour nothing can be, not even what was verified before.
    tokio::time::advance(Duration::from_secs(300)).await;
    setup.refused(&long, "oidc/issuer-unavailable").await;
    let asked = setup.issuer.asked();
    setup.refused(&long, "oidc/issuer-unavailable").await;
    assert_eq!(setup.issuer.asked(), asked, "a failed fetch is not repeated at once");
    let health = setup.authenticator.health();
    assert!(!health[0].is_usable && health[0].last_error.as_ref().unwrap().contains("502"));

    setup.issuer.set_up(true);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(setup.outcome(&long).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_down_at_the_start_is_asked_again() {
    let setup = setup();
    setup.issuer.set_up(false);
    setup.refused(&setup.good(), "oidc/issuer-unavailable").await;
    setup.issuer.set_up(true);
    setup.refused(&setup.good(), "oidc/issuer-unavailable").await;
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(setup.outcome(&setup.good()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_discovery_document_of_somebody_else_is_not_believed() {
    let setup = setup();
    setup.issuer.claim_to_be("https://issuer.example/");
    setup.refused(&setup.good(), "oidc/issuer-unavailable").await;
    assert!(setup.authenticator.fetch_keys().await[0].last_error.as_ref().unwrap().contains("not `https"));
}

#[tokio::test(start_paused = true)]
async fn a_jwks_uri_without_tls_is_not_followed() {
    let setup = setup();
    setup.issuer.set_url("http://issuer.example");
    setup.issuer.claim_to_be(URL);
    setup.refused(&setup.good(), "oidc/issuer-unavailable").await;
    assert_eq!(setup.issuer.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_verified_token_runs_out_even_when_it_is_remembered() {
    let setup = setup();
    assert!(setup.outcome(&setup.good()).await.is_ok());
    tokio::time::advance(Duration::from_secs(600 + 29)).await;
    assert!(setup.outcome(&setup.good()).await.is_ok());
    tokio::time::advance(Duration::from_secs(1)).await;
    setup.refused(&setup.good(), "oidc/expired").await;
}

#[tokio::test(start_paused = true)]
async fn open_streams_end_when_the_token_does() {
    let setup = setup();
    let good = setup.good();
    let authenticated = setup.authenticator.authenticate(&good).await.unwrap();
    assert_eq!(authenticated.expires_at.unwrap().as_second(), START + 600);
    let before = tokio::time::Instant::now();
    assert_eq!(authenticated.liveness.ended().await, Ended::Expired);
    assert!(before.elapsed() >= Duration::from_secs(630));
    assert_eq!(setup.outcome(&good).await, Err("oidc/expired"));
}

#[tokio::test(start_paused = true)]
async fn disabling_cuts_streams_at_once_and_refuses_from_then_on() {
    let setup = setup();
    let good = setup.good();
    let response = setup.send_token(&good).await;
    let mut ended = response.extensions().get::<Liveness>().unwrap().ended();
    assert_eq!((&mut ended).now_or_never(), None);
    setup.authenticator.disabled().disable(URL, "ann");
    assert_eq!(ended.now_or_never(), Some(Ended::Disabled));
    setup.refused(&good, "oidc/disabled").await;
    let fresh = setup.key.token("k1", &with("jti", json!("fresh")));
    setup.refused(&fresh, "oidc/disabled").await;
    setup.authenticator.disabled().enable(URL, "ann");
    assert!(setup.outcome(&good).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_configuration_may_narrow_the_algorithms() {
    let issuer = TestIssuer::new(URL);
    let key = Key::es256();
    issuer.publish(&[key.public("k1")]);
    let mut config = config("");
    config.jwt[0].signing_algorithms = vec![crate::SigningAlgorithm::EdDSA];
    let authenticator =
        OidcAuthenticator::builder(config).clock(clock()).fetcher(Arc::new(issuer)).build().unwrap();
    let error = authenticator.authenticate(&key.token("k1", &claims())).await.unwrap_err();
    assert_eq!(error.code, "oidc/algorithm");
}
