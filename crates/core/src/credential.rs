//! The bearer token of a request: found in one place only, taken off, never shown.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, UPGRADE},
};

use crate::Refusal;

/// The WebSocket subprotocol that carries a token, for browsers, which cannot set `Authorization`
/// (`k8s.io/apiserver/pkg/authentication/request/websocket`).
const SUBPROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// A bearer token (RFC 6750), as a request carried it. `Debug` never prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken(String);

impl BearerToken {
    /// The longest token anybody looks at: 16 KiB. Longer ones are refused before a byte is decoded.
    pub const MAX_LEN: usize = 16 * 1024;

    /// The token of a request: of `Authorization: Bearer`, or of the WebSocket subprotocol
    /// `base64url.bearer.authorization.k8s.io.<token>`. `None` if there is neither.
    ///
    /// # Errors
    ///
    /// 401 when two credentials are named, so that no two readers can choose differently, or when the one named
    /// cannot be read.
    pub fn find(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut authorizations = headers.get_all(AUTHORIZATION).iter();
        let authorization = authorizations.next();
        let mut subprotocols =
            subprotocols(headers).filter(|protocol| protocol.starts_with(SUBPROTOCOL.as_bytes()));
        let subprotocol = subprotocols.next();
        if authorizations.next().is_some()
            || subprotocols.next().is_some()
            || (authorization.is_some() && subprotocol.is_some())
        {
            return Err(Refusal::unauthorized(
                "credential/ambiguous",
                "the request carries more than one credential",
            )
            .advice("send one bearer token, in `Authorization` or as a WebSocket subprotocol"));
        }
        match (authorization, subprotocol) {
            (Some(value), _) => Self::of_authorization(value),
            (None, Some(protocol)) if is_websocket(headers) => Self::of_subprotocol(protocol, headers),
            _ => Ok(None),
        }
    }

    /// Takes every credential off a request: `Authorization`, and bearer subprotocols of a WebSocket handshake.
    pub fn strip(headers: &mut HeaderMap) {
        headers.remove(AUTHORIZATION);
        if !subprotocols(headers).any(|protocol| protocol.starts_with(SUBPROTOCOL.as_bytes())) {
            return;
        }
        let kept: Vec<&[u8]> = subprotocols(headers)
            .filter(|protocol| !protocol.is_empty() && !protocol.starts_with(SUBPROTOCOL.as_bytes()))
            .collect();
        let kept = HeaderValue::from_bytes(&kept.join(&b", "[..]));
        headers.remove(SEC_WEBSOCKET_PROTOCOL);
        if let Ok(kept) = kept
            && !kept.is_empty()
        {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, kept);
        }
    }

    /// The token itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn of_authorization(value: &HeaderValue) -> Result<Option<Self>, Refusal> {
        let bytes = value.as_bytes();
        let Some((scheme, rest)) = bytes.split_at_checked(6) else { return Ok(None) };
        if !scheme.eq_ignore_ascii_case(b"bearer") || rest.first().is_some_and(|byte| *byte != b' ') {
            return Ok(None);
        }
        Self::checked(rest.trim_ascii()).map(Some)
    }

    fn of_subprotocol(protocol: &[u8], headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let others = subprotocols(headers).any(|other| !other.is_empty() && other != protocol);
        if !others {
            return Err(Refusal::unauthorized(
                "credential/malformed",
                "a bearer subprotocol must come with the subprotocol that is to be spoken",
            ));
        }
        let encoded = &protocol[SUBPROTOCOL.len()..];
        too_long(encoded.len() / 4 * 3)?;
        let token = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| malformed())?;
        Self::checked(&token).map(Some)
    }

    /// RFC 6750 §2.1: `b64token`.
    fn checked(token: &[u8]) -> Result<Self, Refusal> {
        too_long(token.len())?;
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
        match std::str::from_utf8(token) {
            Ok(text) if !token.is_empty() && token.iter().all(legal) => Ok(Self(text.to_owned())),
            _ => Err(malformed()),
        }
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BearerToken({} bytes)", self.0.len())
    }
}

fn too_long(length: usize) -> Result<(), Refusal> {
    if length <= BearerToken::MAX_LEN {
        return Ok(());
    }
    let limit = BearerToken::MAX_LEN / 1024;
    Err(Refusal::unauthorized(
        "credential/too-large",
        format!("the bearer token is longer than {limit} KiB, so it was not read"),
    ))
}

fn malformed() -> Refusal {
    Refusal::unauthorized("credential/malformed", "the bearer token contains what no token may contain")
}

fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    list(headers, SEC_WEBSOCKET_PROTOCOL)
}

fn is_websocket(headers: &HeaderMap) -> bool {
    list(headers, UPGRADE).any(|token| token.eq_ignore_ascii_case(b"websocket"))
}

fn list(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(name)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn check(lines: &[(&str, &str)], expected: Result<Option<&str>, &str>) {
        let headers = headers(lines);
        let found = BearerToken::find(&headers);
        let found =
            found.as_ref().map(|token| token.as_ref().map(BearerToken::reveal)).map_err(Refusal::code);
        assert_eq!(found, expected, "{lines:?}");
    }

    const WEBSOCKET: (&str, &str) = ("upgrade", "websocket");
    // `abc.def`, as the subprotocol carries it.
    const CARRIED: &str = "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJjLmRlZg";

    #[test]
    fn a_token_is_found_in_one_place_or_refused() {
        check(&[], Ok(None));
        check(&[("authorization", "Bearer abc.def")], Ok(Some("abc.def")));
        check(&[("authorization", "bEARER   abc")], Ok(Some("abc")));
        check(&[("authorization", "Basic YTpi")], Ok(None));
        check(&[("authorization", "Bearerabc")], Ok(None));
        check(&[("authorization", "Bearer")], Err("credential/malformed"));
        check(&[("authorization", "Bearer a b")], Err("credential/malformed"));
        check(&[("authorization", "Bearer a,Bearer b")], Err("credential/malformed"));
        check(&[("authorization", "Bearer a"), ("authorization", "Bearer b")], Err("credential/ambiguous"));

        let carried = ("sec-websocket-protocol", CARRIED);
        check(&[WEBSOCKET, carried], Ok(Some("abc.def")));
        check(&[carried], Ok(None));
        check(&[WEBSOCKET, carried, ("authorization", "Bearer a")], Err("credential/ambiguous"));
        check(&[WEBSOCKET, carried, carried], Err("credential/ambiguous"));
        let alone = ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.YWJjLmRlZg");
        check(&[WEBSOCKET, alone], Err("credential/malformed"));
        let bad = ("sec-websocket-protocol", "v4.channel.k8s.io,base64url.bearer.authorization.k8s.io.!!");
        check(&[WEBSOCKET, bad], Err("credential/malformed"));
    }

    #[test]
    fn a_megabyte_is_refused_unread() {
        let huge = format!("Bearer {}", "a".repeat(1 << 20));
        check(&[("authorization", &huge)], Err("credential/too-large"));
        let carried =
            format!("v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.{}", "YWJj".repeat(1 << 18));
        check(&[WEBSOCKET, ("sec-websocket-protocol", &carried)], Err("credential/too-large"));
    }

    #[test]
    fn stripping_leaves_the_other_subprotocols() {
        let mut some = headers(&[("authorization", "Bearer a"), ("sec-websocket-protocol", CARRIED)]);
        BearerToken::strip(&mut some);
        assert_eq!(some, headers(&[("sec-websocket-protocol", "v4.channel.k8s.io")]));
        let mut none = headers(&[("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.YQ")]);
        BearerToken::strip(&mut none);
        assert!(none.is_empty());
    }

    #[test]
    fn debug_never_prints_it() {
        assert_eq!(format!("{:?}", BearerToken("secret".into())), "BearerToken(6 bytes)");
    }

    /// A header as it may come: near what is looked for, or anything.
    fn header() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
        let name = prop_oneof![Just(AUTHORIZATION), Just(SEC_WEBSOCKET_PROTOCOL), Just(UPGRADE)];
        let near = "((bearer|basic|v4[.]channel[.]k8s[.]io|websocket|base64url[.]bearer[.]authorization[.]k8s[.]io[.])[-_a-zA-Z0-9=. ,\t]{0,12},? ?){0,3}";
        let value = prop_oneof![
            near.prop_map(String::into_bytes),
            prop::collection::vec(prop_oneof![Just(b'\t'), 0x20..=0x7e_u8, 0x80..=0xff_u8], 0..40),
        ];
        (name, value.prop_map(|bytes| HeaderValue::from_bytes(&bytes).expect("a header's bytes")))
    }

    proptest! {
        /// Whatever comes is read or refused; what is found can be found again where it is put; and nothing is found where
        /// all has been taken off.
        #[test]
        fn whatever_comes_is_found_once_and_stripped(lines in prop::collection::vec(header(), 0..5)) {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name, value);
            }
            let found = BearerToken::find(&headers);
            if let Ok(Some(token)) = &found {
                let again = format!("Bearer {}", token.reveal());
                let again = BearerToken::find(&self::headers(&[("authorization", &again)])).ok().flatten();
                prop_assert_eq!(again.as_ref(), Some(token));
            }
            BearerToken::strip(&mut headers);
            prop_assert_eq!(BearerToken::find(&headers).ok(), Some(None));
            let once = headers.clone();
            BearerToken::strip(&mut headers);
            prop_assert_eq!(headers, once);
        }

        #[test]
        fn a_token_is_the_same_in_either_place(token in "[-a-zA-Z0-9._~+/=]{1,40}") {
            let carried = format!("v4.channel.k8s.io, {SUBPROTOCOL}{}", URL_SAFE_NO_PAD.encode(&token));
            let carried = headers(&[WEBSOCKET, ("sec-websocket-protocol", &carried)]);
            let authorized = headers(&[("authorization", &format!("Bearer {token}"))]);
            for headers in [carried, authorized] {
                let found = BearerToken::find(&headers).expect("a good token").expect("a token");
                prop_assert_eq!(found.reveal(), &token);
            }
        }
    }
}
