//! What a grant's token says, and the secrets beside it.

use aws_lc_rs::{digest, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_core::ResourceRule;
use serde::{Deserialize, Serialize};

use crate::store::GrantRecord;

/// The `type` of our `authorization_details` (RFC 9396 §2).
pub(crate) const DETAILS_TYPE: &str = "portcullis.dev/kubernetes";

/// What a grant's token says (RFC 9068, RFC 9396).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) sub: String,
    pub(crate) aud: String,
    pub(crate) jti: String,
    pub(crate) client_id: String,
    pub(crate) iat: i64,
    pub(crate) nbf: i64,
    pub(crate) exp: i64,
    pub(crate) authorization_details: Vec<AuthorizationDetails>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) cnf: Option<Confirmation>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AuthorizationDetails {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) rules: Vec<ResourceRule>,
}

/// The client certificate a token is bound to: its SHA-256, base64url without padding (RFC 8705 §3.1).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Confirmation {
    #[serde(rename = "x5t#S256")]
    certificate: String,
}

impl Claims {
    /// `issuer` is the token's audience, too. `None` if the record's certificate digest is not 32 bytes in hexadecimal.
    pub(crate) fn of(issuer: &str, record: &GrantRecord) -> Option<Self> {
        let grant = &record.grant;
        Some(Self {
            iss: issuer.to_owned(),
            sub: record.identity.subject.clone(),
            aud: issuer.to_owned(),
            jti: grant.id.clone(),
            client_id: grant.profile.clone(),
            iat: grant.issued_at.as_second(),
            nbf: grant.issued_at.as_second(),
            exp: grant.expires_at.as_second(),
            authorization_details: vec![AuthorizationDetails {
                kind: DETAILS_TYPE.into(),
                rules: grant.rules.clone(),
            }],
            cnf: match &record.certificate_sha256 {
                Some(hex) => Some(Confirmation::of(hex)?),
                None => None,
            },
        })
    }
}

impl Confirmation {
    /// From the digest as connections have it, in hexadecimal.
    pub(crate) fn of(sha256_hex: &str) -> Option<Self> {
        if sha256_hex.len() != 64 || !sha256_hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let byte = |place| u8::from_str_radix(sha256_hex.get(place..place + 2)?, 16).ok();
        let bytes: Vec<u8> = (0..64).step_by(2).map(byte).collect::<Option<_>>()?;
        Some(Self { certificate: URL_SAFE_NO_PAD.encode(bytes) })
    }
}

/// 256 random bits, base64url; `None` if the system has none.
pub(crate) fn random_secret() -> Option<String> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
    hash
}

pub(crate) fn sha256_hex(data: &[u8]) -> String {
    sha256(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificates_digest_is_written_as_rfc_8705_does() {
        let check = |hex: &str, expected: Option<&str>| {
            let written = Confirmation::of(hex).map(|confirmation| confirmation.certificate);
            assert_eq!(written.as_deref(), expected, "{hex}");
        };
        check(
            "03062b30ccac206078fecd1bf44c3adf8e9f1b7eb8c5d4bc76b49b43eaca6eee",
            Some("AwYrMMysIGB4_s0b9Ew6346fG364xdS8drSbQ-rKbu4"),
        );
        check("03062b30", None);
        check(&"zz".repeat(32), None);
        check(&"é".repeat(32), None);
        check(&format!("{}+1", "00".repeat(31)), None);
    }
}
