//! Tokens that are not what they say.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use portcullis_tests::{Cluster, Gateway, HttpClient, Idp, refusal_code, wait_until};
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::Door;

const PODS: &str = "/api/v1/namespaces/shop/pods";

async fn door() -> Door {
    let cluster = Cluster::from_env();
    let gateway = Gateway::configured(&cluster, |config| {
        config["authentication"]["leeway"] = "0s".into();
        config["authentication"]["keyRetry"] = "1s".into();
    })
    .await;
    Door::open(cluster, gateway).await
}

impl Door {
    /// That a request with this token is refused with 401 and this reason.
    async fn disbelieves(&self, what: &str, token: &str, code: &str) {
        let request = self.head("GET", PODS, &[]).replace(&self.token, token);
        let answer = self.refuses(what, request, (401, code)).await;
        let challenge = answer.headers["www-authenticate"].to_str().unwrap();
        assert!(
            challenge.starts_with("Bearer ") && challenge.contains("invalid_token"),
            "{what}: {challenge}"
        );
        // Whoever reads logs and answers shall not be able to use it.
        let log = self.gateway.log();
        assert!(token.len() < 20 || !(answer.text() + &log).contains(token), "{what}: the token is repeated");
    }
}

fn decode(part: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Header, claims and signature of a token.
fn parts(token: &str) -> (Value, Value, String) {
    let mut parts = token.split('.');
    let mut next = || parts.next().expect("three parts");
    (decode(next()), decode(next()), next().to_owned())
}

/// A key that nobody has published.
fn strangers_key() -> EncodingKey {
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    EncodingKey::from_ec_der(pair.serialized_der())
}

fn sign(header: &Header, claims: &Value, key: &EncodingKey) -> String {
    jsonwebtoken::encode(header, claims, key).unwrap()
}

fn with(value: &Value, name: &str, new: Value) -> Value {
    let mut value = value.clone();
    value[name] = new;
    value
}

/// A refusal proves little where nothing would be believed.
#[tokio::test]
async fn true_tokens_are_believed_whatever_they_are_signed_with() {
    let door = door().await;
    for algorithm in ["RS256", "PS256", "ES256", "EdDSA"] {
        let token = door.gateway.idp.token("agent-ci").algorithm(algorithm).mint().await;
        assert_eq!(parts(&token).0["alg"], algorithm);
        let answer = door.gateway.get("/version", Some(&token)).await;
        assert_eq!(answer.status(), 200, "{algorithm}: {answer:?}");
        let request = door.head("GET", PODS, &[]).replace(&door.token, &token);
        assert_eq!(door.exchange(request).await.status, 200, "{algorithm}");
    }
    assert_eq!(door.seen_by_server().await, 4);
    door.gateway.agrees_with_the_server().await;
}

#[tokio::test]
async fn forged_tokens_are_not_believed() {
    let door = door().await;
    let (header, claims, signature) = parts(&door.token);
    let put = |header: &Value, claims: &Value, signature: &str| {
        format!("{}.{}.{signature}", encode(header), encode(claims))
    };

    // Unsigned, in every spelling.
    for none in ["none", "None", "NONE", ""] {
        let unsigned = with(&header, "alg", none.into());
        door.disbelieves("unsigned", &put(&unsigned, &claims, ""), "oidc/algorithm").await;
        door.disbelieves(
            "unsigned, with a signature",
            &put(&unsigned, &claims, &signature),
            "oidc/algorithm",
        )
        .await;
    }
    // Changed after it was signed.
    let promoted = with(&claims, "groups", json!(["agents", "approvers"]));
    door.disbelieves("changed claims", &put(&header, &promoted, &signature), "oidc/bad-signature").await;
    // Signed with a shared secret that everybody knows: the issuer's public key.
    let id = header["kid"].as_str().unwrap();
    for secret in public_key_as_secrets(&door.gateway.idp, id).await {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(id.to_owned());
        let token = sign(&header, &claims, &EncodingKey::from_secret(&secret));
        door.disbelieves("an HMAC with the public key", &token, "oidc/algorithm").await;
    }
    // Signed by a stranger: with a key of its own, under the name of one of the issuer's, or inside the token.
    let stranger = strangers_key();
    let mut other = Header::new(Algorithm::ES256);
    door.disbelieves("a stranger's, no kid", &sign(&other, &claims, &stranger), "oidc/bad-signature").await;
    other.kid = Some("no-such-key".into());
    door.disbelieves("an unknown kid", &sign(&other, &claims, &stranger), "oidc/unknown-key").await;
    let elliptic = door.gateway.idp.token("agent-ci").algorithm("ES256").mint().await;
    other.kid = parts(&elliptic).0["kid"].as_str().map(str::to_owned);
    door.disbelieves(
        "a stranger's under a known kid",
        &sign(&other, &claims, &stranger),
        "oidc/bad-signature",
    )
    .await;
    let confused = with(&header, "alg", "ES256".into());
    door.disbelieves("another key's algorithm", &put(&confused, &claims, &signature), "oidc/unknown-key")
        .await;
    let embedded = with(&header, "jwk", json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" }));
    door.disbelieves("a key in the token", &put(&embedded, &claims, &signature), "oidc/bad-signature").await;
    let elsewhere = with(&header, "jku", "https://127.0.0.1:1/keys".into());
    door.disbelieves("a key elsewhere", &put(&elsewhere, &claims, &signature), "oidc/bad-signature").await;

    // What cannot be understood is not passed over.
    let critical = with(&header, "crit", json!(["exp"]));
    door.disbelieves("a critical extension", &put(&critical, &claims, &signature), "oidc/critical-extension")
        .await;
    let other_kind = with(&header, "typ", "logout+jwt".into());
    door.disbelieves("a token of another kind", &put(&other_kind, &claims, &signature), "oidc/wrong-type")
        .await;
    let body = encode(&claims);
    for malformed in [
        "x",
        "..",
        "a.b.c",
        &format!("{body}.{body}"),
        &format!("{body}.{body}.{body}.{body}"),
        "eyJ9.eyJ9.x",
    ] {
        door.disbelieves("no token", malformed, "oidc/malformed").await;
    }
    door.holds().await;
}

#[tokio::test]
async fn true_tokens_of_others_and_of_other_times_are_not_believed() {
    let door = door().await;
    let stranger = Idp::start().await;
    let theirs = stranger.token("agent-ci").mint().await;
    door.disbelieves("another issuer's", &theirs, "oidc/unknown-issuer").await;
    let idp = &door.gateway.idp;
    let for_others = idp.token("agent-ci").audience("somebody-else").mint().await;
    door.disbelieves("for somebody else", &for_others, "oidc/wrong-audience").await;
    // The issuer vouches for it, and still nobody is a cluster's own.
    let mallory = idp.token("mallory").mint().await;
    door.disbelieves("system:masters", &mallory, "oidc/reserved-name").await;

    let short = idp.token("agent-ci").lifetime(2).mint().await;
    wait_until("a token to expire", async || {
        let answer = door.gateway.get("/version", Some(&short)).await;
        (answer.status() == 401).then_some(())
    })
    .await;
    door.disbelieves("expired", &short, "oidc/expired").await;

    // Keys that were replaced after a compromise sign nothing any more.
    let before = idp.token("agent-ci").mint().await;
    idp.rotate_keys().await;
    let after = idp.token("agent-ci").mint().await;
    wait_until("the new keys", async || {
        (door.gateway.get("/version", Some(&after)).await.status() == 200).then_some(())
    })
    .await;
    door.disbelieves("signed by a key that is gone", &before, "oidc/unknown-key").await;
    assert_eq!(door.seen_by_server().await, 0);
}

#[tokio::test]
async fn endless_and_odd_credentials_are_refused_unread() {
    let door = door().await;
    let request = |credential: &str| {
        door.head("GET", PODS, &[]).replace(&format!("Authorization: Bearer {}", door.token), credential)
    };
    let long = |length: usize| request(&format!("Authorization: Bearer {}", "a".repeat(length)));
    door.refuses("a megabyte", long(1 << 20), (431, "")).await;
    door.refuses("twenty kilobytes", long(20 << 10), (401, "credential/too-large")).await;
    door.refuses(
        "two tokens in one",
        request("Authorization: Bearer a, Bearer b"),
        (401, "credential/malformed"),
    )
    .await;
    door.refuses("nothing", request("Authorization: Bearer "), (401, "credential/malformed")).await;
    door.refuses("a password", request("Authorization: Basic YWRtaW46YWRtaW4="), (401, "oidc/missing")).await;
    door.refuses("no credential", request("X-Nothing: 1"), (401, "oidc/missing")).await;
    door.refuses("a cookie", request(&format!("Cookie: token={}", door.token)), (401, "oidc/missing")).await;
    let query =
        format!("GET {PODS}?access_token={}&probe={} HTTP/1.1\r\nHost: g\r\n\r\n", door.token, door.probe);
    door.refuses("a token in the URL", query, (401, "oidc/missing")).await;
    door.holds().await;
    // Not even there is it kept.
    let ledger = door.gateway.records().await;
    assert!(!format!("{ledger:?}").contains(&door.token), "a token in a URL is on record in the clear");
    // The scheme's name is no matter of case (RFC 9110 §11.1).
    let shouting = request(&format!("Authorization: bEARER {}", door.token));
    assert_eq!(door.exchange(shouting).await.status, 200);
}

#[tokio::test]
async fn a_megabyte_of_token_is_refused_even_where_heads_may_be_that_long() {
    let cluster = Cluster::from_env();
    let gateway = Gateway::configured(&cluster, |config| {
        config["limits"] = json!({ "headerBytes": 4 << 20 });
    })
    .await;
    let door = Door::open(cluster, gateway).await;
    let request = door.head("GET", PODS, &[]).replace(&door.token, &"a".repeat(1 << 20));
    door.refuses("a megabyte", request, (401, "credential/too-large")).await;
    door.holds().await;
}

#[tokio::test]
async fn an_issuer_that_is_down_is_no_reason_to_believe() {
    let cluster = Cluster::from_env();
    let mut gateway = Gateway::configured(&cluster, |config| {
        config["authentication"]["keyRetry"] = "1s".into();
    })
    .await;
    let token = gateway.token("agent-ci").await;
    gateway.stop().await;
    gateway.idp.outage(true).await;
    gateway.start_again().await;
    let answer = gateway.get("/version", Some(&token)).await;
    let code = refusal_code(answer.body());
    assert_eq!((answer.status().as_u16(), code.as_str()), (503, "oidc/issuer-unavailable"), "{answer:?}");
    assert!(gateway.records().await.outcome_of(&answer).is_some_and(|outcome| outcome.intent.is_none()));
    gateway.idp.outage(false).await;
    wait_until("the issuer to be asked again", async || {
        (gateway.get("/version", Some(&token)).await.status() == 200).then_some(())
    })
    .await;
    // Keys that are known are good through the next outage.
    gateway.idp.outage(true).await;
    assert_eq!(gateway.get("/version", Some(&token)).await.status(), 200);
}

/// The public key with this id in the forms that a verifier might hand to an HMAC: PEM, DER, and the JWK.
async fn public_key_as_secrets(idp: &Idp, id: &str) -> Vec<Vec<u8>> {
    let answer = HttpClient::new(&idp.ca()).get(&format!("{}/jwks", idp.issuer), None).await;
    let keys: Value = serde_json::from_slice(answer.body()).unwrap();
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == id).expect("a published key");
    let number = |name: &str| {
        let mut bytes = URL_SAFE_NO_PAD.decode(key[name].as_str().expect("an RSA key")).unwrap();
        bytes.insert(0, 0);
        der(0x02, &bytes)
    };
    let pkcs1 = der(0x30, &[number("n"), number("e")].concat());
    // SEQUENCE { SEQUENCE { rsaEncryption, NULL }, BIT STRING }, RFC 5280 §4.1.
    let rsa = [0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let spki = der(0x30, &[&rsa[..], &der(0x03, &[&[0], &pkcs1[..]].concat())].concat());
    let body = base64::engine::general_purpose::STANDARD.encode(&spki);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
    vec![pem.into_bytes(), spki, key.to_string().into_bytes()]
}

/// One element of DER.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..=0x7f => vec![tag, length as u8],
        0x80..=0xff => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [&head, content].concat()
}
