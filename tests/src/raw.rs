//! HTTP/1.1 byte by byte, for what no client library would send.

use std::path::Path;
use std::sync::Arc;

use http::HeaderMap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::process::DEADLINE;

/// A TLS connection on which nothing is sent but what the test says.
pub struct RawConnection {
    reader: ReadHalf<TlsStream<TcpStream>>,
    writer: WriteHalf<TlsStream<TcpStream>>,
    /// The certificate that the other end showed.
    certificate: CertificateDer<'static>,
    /// What was read, and belongs to no answer yet.
    unread: Vec<u8>,
}

/// An answer, as it was on the wire.
#[derive(Debug, Clone)]
pub struct RawAnswer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// Whether the body came whole: to its length, or to its last chunk.
    pub is_whole: bool,
}

impl RawAnswer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The stable name of a refusal of ours (`layer/what`): of a `Status`, or of a problem. Empty for any other answer.
    pub fn refusal(&self) -> String {
        refusal_code(&self.body)
    }
}

/// The stable name of a refusal in an answer's body: `layer/what`. Empty if it is none of ours.
pub fn refusal_code(body: &[u8]) -> String {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let causes = said["details"]["causes"].as_array().cloned().unwrap_or_default();
    let cause = causes.iter().find(|cause| cause["reason"] == "Portcullis");
    let of_status = cause.and_then(|cause| cause["message"].as_str());
    let of_problem = said["type"].as_str().and_then(|kind| kind.strip_prefix("urn:portcullis:problem:"));
    of_status.or(of_problem).unwrap_or_default().to_owned()
}

impl RawConnection {
    /// Connects to an `https://HOST:PORT` whose certificate this authority signed. HTTP/1.1 only.
    pub async fn open(url: &str, ca: &Path) -> Self {
        let stream = tls_stream(url, ca, "http/1.1").await;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = shown.expect("a server shows its certificate").clone();
        let (reader, writer) = tokio::io::split(stream);
        Self { reader, writer, certificate, unread: Vec::new() }
    }

    /// The certificate that the other end showed, in DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Sends these bytes. The other end may have hung up already; what it said then is still to be read.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = async {
            if self.writer.write_all(bytes.as_ref()).await.is_ok() {
                let _ = self.writer.flush().await;
            }
        };
        tokio::time::timeout(DEADLINE, sent).await.expect("the other end takes what is sent");
    }

    /// Ends our half of the connection.
    pub async fn close_write(&mut self) {
        let _ = self.writer.shutdown().await;
    }

    /// Reads an answer to its end.
    pub async fn answer(&mut self) -> RawAnswer {
        let mut answer = self.head().await;
        let reading = self.body(&answer.headers, answer.status);
        (answer.body, answer.is_whole) =
            tokio::time::timeout(DEADLINE, reading).await.expect("the body ends, or the connection does");
        answer
    }

    /// Reads an answer's head only, as for a stream.
    pub async fn head(&mut self) -> RawAnswer {
        let end = tokio::time::timeout(DEADLINE, self.fill_until(|bytes| find(bytes, b"\r\n\r\n"))).await;
        let Some(end) = end.expect("an answer comes, or the connection ends") else {
            panic!("hung up without an answer: {:?}", String::from_utf8_lossy(&self.unread));
        };
        let head: Vec<u8> = self.unread.drain(..end + 4).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap_or_default();
        let code = status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = code.and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no HTTP/1.1: {head}"));
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line}"));
            let name: http::HeaderName = name.parse().expect("a header's name");
            headers.append(name, value.trim().parse().expect("a header's value"));
        }
        RawAnswer { status, headers, body: Vec::new(), is_whole: false }
    }

    /// Sends a request and reads its answer.
    pub async fn exchange(&mut self, bytes: impl AsRef<[u8]>) -> RawAnswer {
        self.send(bytes).await;
        self.answer().await
    }

    /// Reads until these bytes have come, and returns everything up to them.
    pub async fn wait_for(&mut self, wanted: &[u8]) -> Vec<u8> {
        let reading = self.fill_until(|bytes| find(bytes, wanted));
        match tokio::time::timeout(DEADLINE, reading).await {
            Ok(Some(at)) => self.unread.drain(..at + wanted.len()).collect(),
            Ok(None) => panic!("hung up: {:?}", String::from_utf8_lossy(&self.unread)),
            Err(_) => panic!("said nothing more: {:?}", String::from_utf8_lossy(&self.unread)),
        }
    }

    /// Reads one WebSocket frame of a server, which does not mask it: its first byte, and its payload.
    pub async fn frame(&mut self) -> (u8, Vec<u8>) {
        let payload = |bytes: &[u8]| -> Option<(usize, usize)> {
            let (start, length) = match bytes.get(1)? {
                126 => (4, u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?).into()),
                127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
                short => (2, usize::from(*short)),
            };
            (bytes.len() >= start + length).then_some((start, length))
        };
        let reading = self.fill_until(|bytes| payload(bytes).map(|(start, length)| start + length));
        let came = tokio::time::timeout(DEADLINE, reading).await.expect("a frame comes");
        let end = came.unwrap_or_else(|| panic!("hung up: {:?}", String::from_utf8_lossy(&self.unread)));
        let (start, _) = payload(&self.unread).expect("it is there");
        let frame: Vec<u8> = self.unread.drain(..end).collect();
        (frame[0], frame[start..].to_vec())
    }

    /// Reads until the other end hangs up; what it still said.
    pub async fn rest(&mut self) -> Vec<u8> {
        let reading = self.fill_until(|_| None);
        tokio::time::timeout(DEADLINE, reading).await.expect("the other end hangs up");
        std::mem::take(&mut self.unread)
    }

    async fn body(&mut self, headers: &HeaderMap, status: u16) -> (Vec<u8>, bool) {
        if status < 200 || status == 204 || status == 304 {
            return (Vec::new(), true);
        }
        let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        if text(http::header::TRANSFER_ENCODING) == Some("chunked") {
            return self.chunks().await;
        }
        let Some(length) = text(http::header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok())
        else {
            self.fill_until(|_| None).await;
            return (std::mem::take(&mut self.unread), false);
        };
        let came = self.fill_until(|bytes| (bytes.len() >= length).then_some(length)).await;
        let end = came.unwrap_or(self.unread.len());
        (self.unread.drain(..end).collect(), came.is_some())
    }

    async fn chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let Some(end) = self.fill_until(|bytes| find(bytes, b"\r\n")).await else { return (body, false) };
            let line: Vec<u8> = self.unread.drain(..end + 2).collect();
            let size = String::from_utf8_lossy(&line[..end]).into_owned();
            let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("no chunk size: {size:?}"));
            let whole = self.fill_until(|bytes| (bytes.len() >= size + 2).then_some(size)).await;
            let Some(size) = whole else { return (body, false) };
            body.extend(self.unread.drain(..size));
            self.unread.drain(..2);
            if size == 0 {
                return (body, true);
            }
        }
    }

    /// Reads until `found` finds something; nothing once the other end has hung up.
    async fn fill_until(&mut self, found: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
        let mut chunk = vec![0; 16 << 10];
        loop {
            if let Some(at) = found(&self.unread) {
                return Some(at);
            }
            match self.reader.read(&mut chunk).await {
                Ok(n @ 1..) => self.unread.extend_from_slice(&chunk[..n]),
                // Closed, with or without a goodbye.
                Ok(_) | Err(_) => return None,
            }
        }
    }
}

/// A TLS connection to an `https://HOST:PORT` whose certificate this authority signed, for this protocol (ALPN).
pub(crate) async fn tls_stream(url: &str, ca: &Path, protocol: &str) -> TlsStream<TcpStream> {
    try_tls_stream(url, ca, protocol).await.expect("somebody listens, and speaks TLS")
}

/// As [`tls_stream`], where nobody may listen.
pub(crate) async fn try_tls_stream(
    url: &str,
    ca: &Path,
    protocol: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let authority = url.strip_prefix("https://").expect("an https URL").trim_end_matches('/');
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(ca).expect("a certificate authority in PEM");
    roots.add(ca).expect("a certificate authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let tcp = TcpStream::connect(authority).await?;
    tcp.set_nodelay(true)?;
    let name = authority.rsplit_once(':').map_or(authority, |(host, _)| host).to_owned();
    let name = ServerName::try_from(name).expect("a host's name");
    TlsConnector::from(Arc::new(tls)).connect(name, tcp).await
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_known_in_both_formats() {
        let status =
            r#"{"kind":"Status","details":{"causes":[{"reason":"Portcullis","message":"hold/denied"}]}}"#;
        assert_eq!(refusal_code(status.as_bytes()), "hold/denied");
        assert_eq!(refusal_code(br#"{"type":"urn:portcullis:problem:api/x"}"#), "api/x");
        assert_eq!(
            refusal_code(br#"{"kind":"Status","details":{"causes":[{"reason":"FieldValueInvalid"}]}}"#),
            ""
        );
        assert_eq!(refusal_code(b"<html>"), "");
    }
}
