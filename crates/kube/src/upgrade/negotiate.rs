//! What a client wants to switch to, what of it may be offered, and what the API server agreed to.

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, Uri,
    header::{CONNECTION, ORIGIN, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE},
    request::Parts,
};
use portcullis_core::{AuditId, Reason, Refusal, RequestInfo, StreamInfo, StreamTransport};
use portcullis_wire::{OfferedSubprotocols, StreamProtocol, StreamPurpose, header_list};

use crate::classify::Query;

const STREAM_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// A client's wish to leave HTTP, reduced to what can be decoded.
#[derive(Debug)]
pub(crate) struct Offer {
    kind: Kind,
    purpose: StreamPurpose,
    /// Subprotocols, or stream protocol versions, in the client's order.
    names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    WebSocket,
    Spdy,
}

/// What both ends agreed to.
#[derive(Debug)]
pub(crate) struct Agreed {
    pub(crate) protocol: StreamProtocol,
    pub(crate) info: StreamInfo,
}

impl Offer {
    /// What the request wants to switch to; `None` if it is an ordinary request. (An `Upgrade` to anything else is ignored,
    /// as RFC 9110 §7.8 allows, and never forwarded.)
    pub(crate) fn of(parts: &Parts, info: &RequestInfo) -> Result<Option<Self>, Refusal> {
        let Some(kind) = Kind::of(&parts.headers)? else { return Ok(None) };
        let purpose = purpose(info, &parts.uri)?;
        if purpose == StreamPurpose::Watch && !parts.headers.contains_key(ORIGIN) {
            // The API server's own answer would be a bare 403.
            return Err(bad(
                "upstream/upgrade",
                "a watch over WebSocket is opened only with an Origin header",
            )
            .advice("say where you come from, as browsers do, or watch over plain HTTP"));
        }
        let names = match kind {
            Kind::WebSocket => {
                let values = texts(&parts.headers, &SEC_WEBSOCKET_PROTOCOL)?;
                let offered = OfferedSubprotocols::parse(values)
                    .map_err(|error| bad("upstream/subprotocol", error.to_string()))?;
                offered.names().to_vec()
            }
            Kind::Spdy => header_list(texts(&parts.headers, &STREAM_VERSION)?).map(str::to_owned).collect(),
        };
        let mut offer = Self { kind, purpose, names };
        let wanted = std::mem::take(&mut offer.names);
        offer.names = wanted.iter().filter(|name| offer.protocol(Some(name)).is_some()).cloned().collect();
        if offer.purpose == StreamPurpose::Watch {
            // The API server chooses none where it watches: it takes the only one, or refuses.
            offer.names.truncate(1);
        }
        let decodable = match wanted.is_empty() {
            true => offer.protocol(None).is_some(),
            false => !offer.names.is_empty(),
        };
        match decodable {
            true => Ok(Some(offer)),
            false => Err(bad(
                "upstream/subprotocol",
                "none of the offered stream protocols can be recorded and masked",
            )
            .advice("use a kubectl or client library of the last five years")),
        }
    }

    /// Puts the offer into the headers of the request that goes to the API server.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) -> Result<(), Refusal> {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let (upgrade, list) = match self.kind {
            Kind::WebSocket => ("websocket", SEC_WEBSOCKET_PROTOCOL),
            Kind::Spdy => ("SPDY/3.1", STREAM_VERSION),
        };
        headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
        headers.remove(&list);
        let values = match self.kind {
            // client-go sends one header per version, and so do we.
            Kind::Spdy => self.names.clone(),
            Kind::WebSocket if self.names.is_empty() => Vec::new(),
            Kind::WebSocket => vec![self.names.join(", ")],
        };
        for value in values {
            let value = HeaderValue::try_from(value).map_err(|_| {
                bad("upstream/subprotocol", "a stream protocol's name has control characters")
            })?;
            headers.append(list.clone(), value);
        }
        Ok(())
    }

    /// What a 101 agreed to, if it is among what was offered.
    pub(crate) fn agreed<B>(
        &self,
        response: &Response<B>,
        request: &RequestInfo,
        uri: &Uri,
        audit_id: Option<AuditId>,
    ) -> Result<Agreed, Refusal> {
        let headers = response.headers();
        let list = match self.kind {
            Kind::WebSocket => SEC_WEBSOCKET_PROTOCOL,
            Kind::Spdy => STREAM_VERSION,
        };
        let mut chosen = headers.get_all(list).iter().map(|value| value.to_str());
        let name = match (chosen.next(), chosen.next()) {
            (None, _) => None,
            (Some(Ok(name)), None) => Some(name.trim()),
            _ => return Err(undecodable("it chose more than one stream protocol")),
        };
        if name.is_some_and(|name| !self.names.iter().any(|offered| offered == name)) {
            return Err(undecodable("it chose a stream protocol that was not offered"));
        }
        if !self.kind.is_named_by(headers) {
            return Err(undecodable("it switched to another protocol than was asked for"));
        }
        if headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
            return Err(undecodable("it chose a WebSocket extension"));
        }
        let protocol = self.protocol(name).ok_or_else(|| undecodable("its stream protocol is unknown"))?;
        let info = self.info(&protocol, name.unwrap_or_default(), request, uri, audit_id);
        Ok(Agreed { protocol, info })
    }

    fn protocol(&self, name: Option<&str>) -> Option<StreamProtocol> {
        match self.kind {
            Kind::WebSocket => StreamProtocol::websocket(name, self.purpose.clone()),
            Kind::Spdy => StreamProtocol::spdy(name, &self.purpose),
        }
    }

    fn info(
        &self,
        protocol: &StreamProtocol,
        name: &str,
        request: &RequestInfo,
        uri: &Uri,
        audit_id: Option<AuditId>,
    ) -> StreamInfo {
        // It was classified, so it can be parsed.
        let query = Query::parse(uri.query().unwrap_or_default(), true).unwrap_or_default();
        let exec = request.subresource == "exec";
        StreamInfo {
            request: request.clone(),
            audit_id,
            transport: match (self.kind, protocol) {
                (Kind::Spdy, _) => StreamTransport::Spdy,
                (Kind::WebSocket, StreamProtocol::SpdyTunnel(_)) => StreamTransport::SpdyOverWebSocket,
                (Kind::WebSocket, _) => StreamTransport::WebSocket,
            },
            subprotocol: name.to_owned(),
            command: query.all("command").filter(|_| exec).map(str::to_owned).collect(),
            container: query.first("container").filter(|name| !name.is_empty()).map(str::to_owned),
            tty: query.flag("tty"),
        }
    }
}

impl Kind {
    fn of(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let asked = list(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
        let mut kinds = list(headers, &UPGRADE).filter_map(Self::parse);
        match (asked, kinds.next(), kinds.next()) {
            (false, ..) | (true, None, _) => Ok(None),
            (true, Some(kind), None) => Ok(Some(kind)),
            (true, Some(_), Some(_)) => {
                Err(bad("upstream/upgrade", "the request offers more than one upgrade"))
            }
        }
    }

    fn parse(token: &[u8]) -> Option<Self> {
        match token {
            token if token.eq_ignore_ascii_case(b"websocket") => Some(Self::WebSocket),
            token if token.eq_ignore_ascii_case(b"spdy/3.1") => Some(Self::Spdy),
            _ => None,
        }
    }

    fn is_named_by(self, headers: &HeaderMap) -> bool {
        list(headers, &UPGRADE).filter_map(Self::parse).eq([self])
    }
}

/// The 101 that the client gets: nothing of the API server's but what the handshake needs.
pub(crate) fn switching_headers(upstream: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    for name in [UPGRADE, ACCEPT, SEC_WEBSOCKET_PROTOCOL, STREAM_VERSION] {
        if let Some(value) = upstream.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    headers
}

fn purpose(info: &RequestInfo, uri: &Uri) -> Result<StreamPurpose, Refusal> {
    match info.subresource.as_str() {
        "exec" | "attach" if info.is_resource_request => Ok(StreamPurpose::RemoteCommand),
        "portforward" if info.is_resource_request => {
            let query = Query::parse(uri.query().unwrap_or_default(), false)?;
            let ports = query.all("ports").flat_map(|ports| ports.split(','));
            let ports: Result<Vec<u16>, _> = ports.map(str::parse).collect();
            let ports = ports.map_err(|_| bad("upstream/upgrade", "the ports to forward are not numbers"))?;
            Ok(StreamPurpose::PortForward(ports))
        }
        "" if info.is_resource_request && info.verb == "watch" => Ok(StreamPurpose::Watch),
        "proxy" => Err(bad(
            "upstream/upgrade",
            "a proxied connection may not be upgraded: what it would carry can be neither recorded nor masked",
        )),
        _ => Err(bad("upstream/upgrade", "only exec, attach, port-forward and watches may be upgraded")
            .advice("read logs over plain HTTP")),
    }
}

fn texts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Vec<&'a str>, Refusal> {
    let texts: Result<Vec<_>, _> = headers.get_all(name).iter().map(HeaderValue::to_str).collect();
    texts.map_err(|_| bad("upstream/subprotocol", format!("the {name} header is not visible ASCII")))
}

fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

fn bad(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::bad_request(code, message)
}

fn undecodable(detail: &str) -> Refusal {
    Refusal::new(
        Reason::BadGateway,
        "upstream/undecodable",
        "the API server answered the upgrade with what cannot be decoded",
    )
    .detail(detail)
}

#[cfg(test)]
mod tests {
    use http::Request;
    use portcullis_core::Classifier;
    use proptest::prelude::*;

    use super::*;
    use crate::KubeClassifier;

    const EXEC: &str = "/api/v1/namespaces/shop/pods/web/exec?command=sh&command=-c&container=app&tty=true";
    const WATCH: &str = "/api/v1/namespaces/shop/pods?watch=true";
    const FORWARD: &str = "/api/v1/namespaces/shop/pods/web/portforward?ports=80,443";

    fn offer(target: &str, headers: &[(&str, &str)]) -> (Result<Option<Offer>, Refusal>, Uri, RequestInfo) {
        let mut request = Request::get(target).header(ORIGIN, "https://console.example.com");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        match KubeClassifier::new().classify(&parts) {
            Ok(info) => (Offer::of(&parts, &info), parts.uri, info),
            Err(refusal) => (Err(refusal), parts.uri, RequestInfo::default()),
        }
    }

    fn sent(target: &str, headers: &[(&str, &str)]) -> Vec<String> {
        let mut map = HeaderMap::new();
        offer(target, headers).0.unwrap().unwrap().apply(&mut map).unwrap();
        map.iter().skip(2).map(|(_, value)| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn only_what_is_decoded_is_offered() {
        let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        let with = |protocols| [websocket[0], websocket[1], ("sec-websocket-protocol", protocols)];
        assert_eq!(
            sent(EXEC, &with("v5.channel.k8s.io, v9.channel.k8s.io,v4.channel.k8s.io")),
            ["v5.channel.k8s.io, v4.channel.k8s.io"]
        );
        assert_eq!(sent(EXEC, &websocket), [""; 0]);
        assert_eq!(
            sent(FORWARD, &with("SPDY/3.1+portforward.k8s.io, soap")),
            ["SPDY/3.1+portforward.k8s.io"]
        );
        assert_eq!(sent(WATCH, &websocket), [""; 0]);
        assert_eq!(
            sent(WATCH, &with("v4.channel.k8s.io, base64.binary.k8s.io, binary.k8s.io")),
            ["base64.binary.k8s.io"],
            "with two the API server refuses"
        );
        let bearer = "base64url.bearer.authorization.k8s.io.c2VjcmV0, v4.channel.k8s.io";
        assert_eq!(sent(EXEC, &with(bearer)), ["v4.channel.k8s.io"]);

        let spdy = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        let with = |versions| [spdy[0], spdy[1], ("x-stream-protocol-version", versions)];
        assert_eq!(
            sent(EXEC, &with("v4.channel.k8s.io, v7.channel.k8s.io, v3.channel.k8s.io")),
            ["v4.channel.k8s.io", "v3.channel.k8s.io"]
        );
        assert_eq!(sent(FORWARD, &with("portforward.k8s.io")), ["portforward.k8s.io"]);
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        let check = |target: &str, headers: &[(&str, &str)], code: &str| {
            let (offer, ..) = offer(target, headers);
            assert_eq!(offer.unwrap_err().code(), code, "{target} {headers:?}");
        };
        let websocket = [("connection", "upgrade"), ("upgrade", "websocket")];
        let with = |protocols| [websocket[0], websocket[1], ("sec-websocket-protocol", protocols)];
        check(EXEC, &with("v9.channel.k8s.io"), "upstream/subprotocol");
        check(EXEC, &with("SPDY/3.1+portforward.k8s.io"), "upstream/subprotocol");
        check(EXEC, &with("base64url.bearer.authorization.k8s.io.c2VjcmV0"), "upstream/subprotocol");
        check(FORWARD, &with("binary.k8s.io"), "upstream/subprotocol");
        check(FORWARD, &[("connection", "upgrade"), ("upgrade", "spdy/3.1")], "upstream/subprotocol");
        check(WATCH, &[("connection", "upgrade"), ("upgrade", "spdy/3.1")], "upstream/subprotocol");
        check(WATCH, &with("v4.channel.k8s.io"), "upstream/subprotocol");
        check(EXEC, &[("connection", "upgrade"), ("upgrade", "websocket, spdy/3.1")], "upstream/upgrade");
        for target in [
            "/api/v1/pods",
            "/api/v1/namespaces/shop/pods/web",
            "/api/v1/namespaces/shop/pods/web/log?follow=true",
            "/api/v1/namespaces/shop/pods/web/log?watch=true",
            "/api/v1/namespaces/shop/services/web/proxy/",
            "/openapi/v3",
            "/api/v1/namespaces/shop/pods/web/portforward?ports=http",
        ] {
            check(target, &with("binary.k8s.io"), "upstream/upgrade");
        }
    }

    #[test]
    fn a_watch_says_where_it_comes_from() {
        let request = Request::get(WATCH).header(CONNECTION, "upgrade").header(UPGRADE, "websocket");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(KubeClassifier::new().classify(&parts).unwrap_err().code(), "upstream/upgrade");
    }

    #[test]
    fn other_upgrades_are_ignored() {
        for headers in [
            [("connection", "upgrade"), ("upgrade", "h2c")],
            [("connection", "close"), ("upgrade", "websocket")],
        ] {
            assert!(offer("/api/v1/pods", &headers).0.unwrap().is_none());
        }
    }

    #[test]
    fn what_was_agreed_is_checked() {
        let headers = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io"),
        ];
        let (offer, uri, info) = offer(EXEC, &headers);
        let offer = offer.unwrap().unwrap();
        let agree = |headers: &[(&str, &str)]| {
            let mut response = Response::builder().status(101);
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
            offer.agreed(&response.body(()).unwrap(), &info, &uri, None)
        };
        let agreed =
            agree(&[("upgrade", "websocket"), ("sec-websocket-protocol", "v4.channel.k8s.io")]).unwrap();
        assert_eq!(
            (agreed.info.subprotocol.as_str(), agreed.info.transport),
            ("v4.channel.k8s.io", StreamTransport::WebSocket)
        );
        assert_eq!(
            (agreed.info.command, agreed.info.container, agreed.info.tty),
            (vec!["sh".into(), "-c".into()], Some("app".into()), true)
        );
        for headers in [
            &[("upgrade", "websocket"), ("sec-websocket-protocol", "v3.channel.k8s.io")][..],
            &[
                ("upgrade", "websocket"),
                ("sec-websocket-protocol", "v4.channel.k8s.io"),
                ("sec-websocket-protocol", "v5.channel.k8s.io"),
            ],
            &[("upgrade", "SPDY/3.1"), ("sec-websocket-protocol", "v4.channel.k8s.io")],
            &[("sec-websocket-protocol", "v4.channel.k8s.io")],
            &[("upgrade", "websocket"), ("sec-websocket-extensions", "permessage-deflate")],
        ] {
            assert_eq!(agree(headers).unwrap_err().code(), "upstream/undecodable", "{headers:?}");
        }
        assert!(agree(&[("upgrade", "websocket")]).is_ok(), "no subprotocol means the oldest");
    }

    /// Lists of protocols, near what is known, in any order and writing.
    fn protocols() -> impl Strategy<Value = String> {
        let known = prop::sample::select(vec![
            "v5.channel.k8s.io",
            "v4.channel.k8s.io",
            "channel.k8s.io",
            "base64.channel.k8s.io",
            "portforward.k8s.io",
            "SPDY/3.1+portforward.k8s.io",
            "base64url.bearer.authorization.k8s.io.c2VjcmV0",
            "binary.k8s.io",
        ]);
        let name = prop_oneof![4 => known.prop_map(str::to_owned), 1 => "[ -~]{0,12}"];
        prop::collection::vec(name, 0..6).prop_map(|names| names.join(", "))
    }

    proptest! {
        /// Whatever is asked for is refused, ignored, or reduced to what can be decoded; and what is offered then is a subset of
        /// it, in its order, reads as the same offer again, and has no credential in it.
        #[test]
        fn an_offer_is_the_decodable_part_of_what_was_asked(
            target in prop::sample::select(vec![EXEC, FORWARD, WATCH, "/api/v1/pods", "/x?ports=,"]),
            connection in "(upgrade|keep-alive|Upgrade, close|[ -~]{0,8})",
            upgrade in "(websocket|SPDY/3[.]1|websocket, spdy/3[.]1|[ -~]{0,8})",
            lines in prop::collection::vec(protocols(), 0..3),
        ) {
            let mut headers = vec![("connection", &*connection), ("upgrade", &*upgrade)];
            for line in &lines {
                headers.push(("sec-websocket-protocol", line));
                headers.push(("x-stream-protocol-version", line));
            }
            let (first, ..) = offer(target, &headers);
            if let Ok(Some(first)) = first {
                let mut asked = lines.iter().flat_map(|line| line.split(',')).map(str::trim);
                prop_assert!(first.names.iter().all(|name| asked.any(|asked| asked == name)), "{first:?}");
                prop_assert!(first.names.iter().all(|name| first.protocol(Some(name)).is_some()));
                let mut sent = HeaderMap::new();
                first.apply(&mut sent).unwrap();
                let sent: Vec<_> =
                    sent.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
                prop_assert!(sent.iter().all(|(_, value)| !value.contains("bearer")), "{sent:?}");
                let again = offer(target, &sent).0.unwrap().unwrap();
                prop_assert_eq!((again.kind, again.names), (first.kind, first.names));
            }
        }
    }
}
