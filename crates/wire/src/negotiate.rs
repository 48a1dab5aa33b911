//! Subprotocol negotiation: what a client offers, which of it can be decoded, and the credential that may
//! hide in it.
//!
//! Works on header *values*, so that this crate needs no HTTP types.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::error::WireError;

const CODEC: &str = "subprotocols";
const BEARER_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";
const TUNNEL_PREFIX: &str = "SPDY/3.1+";

/// Unpadded base64url, as strict about bits and padding as can be: two spellings of one token would be two
/// different log lines.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// A WebSocket subprotocol of Kubernetes that this crate decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subprotocol {
    /// `channel.k8s.io`: each binary message begins with a channel byte. Also what no subprotocol at all
    /// means.
    ChannelV1,
    /// `v2.channel.k8s.io`.
    ChannelV2,
    /// `v3.channel.k8s.io`: adds the resize channel.
    ChannelV3,
    /// `v4.channel.k8s.io`: the error channel carries a JSON `Status`.
    ChannelV4,
    /// `v5.channel.k8s.io`: adds the CLOSE signal.
    ChannelV5,
    /// `base64.channel.k8s.io`: text messages, the channel as a digit, then base64.
    Base64ChannelV1,
    /// `v4.base64.channel.k8s.io`.
    Base64ChannelV4,
    /// `binary.k8s.io`: one stream, the messages are its bytes. Also what no subprotocol at all means for a
    /// log.
    Binary,
    /// `base64.binary.k8s.io`: one stream, the messages are its bytes in base64.
    Base64Binary,
    /// `SPDY/3.1+portforward.k8s.io`: SPDY inside of binary messages.
    PortForwardTunnel,
}

impl Subprotocol {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::ChannelV5,
        Self::ChannelV4,
        Self::ChannelV3,
        Self::ChannelV2,
        Self::ChannelV1,
        Self::Base64ChannelV4,
        Self::Base64ChannelV1,
        Self::Binary,
        Self::Base64Binary,
        Self::PortForwardTunnel,
    ];

    /// Its name in `Sec-WebSocket-Protocol`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChannelV1 => "channel.k8s.io",
            Self::ChannelV2 => "v2.channel.k8s.io",
            Self::ChannelV3 => "v3.channel.k8s.io",
            Self::ChannelV4 => "v4.channel.k8s.io",
            Self::ChannelV5 => "v5.channel.k8s.io",
            Self::Base64ChannelV1 => "base64.channel.k8s.io",
            Self::Base64ChannelV4 => "v4.base64.channel.k8s.io",
            Self::Binary => "binary.k8s.io",
            Self::Base64Binary => "base64.binary.k8s.io",
            Self::PortForwardTunnel => "SPDY/3.1+portforward.k8s.io",
        }
    }

    /// The subprotocol of that exact name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|subprotocol| subprotocol.name() == name)
    }

    /// Whether messages begin with a channel.
    #[must_use]
    pub const fn has_channels(self) -> bool {
        !matches!(self, Self::Binary | Self::Base64Binary | Self::PortForwardTunnel)
    }

    /// Whether payloads are base64 in text messages.
    #[must_use]
    pub const fn is_base64(self) -> bool {
        matches!(self, Self::Base64ChannelV1 | Self::Base64ChannelV4 | Self::Base64Binary)
    }

    /// Whether channel 255 half-closes the channel named by the next byte.
    #[must_use]
    pub const fn has_close_signal(self) -> bool {
        matches!(self, Self::ChannelV5)
    }

    /// Whether the error channel of a command carries a JSON `metav1.Status` (else plain text).
    #[must_use]
    pub const fn error_is_status(self) -> bool {
        matches!(self, Self::ChannelV4 | Self::ChannelV5 | Self::Base64ChannelV4)
    }
}

/// A stream protocol version of Kubernetes over SPDY, as `X-Stream-Protocol-Version` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpdyVersion {
    /// `channel.k8s.io`.
    V1,
    /// `v2.channel.k8s.io`.
    V2,
    /// `v3.channel.k8s.io`: adds the resize stream.
    V3,
    /// `v4.channel.k8s.io`: the error stream carries a JSON `Status`.
    V4,
    /// `portforward.k8s.io`.
    PortForward,
}

impl SpdyVersion {
    /// Its name in `X-Stream-Protocol-Version`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "channel.k8s.io",
            Self::V2 => "v2.channel.k8s.io",
            Self::V3 => "v3.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
            Self::PortForward => "portforward.k8s.io",
        }
    }

    /// The version of that exact name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::V4, Self::V3, Self::V2, Self::V1, Self::PortForward]
            .into_iter()
            .find(|version| version.name() == name)
    }

    /// Whether the error stream carries a JSON `metav1.Status` (else plain text).
    #[must_use]
    pub const fn error_is_status(self) -> bool {
        matches!(self, Self::V4)
    }
}

/// The items of a comma-separated list over all values of a header, in order, without empty ones
/// (`X-Stream-Protocol-Version`; RFC 9110, section 5.6.1).
pub fn header_list<'a>(values: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    values
        .into_iter()
        .flat_map(|value| value.split(','))
        .map(|item| item.trim_matches([' ', '\t']))
        .filter(|item| !item.is_empty())
}

/// What a client offers in `Sec-WebSocket-Protocol`.
///
/// ```
/// use portcullis_wire::{OfferedSubprotocols, Subprotocol};
///
/// let offer = OfferedSubprotocols::parse(["v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0", "soap"])?;
/// assert_eq!(offer.bearer_token(), Some("secret"));
/// assert_eq!(offer.names(), ["v5.channel.k8s.io", "soap"]);
/// assert_eq!(offer.decodable().collect::<Vec<_>>(), [Subprotocol::ChannelV5]);
/// # Ok::<(), portcullis_wire::WireError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OfferedSubprotocols {
    names: Vec<String>,
    token: Option<String>,
}

impl OfferedSubprotocols {
    /// Reads all values of the header, in order, as the API server does: RFC 6455, section 11.3.4 lets a
    /// client spread the list over several.
    ///
    /// The bearer token is split off. It is a credential like an `Authorization` header: verify it, and never
    /// forward it.
    ///
    /// # Errors
    /// Two tokens; a token that is not unpadded base64url of UTF-8 text, or empty; a token and no other
    /// subprotocol (the server must answer with one, and not with the token).
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Self, WireError> {
        let mut offer = Self::default();
        for name in header_list(values) {
            match name.strip_prefix(BEARER_PREFIX) {
                Some(_) if offer.token.is_some() => {
                    return Err(WireError::protocol(CODEC, "more than one bearer token"));
                }
                Some(encoded) => offer.token = Some(decode_token(encoded)?),
                None => offer.names.push(name.to_owned()),
            }
        }
        if offer.token.is_some() && offer.names.is_empty() {
            return Err(WireError::protocol(CODEC, "a bearer token needs another subprotocol beside it"));
        }
        Ok(offer)
    }

    /// The credential, if the client hid one in the list.
    #[must_use]
    pub fn bearer_token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// What was offered besides it, in the client's order.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What of it can be decoded, in the client's order: nothing else may be offered upstream.
    pub fn decodable(&self) -> impl Iterator<Item = Subprotocol> {
        self.names.iter().filter_map(|name| Subprotocol::parse(name))
    }

    /// Whether the client offers to tunnel SPDY (`SPDY/3.1+…`).
    #[must_use]
    pub fn wants_tunnel(&self) -> bool {
        self.names.iter().any(|name| name.starts_with(TUNNEL_PREFIX))
    }
}

/// Never shows the token.
impl fmt::Debug for OfferedSubprotocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfferedSubprotocols")
            .field("names", &self.names)
            .field("has_token", &self.token.is_some())
            .finish()
    }
}

fn decode_token(encoded: &str) -> Result<String, WireError> {
    let bytes = BASE64URL
        .decode(encoded)
        .map_err(|_| WireError::protocol(CODEC, "a bearer token that is not unpadded base64url"))?;
    if bytes.is_empty() {
        return Err(WireError::protocol(CODEC, "an empty bearer token"));
    }
    String::from_utf8(bytes).map_err(|_| WireError::protocol(CODEC, "a bearer token that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(values: &[&str], names: &[&str], token: Option<&str>) {
        let offer = OfferedSubprotocols::parse(values.iter().copied()).expect("valid");
        assert_eq!(offer.names(), names);
        assert_eq!(offer.bearer_token(), token);
        assert!(!format!("{offer:?}").contains(token.unwrap_or("\0")));
    }

    #[test]
    fn offers() {
        const BEARER: &str = "base64url.bearer.authorization.k8s.io.c2VjcmV0";
        check(&[], &[], None);
        check(&[" v4.channel.k8s.io ,,\tchannel.k8s.io"], &["v4.channel.k8s.io", "channel.k8s.io"], None);
        check(&[BEARER, "v4.channel.k8s.io"], &["v4.channel.k8s.io"], Some("secret"));
        check(&[&format!("a,{BEARER},b")], &["a", "b"], Some("secret"));
    }

    #[test]
    fn refused_offers() {
        for values in [
            "base64url.bearer.authorization.k8s.io.c2VjcmV0",
            "a, base64url.bearer.authorization.k8s.io.c2VjcmV0, base64url.bearer.authorization.k8s.io.c2VjcmV0",
            "a, base64url.bearer.authorization.k8s.io.",
            "a, base64url.bearer.authorization.k8s.io.YQ==",
            "a, base64url.bearer.authorization.k8s.io.YR",
            "a, base64url.bearer.authorization.k8s.io.!",
            "a, base64url.bearer.authorization.k8s.io._w",
        ] {
            let error = OfferedSubprotocols::parse([values]).expect_err(values);
            assert!(!error.to_string().contains("c2Vj"), "{error}");
        }
    }

    #[test]
    fn names_round_trip() {
        for subprotocol in Subprotocol::ALL {
            assert_eq!(Subprotocol::parse(subprotocol.name()), Some(subprotocol));
        }
        for version in
            [SpdyVersion::V1, SpdyVersion::V2, SpdyVersion::V3, SpdyVersion::V4, SpdyVersion::PortForward]
        {
            assert_eq!(SpdyVersion::parse(version.name()), Some(version));
        }
        assert_eq!(Subprotocol::parse("V4.channel.k8s.io"), None);
        assert_eq!(SpdyVersion::parse("v5.channel.k8s.io"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(values in prop::collection::vec(".{0,80}", 0..4), token in "[A-Za-z0-9_=-]{0,20}") {
            let bearer = format!("{BEARER_PREFIX}{token}");
            let all = values.iter().map(String::as_str).chain([bearer.as_str()]);
            if let Ok(offer) = OfferedSubprotocols::parse(all) {
                prop_assert!(offer.bearer_token().is_some());
                prop_assert!(offer.names().iter().all(|name| !name.starts_with(BEARER_PREFIX)));
            }
        }
    }
}
