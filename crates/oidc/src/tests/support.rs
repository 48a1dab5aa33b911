//! An issuer in this process, with keys of every kind, and a clock that reads tokio's.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crate::{DocumentFetcher, FetchError};
use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
        KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaEncoding,
    },
};
use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use portcullis_core::{BoxFuture, SharedClock, Timestamp};
use serde_json::{Value, json};
use tower::ServiceExt;
use url::Url;

pub(crate) const START: i64 = 1_750_000_000;

/// Reads tokio's clock, which tests pause: there is one time.
pub(crate) fn clock() -> SharedClock {
    let start = tokio::time::Instant::now();
    Arc::new(move || {
        let elapsed = start.elapsed();
        Timestamp::from_second(START).unwrap() + jiff::SignedDuration::try_from(elapsed).unwrap()
    })
}

/// A key pair, and how it signs.
pub(crate) enum Key {
    Rs256(RsaKeyPair),
    Rs512(RsaKeyPair),
    Ps256(RsaKeyPair),
    Es256(EcdsaKeyPair),
    Es384(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

impl Key {
    pub(crate) fn rs256() -> Self {
        Self::Rs256(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn es256() -> Self {
        Self::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn es384() -> Self {
        Self::Es384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn ed25519() -> Self {
        Self::EdDsa(Ed25519KeyPair::generate().unwrap())
    }

    pub(crate) fn algorithm(&self) -> &'static str {
        match self {
            Self::Rs256(_) => "RS256",
            Self::Rs512(_) => "RS512",
            Self::Ps256(_) => "PS256",
            Self::Es256(_) => "ES256",
            Self::Es384(_) => "ES384",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    pub(crate) fn public(&self, id: &str) -> Value {
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match self {
            Self::Rs256(key) | Self::Rs512(key) | Self::Ps256(key) => {
                let public = key.public_key();
                json!({
                    "kty": "RSA",
                    "n": b64(public.modulus().big_endian_without_leading_zero()),
                    "e": b64(public.exponent().big_endian_without_leading_zero()),
                })
            }
            Self::Es256(key) | Self::Es384(key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({ "kty": "EC", "crv": curve, "x": b64(x), "y": b64(y) })
            }
            Self::EdDsa(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(key.public_key().as_ref()) })
            }
        };
        jwk["kid"] = json!(id);
        jwk["use"] = json!("sig");
        jwk
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |key: &RsaKeyPair, padding: &'static dyn RsaEncoding| {
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign(padding, &random, message, &mut signature).unwrap();
            signature
        };
        match self {
            Self::Rs256(key) => rsa(key, &RSA_PKCS1_SHA256),
            Self::Rs512(key) => rsa(key, &RSA_PKCS1_SHA512),
            Self::Ps256(key) => rsa(key, &RSA_PSS_SHA256),
            Self::Es256(key) | Self::Es384(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::EdDsa(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// A token by this key, with this header and payload, whatever they say.
    pub(crate) fn token_of(&self, header: &Value, payload: &Value) -> String {
        let message = unsigned(header, payload);
        let signature = self.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token as it should be.
    pub(crate) fn token(&self, id: &str, payload: &Value) -> String {
        self.token_of(&json!({ "alg": self.algorithm(), "kid": id, "typ": "JWT" }), payload)
    }
}

/// Header and payload, encoded: what gets signed.
pub(crate) fn unsigned(header: &Value, payload: &Value) -> String {
    let b64 = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", b64(header), b64(payload))
}

/// An issuer that can be down, lie about its name, and change its keys.
#[derive(Clone)]
pub(crate) struct TestIssuer(Arc<Inner>);

struct Inner {
    url: Mutex<String>,
    claims_to_be: Mutex<Option<String>>,
    keys: Mutex<Vec<Value>>,
    up: AtomicBool,
    asked: AtomicUsize,
    padding: AtomicUsize,
}

impl TestIssuer {
    pub(crate) fn new(url: &str) -> Self {
        Self(Arc::new(Inner {
            url: Mutex::new(url.to_owned()),
            claims_to_be: Mutex::default(),
            keys: Mutex::default(),
            up: AtomicBool::new(true),
            asked: AtomicUsize::new(0),
            padding: AtomicUsize::new(0),
        }))
    }

    pub(crate) fn publish(&self, keys: &[Value]) {
        *self.0.keys.lock().unwrap() = keys.to_vec();
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.0.up.store(up, Ordering::SeqCst);
    }

    pub(crate) fn set_url(&self, url: &str) {
        *self.0.url.lock().unwrap() = url.to_owned();
    }

    pub(crate) fn claim_to_be(&self, issuer: &str) {
        *self.0.claims_to_be.lock().unwrap() = Some(issuer.to_owned());
    }

    /// Makes the key set this much larger.
    pub(crate) fn pad(&self, bytes: usize) {
        self.0.padding.store(bytes, Ordering::SeqCst);
    }

    /// How often the keys were asked for.
    pub(crate) fn asked(&self) -> usize {
        self.0.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn router(&self) -> Router {
        async fn discovery(State(issuer): State<TestIssuer>) -> impl IntoResponse {
            let url = issuer.0.url.lock().unwrap().clone();
            let name = issuer.0.claims_to_be.lock().unwrap().clone().unwrap_or_else(|| url.clone());
            Json(json!({ "issuer": name, "jwks_uri": format!("{url}/keys") }))
        }
        async fn keys(State(issuer): State<TestIssuer>) -> impl IntoResponse {
            issuer.0.asked.fetch_add(1, Ordering::SeqCst);
            if !issuer.0.up.load(Ordering::SeqCst) {
                return StatusCode::BAD_GATEWAY.into_response();
            }
            let padding = " ".repeat(issuer.0.padding.load(Ordering::SeqCst));
            format!("{}{padding}", json!({ "keys": *issuer.0.keys.lock().unwrap() })).into_response()
        }
        Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys))
            .with_state(self.clone())
    }
}

/// Without a socket: tokio's paused clock runs ahead of real input and output.
impl DocumentFetcher for TestIssuer {
    fn fetch<'a>(&'a self, url: &'a Url) -> BoxFuture<'a, Result<Bytes, FetchError>> {
        Box::pin(async move {
            let request = Request::get(url.path()).body(axum::body::Body::empty()).unwrap();
            let response = self.router().oneshot(request).await.unwrap();
            if response.status() != StatusCode::OK {
                return Err(FetchError(format!("{url}: answered {}", response.status())));
            }
            Ok(response.into_body().collect().await.unwrap().to_bytes())
        })
    }
}
