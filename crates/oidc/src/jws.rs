//! A compact JWS (RFC 7515), taken apart strictly and believed in nothing.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_core::{AuthenticationError, BearerToken};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The parts of a token. Nothing in it is verified.
pub(crate) struct Unverified<'t> {
    /// What the signature covers: header and payload, as they came.
    pub(crate) signed: &'t str,
    /// The signature, still encoded.
    pub(crate) signature: &'t str,
    /// The signature's algorithm, as the header names it.
    pub(crate) algorithm: String,
    /// Which key made it, as the header says.
    pub(crate) key_id: Option<String>,
    /// The payload.
    pub(crate) claims: Map<String, Value>,
}

impl<'t> Unverified<'t> {
    /// Takes a token apart. Duplicate member names, padding, stray bits and unknown critical extensions are refused.
    pub(crate) fn parse(token: &'t str) -> Result<Self, AuthenticationError> {
        if token.len() > BearerToken::MAX_LEN {
            let limit = BearerToken::MAX_LEN / 1024;
            return Err(AuthenticationError::invalid(
                "oidc/too-large",
                format!("the token is longer than {limit} KiB, so it was not read"),
                format!("{} bytes", token.len()),
            ));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("it does not have three parts"));
        };
        let claims = object(payload).map_err(|why| malformed(format!("its payload {why}")))?;
        let header = object(header).map_err(|why| malformed(format!("its header {why}")))?;
        if header.contains_key("crit") {
            return Err(AuthenticationError::invalid(
                "oidc/critical-extension",
                "the token demands an extension (`crit`) that is not understood here",
                "crit header",
            ));
        }
        check_type(&header)?;
        let Some(Value::String(algorithm)) = header.get("alg") else {
            return Err(malformed("its header names no algorithm"));
        };
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(malformed("its `kid` is not a string")),
        };
        Ok(Self {
            signed: &token[..token.len() - signature.len() - 1],
            signature,
            algorithm: algorithm.clone(),
            key_id,
            claims,
        })
    }
}

/// A token that was made for something else (a logout or security event token, a proof of possession) is signed by
/// the same keys, so its `typ` must not be overlooked (RFC 8725 §3.11).
fn check_type(header: &Map<String, Value>) -> Result<(), AuthenticationError> {
    let kind = match header.get("typ") {
        None => return Ok(()),
        Some(Value::String(kind)) => kind.to_ascii_lowercase(),
        Some(_) => return Err(malformed("its `typ` is not a string")),
    };
    let bare = kind.strip_prefix("application/").unwrap_or(&kind);
    if ["jwt", "at+jwt"].contains(&bare) {
        return Ok(());
    }
    Err(AuthenticationError::invalid(
        "oidc/wrong-type",
        "the token is of a type (`typ`) that is no credential",
        format!("typ {}", shown(bare)),
    ))
}

fn object(part: &str) -> Result<Map<String, Value>, String> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| "is not base64url".to_owned())?;
    match parse_json(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("is not an object".into()),
        // The parser's message may quote the token; only its place is kept.
        Err(error) if error.to_string().contains(DUPLICATE) => Err("names a member twice".into()),
        Err(error) => Err(format!("is not JSON (column {})", error.column())),
    }
}

fn malformed(why: impl Into<String>) -> AuthenticationError {
    let why = why.into();
    AuthenticationError::invalid("oidc/malformed", format!("the token is malformed: {why}"), why)
}

/// Text from a token that nobody verified, fit for a message: short, and without control characters.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(120).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

const DUPLICATE: &str = "duplicate member";

/// JSON in which no object names a member twice: parsers differ in which of the two they take.
pub(crate) fn parse_json(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Strict)? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(Strict)?;
            if object.insert(name, value).is_some() {
                return Err(de::Error::custom(DUPLICATE));
            }
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    fn check(token: &str, expected: Result<(), (&str, &str)>) {
        let found = Unverified::parse(token).map(drop).map_err(|error| (error.code, error.public));
        match (&found, expected) {
            (Ok(()), Ok(())) => {}
            (Err((code, public)), Err((wanted, word))) => {
                assert!(*code == wanted && public.contains(word), "{token}: {code} {public}");
            }
            _ => panic!("{token}: {found:?}"),
        }
    }

    #[test]
    fn a_token_is_read_in_one_way_or_not_at_all() {
        let fine = token(r#"{"alg":"RS256","kid":"1"}"#, r#"{"iss":"x"}"#);
        check(&fine, Ok(()));
        check(&token(r#"{"alg":"RS256","typ":"at+JWT"}"#, "{}"), Ok(()));
        check(&token(r#"{"alg":"RS256","typ":"application/jwt"}"#, "{}"), Ok(()));
        check("", Err(("oidc/malformed", "three parts")));
        check("a.b", Err(("oidc/malformed", "three parts")));
        check(&format!("{fine}.x.y"), Err(("oidc/malformed", "three parts")));
        check("e30=.e30.c2ln", Err(("oidc/malformed", "header is not base64url")));
        check("e30.e31.c2ln", Err(("oidc/malformed", "payload is not")));
        check(&token("[]", "{}"), Err(("oidc/malformed", "not an object")));
        check(&token("{}", "{}"), Err(("oidc/malformed", "no algorithm")));
        check(&token(r#"{"alg":"RS256","kid":7}"#, "{}"), Err(("oidc/malformed", "`kid`")));
        check(&token(r#"{"alg":"RS256","alg":"none"}"#, "{}"), Err(("oidc/malformed", "twice")));
        check(&token(r#"{"alg":"RS256"}"#, r#"{"sub":"a","sub":"b"}"#), Err(("oidc/malformed", "twice")));
        check(&token(r#"{"alg":"RS256"}"#, r#"{"a":[{"b":1,"b":1}]}"#), Err(("oidc/malformed", "twice")));
        check(&token(r#"{"alg":"RS256"}"#, "{} {}"), Err(("oidc/malformed", "not JSON")));
        check(&token(r#"{"alg":"RS256","crit":["exp"]}"#, "{}"), Err(("oidc/critical-extension", "crit")));
        check(&token(r#"{"alg":"RS256","crit":[]}"#, "{}"), Err(("oidc/critical-extension", "crit")));
        check(&token(r#"{"alg":"RS256","typ":"logout+jwt"}"#, "{}"), Err(("oidc/wrong-type", "typ")));
        check(&"a".repeat(1 << 20), Err(("oidc/too-large", "16 KiB")));
        check(&token(r#"{"alg":"RS256"}"#, &"[".repeat(5000)), Err(("oidc/malformed", "not JSON")));
    }

    #[test]
    fn what_is_signed_is_what_came() {
        let token = token(r#"{"alg":"ES256"}"#, "{}");
        let parsed = Unverified::parse(&token).unwrap();
        assert_eq!(format!("{}.{}", parsed.signed, parsed.signature), token);
    }

    proptest! {
        #[test]
        fn any_text_gets_an_answer(text in ".{0,200}") {
            let _ = Unverified::parse(&text);
        }

        #[test]
        fn strict_json_reads_what_serde_json_reads(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(value) = parse_json(&bytes) {
                prop_assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), value);
            }
        }
    }
}
