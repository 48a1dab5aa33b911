//! The identity provider through real HTTP and TLS, as a relying party and a browser see it.

mod support;

use std::{collections::HashMap, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::Method;
use jsonwebtoken::{DecodingKey, Validation, jwk::JwkSet};
use portcullis_testkit::{IdentityProvider, OidcClient, TestClock};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::{Answer, Client, TestResult};
use url::{Url, form_urlencoded::Serializer};

const REDIRECT: &str = "http://127.0.0.1:8000/callback";
const VERIFIER: &str = "a-verifier-that-is-long-enough-to-be-one-0123456789";

async fn provider() -> TestResult<(IdentityProvider, Client)> {
    let provider = IdentityProvider::start().await?;
    let client = Client::connecting(provider.issuer(), provider.authority().certificate_der().clone(), None)?;
    Ok((provider, client))
}

fn encode(pairs: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// A good authorization request, with changes.
fn request(changes: &[(&str, &str)]) -> String {
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
    let good = [
        ("client_id", "portcullis"),
        ("redirect_uri", REDIRECT),
        ("response_type", "code"),
        ("scope", "openid offline_access"),
        ("state", "s1"),
        ("nonce", "n1"),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    let mut pairs: Vec<_> =
        good.into_iter().filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name)).collect();
    pairs.extend(changes);
    encode(&pairs)
}

async fn form(client: &Client, path: &str, body: &str) -> TestResult<Answer> {
    let request =
        client.request(Method::POST, path).header("content-type", "application/x-www-form-urlencoded");
    client.answer(request, body).await
}

fn location(answer: &Answer) -> TestResult<HashMap<String, String>> {
    answer.expect(303)?;
    let location = Url::parse(answer.headers["location"].to_str()?)?;
    assert!(location.as_str().starts_with(REDIRECT), "{location}");
    Ok(location.query_pairs().into_owned().collect())
}

async fn sign_in(client: &Client, persona: &str) -> TestResult<String> {
    let chosen = form(client, "/authorize", &request(&[("persona", persona)])).await?;
    let answer = location(&chosen)?;
    assert_eq!(answer["state"], "s1");
    Ok(answer["code"].clone())
}

async fn redeem(client: &Client, code: &str, changes: &[(&str, &str)]) -> TestResult<Answer> {
    let mut pairs = vec![
        ("grant_type", "authorization_code"),
        ("client_id", "portcullis"),
        ("redirect_uri", REDIRECT),
        ("code", code),
        ("code_verifier", VERIFIER),
    ];
    pairs.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    pairs.extend(changes);
    form(client, "/token", &encode(&pairs)).await
}

/// Verifies a token as a relying party does: by the published keys.
async fn verify(client: &Client, issuer: &str, audience: &str, token: &str) -> TestResult<Value> {
    let keys: JwkSet = serde_json::from_value(client.get("/jwks").await?.expect(200)?)?;
    let header = jsonwebtoken::decode_header(token)?;
    let key = keys.find(&header.kid.ok_or("no kid")?).ok_or("an unknown key")?;
    let mut validation = Validation::new(header.alg);
    validation.set_issuer(&[issuer]);
    validation.set_audience(&[audience]);
    Ok(jsonwebtoken::decode::<Value>(token, &DecodingKey::from_jwk(key)?, &validation)?.claims)
}

#[tokio::test]
async fn a_person_signs_in_by_code_and_pkce() -> TestResult {
    let (provider, client) = provider().await?;
    let discovery = client.get("/.well-known/openid-configuration").await?.expect(200)?;
    assert_eq!(discovery["issuer"], provider.issuer());
    let page = client.get(&format!("/authorize?{}", request(&[]))).await?;
    page.expect(200)?;
    for name in ["CI agent", "Dana Developer", "Amir Approver"] {
        assert!(page.text().contains(name), "{name}");
    }
    assert!(page.headers["content-security-policy"].to_str()?.contains("frame-ancestors 'none'"));

    let code = sign_in(&client, "dana").await?;
    let tokens = redeem(&client, &code, &[]).await?.expect(200)?;
    let token = tokens["id_token"].as_str().ok_or("no ID token")?;
    let claims = verify(&client, provider.issuer(), "portcullis", token).await?;
    assert_eq!(
        (&claims["sub"], &claims["nonce"], &claims["groups"]),
        (&json!("dana"), &json!("n1"), &json!(["developers"]))
    );

    let access = tokens["access_token"].as_str().ok_or("no access token")?;
    let who = client.clone().token(access).get("/userinfo").await?.expect(200)?;
    assert_eq!(who["email"], "dana@shop.example");
    client.get("/userinfo").await?.expect(401)?;

    let refresh = |token: &Value| {
        encode(&[
            ("grant_type", "refresh_token"),
            ("client_id", "portcullis"),
            ("refresh_token", token.as_str().unwrap_or_default()),
        ])
    };
    let renewed = form(&client, "/token", &refresh(&tokens["refresh_token"])).await?.expect(200)?;
    form(&client, "/token", &refresh(&tokens["refresh_token"])).await?.expect(400)?;

    // A code that comes twice was stolen: all that came of it ends.
    redeem(&client, &code, &[]).await?.expect(400)?;
    form(&client, "/token", &refresh(&renewed["refresh_token"])).await?.expect(400)?;
    client.clone().token(access).get("/userinfo").await?.expect(401)?;
    Ok(())
}

#[tokio::test]
async fn a_code_is_good_for_its_client_redirect_and_verifier_only() -> TestResult {
    let (_provider, client) = provider().await?;
    for change in [
        ("code_verifier", "another"),
        ("redirect_uri", "http://127.0.0.1:9/"),
        ("client_id", "stranger"),
        ("grant_type", "password"),
    ] {
        let code = sign_in(&client, "dana").await?;
        let refused = redeem(&client, &code, &[change]).await?;
        assert!(refused.status.is_client_error(), "{change:?}");
        assert!(refused.json()?.get("id_token").is_none());
    }
    redeem(&client, "made-up", &[]).await?.expect(400)?;
    Ok(())
}

#[tokio::test]
async fn bad_requests_never_redirect_to_strangers() -> TestResult {
    let (_provider, client) = provider().await?;
    for change in [("client_id", "stranger"), ("redirect_uri", "https://evil.example/"), ("redirect_uri", "")]
    {
        let refused = client.get(&format!("/authorize?{}", request(&[change]))).await?;
        refused.expect(400)?;
        assert!(!refused.headers.contains_key("location"), "{change:?}");
    }
    let twice = format!("{}&scope=openid", request(&[]));
    client.get(&format!("/authorize?{twice}")).await?.expect(400)?;
    let check = async |change: (&str, &str), error: &str| -> TestResult {
        let answer = location(&client.get(&format!("/authorize?{}", request(&[change]))).await?)?;
        assert_eq!(answer["error"], error, "{change:?}");
        Ok(())
    };
    check(("response_type", "token"), "unsupported_response_type").await?;
    check(("code_challenge", ""), "invalid_request").await?;
    check(("code_challenge_method", "plain"), "invalid_request").await?;
    check(("scope", "email"), "invalid_scope").await?;
    check(("prompt", "none"), "login_required").await?;
    form(&client, "/authorize", &request(&[("persona", "nobody")])).await?.expect(400)?;
    Ok(())
}

#[tokio::test]
async fn an_agent_asks_for_itself() -> TestResult {
    let (provider, client) = provider().await?;
    let secret = provider.agent_secret("ci-agent").ok_or("no secret")?.to_owned();
    let ask = |id: &str, secret: &str| {
        encode(&[
            ("grant_type", "client_credentials"),
            ("client_id", id),
            ("client_secret", secret),
            ("audience", "https://gateway"),
        ])
    };
    let granted = form(&client, "/token", &ask("ci-agent", &secret)).await?.expect(200)?;
    let token = granted["access_token"].as_str().ok_or("no token")?;
    let claims = verify(&client, provider.issuer(), "https://gateway", token).await?;
    assert_eq!(claims["sub"], "ci-agent");
    form(&client, "/token", &ask("ci-agent", "wrong")).await?.expect(401)?;
    form(&client, "/token", &ask("dana", &secret)).await?.expect(401)?;
    form(&client, "/token", &ask("portcullis", "")).await?.expect(400)?;
    provider.disable("ci-agent");
    form(&client, "/token", &ask("ci-agent", &secret)).await?.expect(400)?;
    Ok(())
}

#[tokio::test]
async fn keys_rotate_and_people_leave() -> TestResult {
    let (provider, client) = provider().await?;
    let ttl = Duration::from_secs(60);
    let old = provider.mint("amir", "portcullis", ttl)?;
    let rsa = provider.mint_with("amir", "portcullis", ttl, &json!({"groups": null, "x": 1}), true)?;
    let claims = verify(&client, provider.issuer(), "portcullis", &rsa).await?;
    assert_eq!((claims.get("groups"), &claims["x"]), (None, &json!(1)));
    provider.rotate_keys()?;
    let new = provider.mint("amir", "portcullis", ttl)?;
    for token in [&old, &new] {
        verify(&client, provider.issuer(), "portcullis", token).await?;
    }
    provider.forget_old_keys();
    assert!(verify(&client, provider.issuer(), "portcullis", &old).await.is_err());
    verify(&client, provider.issuer(), "portcullis", &new).await?;

    provider.disable("amir");
    let refused = form(&client, "/authorize", &request(&[("persona", "amir")])).await?;
    assert_eq!(location(&refused)?["error"], "access_denied");
    provider.enable("amir");
    sign_in(&client, "amir").await?;
    assert!(provider.mint("nobody", "x", ttl).is_err());
    Ok(())
}

#[tokio::test]
async fn time_and_clients_are_given() -> TestResult {
    let start = "2030-06-01T00:00:00Z".parse::<jiff::Timestamp>()?;
    let provider = IdentityProvider::builder()
        .clock(Arc::new(TestClock::starting_at(start)))
        .client(OidcClient::web("console", &["https://gateway.example/callback"]).secret("s3cret"))
        .start()
        .await?;
    let client = Client::connecting(provider.issuer(), provider.authority().certificate_der().clone(), None)?;
    let token = provider.mint("dana", "console", Duration::from_secs(60))?;
    let claims = token.split('.').nth(1).ok_or("no claims")?;
    let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims)?)?;
    assert!((0..5).contains(&(claims["iat"].as_i64().ok_or("no iat")? - start.as_second())));
    let web = |redirect: &str| request(&[("client_id", "console"), ("redirect_uri", redirect)]);
    client.get(&format!("/authorize?{}", web("https://gateway.example/callback"))).await?.expect(200)?;
    client.get(&format!("/authorize?{}", web(REDIRECT))).await?.expect(400)?;
    let chosen = form(
        &client,
        "/authorize",
        &request(&[
            ("client_id", "console"),
            ("redirect_uri", "https://gateway.example/callback"),
            ("persona", "dana"),
        ]),
    )
    .await?;
    let url = Url::parse(chosen.headers["location"].to_str()?)?;
    let code = url.query_pairs().find(|(name, _)| name == "code").ok_or("no code")?.1.into_owned();
    let redirect = ("redirect_uri", "https://gateway.example/callback");
    redeem(&client, &code, &[("client_id", "console"), redirect]).await?.expect(401)?;
    redeem(&client, &code, &[("client_id", "console"), redirect, ("client_secret", "s3cret")])
        .await?
        .expect(200)?;
    Ok(())
}
