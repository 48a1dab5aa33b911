//! An issuer's public keys (RFC 7517), and which algorithms each may verify.

use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use crate::config::SigningAlgorithm;

/// The keys an issuer published at one time.
#[derive(Debug, Default)]
pub(crate) struct KeySet(Vec<PublicKey>);

#[derive(Debug)]
struct PublicKey {
    id: Option<String>,
    /// What the key's type, curve and `alg` leave: a key never verifies anything else, whatever a token's header says.
    algorithms: Vec<SigningAlgorithm>,
    key: DecodingKey,
}

/// More keys than any issuer has.
const MAX_KEYS: usize = 256;

impl KeySet {
    /// Reads a JWK set. Keys that are not for signatures, or of a type nobody verifies with here, are left out;
    /// symmetric keys always are.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document =
            serde_json::from_slice(document).map_err(|error| format!("not a JWK set: {error}"))?;
        if document.keys.len() > MAX_KEYS {
            return Err(format!("{} keys; {MAX_KEYS} are read at most", document.keys.len()));
        }
        Ok(Self(document.keys.iter().filter_map(PublicKey::of).collect()))
    }

    /// How many of them can be used.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The keys a token that names `id` and `algorithm` may be verified with; all of the algorithm, if it names no id.
    pub(crate) fn candidates<'k>(
        &'k self,
        id: Option<&'k str>,
        algorithm: SigningAlgorithm,
    ) -> impl Iterator<Item = &'k DecodingKey> {
        self.0
            .iter()
            .filter(move |key| id.is_none() || key.id.as_deref() == id)
            .filter(move |key| key.algorithms.contains(&algorithm))
            .map(|key| &key.key)
    }

    /// Whether there is a key of this id at all.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id.as_deref() == Some(id))
    }
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl PublicKey {
    fn of(jwk: &Value) -> Option<Self> {
        use SigningAlgorithm::*;
        let jwk = Jwk::deserialize(jwk).ok()?;
        if jwk.r#use.as_deref().is_some_and(|purpose| purpose != "sig")
            || jwk.key_ops.is_some_and(|operations| !operations.iter().any(|one| one == "verify"))
        {
            return None;
        }
        let (mut algorithms, key) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => (
                vec![RS256, RS384, RS512, PS256, PS384, PS512],
                DecodingKey::from_rsa_components(jwk.n.as_deref()?, jwk.e.as_deref()?).ok()?,
            ),
            ("EC", Some("P-256")) => {
                (vec![ES256], DecodingKey::from_ec_components(jwk.x.as_deref()?, jwk.y.as_deref()?).ok()?)
            }
            ("EC", Some("P-384")) => {
                (vec![ES384], DecodingKey::from_ec_components(jwk.x.as_deref()?, jwk.y.as_deref()?).ok()?)
            }
            ("OKP", Some("Ed25519")) => {
                (vec![EdDSA], DecodingKey::from_ed_components(jwk.x.as_deref()?).ok()?)
            }
            _ => return None,
        };
        if let Some(only) = jwk.alg.as_deref() {
            algorithms.retain(|algorithm| Some(*algorithm) == SigningAlgorithm::named(only));
        }
        (!algorithms.is_empty()).then_some(Self { id: jwk.kid, algorithms, key })
    }
}

impl SigningAlgorithm {
    /// The algorithm a JOSE header names; `None` for `none`, HMAC and what nobody knows.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::RS256,
            "RS384" => Self::RS384,
            "RS512" => Self::RS512,
            "PS256" => Self::PS256,
            "PS384" => Self::PS384,
            "PS512" => Self::PS512,
            "ES256" => Self::ES256,
            "ES384" => Self::ES384,
            // RFC 9864 names the curve.
            "EdDSA" | "Ed25519" => Self::EdDSA,
            _ => return None,
        })
    }

    /// Whether `signature` (base64url) by `key` covers `signed`.
    pub(crate) fn verifies(self, signed: &str, signature: &str, key: &DecodingKey) -> bool {
        let algorithm = match self {
            Self::RS256 => Algorithm::RS256,
            Self::RS384 => Algorithm::RS384,
            Self::RS512 => Algorithm::RS512,
            Self::PS256 => Algorithm::PS256,
            Self::PS384 => Algorithm::PS384,
            Self::PS512 => Algorithm::PS512,
            Self::ES256 => Algorithm::ES256,
            Self::ES384 => Algorithm::ES384,
            Self::EdDSA => Algorithm::EdDSA,
        };
        jsonwebtoken::crypto::verify(signature, signed.as_bytes(), key, algorithm).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use SigningAlgorithm::*;

    use super::*;

    const EC: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;

    fn check(keys: &str, id: Option<&str>, algorithm: SigningAlgorithm, expected: usize) {
        let set = KeySet::parse(format!(r#"{{"keys":[{keys}]}}"#).as_bytes()).unwrap();
        assert_eq!(set.candidates(id, algorithm).count(), expected, "{keys}");
    }

    #[test]
    fn a_key_verifies_only_what_its_type_allows() {
        let ec = format!(r#"{{{EC},"kid":"a"}}"#);
        check(&ec, Some("a"), ES256, 1);
        check(&ec, None, ES256, 1);
        check(&ec, Some("b"), ES256, 0);
        check(&ec, Some("a"), ES384, 0);
        check(&ec, Some("a"), RS256, 0);
        check(&format!("{{{EC}}}"), Some("a"), ES256, 0);
        let rsa = r#"{"kty":"RSA","n":"AQAB","e":"AQAB","alg":"PS256"}"#;
        check(rsa, None, PS256, 1);
        check(rsa, None, RS256, 0);
    }

    #[test]
    fn keys_that_are_not_for_this_are_left_out() {
        check(&format!(r#"{{{EC},"use":"enc"}}"#), None, ES256, 0);
        check(&format!(r#"{{{EC},"key_ops":["sign"]}}"#), None, ES256, 0);
        check(&format!(r#"{{{EC},"alg":"HS256"}}"#), None, ES256, 0);
        check(
            &format!(r#"{{"kty":"oct","k":"AAAA","alg":"HS256"}},{{"kty":"?"}},7,{{{EC}}}"#),
            None,
            ES256,
            1,
        );
        assert_eq!(KeySet::parse(br#"{"keys":[]}"#).unwrap().len(), 0);
        assert!(KeySet::parse(b"{}").is_err());
    }

    #[test]
    fn none_and_hmac_have_no_name() {
        for name in ["none", "None", "HS256", "HS384", "HS512", "RS1", "ES256K", ""] {
            assert_eq!(SigningAlgorithm::named(name), None);
        }
    }
}
