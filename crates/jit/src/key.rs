//! The key that signs grants: ES256, made at the first start, kept in one file.

use std::{fmt, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// What is wrong with a key file. Never says what is in it.
#[derive(Debug, thiserror::Error)]
#[error("the signing key {path}: {problem}")]
pub struct KeyError {
    path: String,
    problem: String,
}

/// A P-256 key that signs and verifies grants (RFC 7518 §3.4). `Debug` prints its id only.
pub struct SigningKey {
    id: String,
    x: String,
    y: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl SigningKey {
    /// Reads the key from a PKCS#8 PEM file, or makes one there, readable by its owner only.
    ///
    /// # Errors
    ///
    /// [`KeyError`] when the file cannot be read, made or understood.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let wrong = |problem: &dyn fmt::Display| KeyError {
            path: path.display().to_string(),
            problem: problem.to_string(),
        };
        match std::fs::read_to_string(path) {
            Ok(pem) => Self::from_pkcs8(&from_pem(&pem).ok_or_else(|| wrong(&"is no PKCS#8 PEM file"))?)
                .map_err(|problem| wrong(&problem)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let pkcs8 = generate().map_err(|problem| wrong(&problem))?;
                let key = Self::from_pkcs8(&pkcs8).map_err(|problem| wrong(&problem))?;
                let mut file = std::fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)
                    .map_err(|e| wrong(&e))?;
                file.write_all(to_pem(&pkcs8).as_bytes())
                    .and_then(|()| file.sync_all())
                    .map_err(|e| wrong(&e))?;
                Ok(key)
            }
            Err(error) => Err(wrong(&error)),
        }
    }

    /// A key that lives as long as the process: for tests and demos. After a restart, no grant of before is believed.
    ///
    /// # Errors
    ///
    /// [`KeyError`] when the system has no randomness.
    pub fn ephemeral() -> Result<Self, KeyError> {
        generate()
            .and_then(|pkcs8| Self::from_pkcs8(&pkcs8))
            .map_err(|problem| KeyError { path: "(in memory)".into(), problem: problem.into() })
    }

    /// The key's id: its JWK thumbprint (RFC 7638).
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public key as a JWK set (RFC 7517 §5), for others who want to verify grants.
    pub fn jwks(&self) -> Value {
        json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "x": self.x, "y": self.y, "kid": self.id, "alg": "ES256", "use": "sig",
        }]})
    }

    /// Whether the token says that this key signed it. Says nothing about whether it did.
    pub(crate) fn claims_to_have_signed(&self, token: &str) -> bool {
        jsonwebtoken::decode_header(token).is_ok_and(|header| header.kid.as_deref() == Some(&self.id))
    }

    pub(crate) fn sign(&self, claims: &impl Serialize) -> Result<String, jsonwebtoken::errors::Error> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some("at+jwt".into());
        header.kid = Some(self.id.clone());
        jsonwebtoken::encode(&header, claims, &self.encoding)
    }

    /// The claims, if the signature is right. Times and audience are the caller's business: it has the clock.
    pub(crate) fn verify<T: DeserializeOwned>(&self, token: &str) -> Option<T> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let data = jsonwebtoken::decode::<T>(token, &self.decoding, &validation).ok()?;
        (data.header.typ.as_deref() == Some("at+jwt")).then_some(data.claims)
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, &'static str> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
            .map_err(|_| "is no P-256 key")?;
        // An uncompressed point: 0x04, x, y (SEC 1 §2.3.3).
        let (Some(x), Some(y)) =
            (pair.public_key().as_ref().get(1..33), pair.public_key().as_ref().get(33..65))
        else {
            return Err("has no uncompressed public key");
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let thumbprint = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let decoding = DecodingKey::from_ec_components(&x, &y).map_err(|_| "has no usable public key")?;
        Ok(Self {
            id: URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, thumbprint.as_bytes())),
            encoding: EncodingKey::from_ec_der(pkcs8),
            decoding,
            x,
            y,
        })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

fn generate() -> Result<Vec<u8>, &'static str> {
    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map(|document| document.as_ref().to_vec())
        .map_err(|_| "no key could be made")
}

fn to_pem(pkcs8: &[u8]) -> String {
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(pkcs8))
}

fn from_pem(pem: &str) -> Option<Vec<u8>> {
    let body =
        pem.trim().strip_prefix("-----BEGIN PRIVATE KEY-----")?.strip_suffix("-----END PRIVATE KEY-----")?;
    STANDARD.decode(body.split_whitespace().collect::<String>()).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grants.pem");
        let made = SigningKey::open(&path).unwrap();
        let token = made.sign(&json!({ "sub": "x" })).unwrap();
        let read = SigningKey::open(&path).unwrap();
        assert_eq!(made.id(), read.id());
        assert_eq!(read.verify::<Value>(&token).unwrap()["sub"], "x");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "nonsense").unwrap();
        assert!(SigningKey::open(&path).unwrap_err().to_string().contains("grants.pem"));
    }

    #[test]
    fn only_what_this_key_signed_is_believed() {
        let (key, other) = (SigningKey::ephemeral().unwrap(), SigningKey::ephemeral().unwrap());
        let token = other.sign(&json!({ "sub": "x" })).unwrap();
        assert_eq!(key.verify::<Value>(&token), None);
        let mine = key.sign(&json!({ "sub": "x" })).unwrap();
        let (head, rest) = mine.split_once('.').unwrap();
        let (_, signature) = rest.split_once('.').unwrap();
        let forged = format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(r#"{"sub":"root"}"#));
        assert!(key.claims_to_have_signed(&forged));
        assert_eq!(key.verify::<Value>(&forged), None);
        // The same claims, signed by HMAC with the public key, or by nobody.
        for alg in ["HS256", "none"] {
            let head = json!({ "alg": alg, "typ": "at+jwt", "kid": key.id() }).to_string();
            let forged =
                format!("{}.{}.{signature}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode("{}"));
            assert_eq!(key.verify::<Value>(&forged), None);
        }
    }
}
