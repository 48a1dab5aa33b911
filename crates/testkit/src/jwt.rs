//! Signing keys for JWTs (RFC 7515): what the identity provider and the service-account issuer sign with.

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header,
    jwk::{Jwk, ThumbprintHash},
};
use rcgen::KeyPair;
use serde_json::Value;

use crate::TestkitError;

/// A private key and its public half as a JWK, whose `kid` is its thumbprint (RFC 7638).
#[derive(Clone)]
pub(crate) struct SigningKey {
    algorithm: Algorithm,
    key: EncodingKey,
    pub(crate) jwk: Jwk,
    kid: String,
}

impl SigningKey {
    pub(crate) fn es256() -> Result<Self, TestkitError> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        Self::new(Algorithm::ES256, EncodingKey::from_ec_der(pair.serialized_der()))
    }

    pub(crate) fn rs256() -> Result<Self, TestkitError> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)?;
        let pkcs1 = pkcs1_of(pair.serialized_der())
            .ok_or_else(|| TestkitError::Tls("the generated RSA key is not PKCS #8".into()))?;
        Self::new(Algorithm::RS256, EncodingKey::from_rsa_der(pkcs1))
    }

    fn new(algorithm: Algorithm, key: EncodingKey) -> Result<Self, TestkitError> {
        let mut jwk = Jwk::from_encoding_key(&key, algorithm)?;
        let kid = jwk.thumbprint(ThumbprintHash::SHA256)?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(jsonwebtoken::jwk::PublicKeyUse::Signature);
        Ok(Self { algorithm, key, jwk, kid })
    }

    pub(crate) fn sign(&self, claims: &Value) -> Result<String, TestkitError> {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.clone());
        Ok(jsonwebtoken::encode(&header, claims, &self.key)?)
    }

    /// The claims of a token that this key signed, whatever they say: the caller compares times and names.
    pub(crate) fn verify(&self, token: &str) -> Option<Value> {
        let mut validation = jsonwebtoken::Validation::new(self.algorithm);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let key = DecodingKey::from_jwk(&self.jwk).ok()?;
        jsonwebtoken::decode(token, &key, &validation).ok().map(|data| data.claims)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey")
            .field("algorithm", &self.algorithm)
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

/// The `RSAPrivateKey` inside a `PrivateKeyInfo` (RFC 5208 §5): version, algorithm, then the octets we want.
fn pkcs1_of(pkcs8: &[u8]) -> Option<&[u8]> {
    let (_, info, _) = der(pkcs8)?;
    let (_, _version, rest) = der(info)?;
    let (_, _algorithm, rest) = der(rest)?;
    let (tag, key, _) = der(rest)?;
    (tag == 0x04).then_some(key)
}

/// One DER element: tag, contents, and what follows it.
fn der(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_kinds_of_key_sign_what_they_verify_and_nothing_else() {
        let keys = [SigningKey::es256().unwrap(), SigningKey::rs256().unwrap()];
        for (own, other) in [(0, 1), (1, 0)] {
            let token = keys[own].sign(&json!({"sub": "x"})).unwrap();
            assert_eq!(keys[own].verify(&token).unwrap()["sub"], "x");
            assert!(keys[other].verify(&token).is_none());
            let header = jsonwebtoken::decode_header(&token).unwrap();
            assert_eq!(header.kid.as_deref(), keys[own].jwk.common.key_id.as_deref());
        }
    }
}
