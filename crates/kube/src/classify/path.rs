//! Paths: segments decoded once, the cluster's prefix, and what is refused because it could be read two ways.

use http::{Uri, uri::PathAndQuery};
use percent_encoding::percent_decode_str;
use portcullis_core::Refusal;

use super::ResourcePath;

/// Whether the gateway itself answers this path.
pub(super) fn is_gateway_path(path: &str) -> bool {
    path == "/portcullis"
        || path.starts_with("/portcullis/")
        || path == "/.well-known/oauth-authorization-server/portcullis"
}

/// A path with its cluster prefix split off. Neither half is decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SplitPath<'a> {
    pub(super) cluster: Option<&'a str>,
    pub(super) rest: &'a str,
}

impl<'a> SplitPath<'a> {
    pub(super) fn new(path: &'a str, cluster_prefix: bool) -> Result<Self, Refusal> {
        let named = path.strip_prefix("/clusters/").filter(|_| cluster_prefix);
        let Some(named) = named else { return Ok(Self { cluster: None, rest: path }) };
        let (name, rest) = match named.find('/') {
            Some(end) => named.split_at(end),
            None => (named, "/"),
        };
        if !is_cluster_name(name) {
            return Err(ambiguous("the path does not name a cluster")
                .advice("use /clusters/NAME/ with a name of a-z, 0-9, '-' and '.'"));
        }
        Ok(Self { cluster: Some(name), rest })
    }
}

fn is_cluster_name(name: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    match name.as_bytes() {
        [] => false,
        bytes @ [first, .., last] if bytes.len() <= 253 => {
            alphanumeric(*first)
                && alphanumeric(*last)
                && bytes.iter().all(|byte| alphanumeric(*byte) || b"-.".contains(byte))
        }
        [only] => alphanumeric(*only),
        _ => false,
    }
}

/// Where a request goes once its cluster is known: that cluster's name, and the target without the prefix.
///
/// The bytes that remain are the client's own: nothing is decoded or encoded anew.
///
/// ```
/// use portcullis_kube::UpstreamTarget;
///
/// let uri = "/clusters/eu/api/v1/nodes/system%3Anode?limit=1".parse().unwrap();
/// let target = UpstreamTarget::of(&uri).unwrap();
/// assert_eq!(target.cluster.as_deref(), Some("eu"));
/// assert_eq!(target.path_and_query, "/api/v1/nodes/system%3Anode?limit=1");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTarget {
    /// The cluster that the path names.
    pub cluster: Option<String>,
    /// The path and query to ask that cluster for.
    pub path_and_query: PathAndQuery,
}

impl UpstreamTarget {
    /// Splits the cluster's prefix off the target of a request.
    ///
    /// # Errors
    ///
    /// 400 if there is a prefix that names no cluster, or no path.
    pub fn of(uri: &Uri) -> Result<Self, Refusal> {
        let split = SplitPath::new(uri.path(), true)?;
        let path_and_query = match uri.query() {
            Some(query) => format!("{}?{query}", split.rest),
            None => split.rest.to_owned(),
        };
        Ok(Self {
            cluster: split.cluster.map(str::to_owned),
            path_and_query: path_and_query.parse().map_err(|_| ambiguous("the request has no path"))?,
        })
    }
}

/// A path, decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KubePath {
    /// The segments up to (and with) a `proxy` subresource; without a trailing empty one.
    pub(super) segments: Vec<String>,
    /// The whole path.
    pub(super) decoded: String,
    /// Whether something follows a `proxy` subresource: it means whatever it means to whom it is for.
    pub(super) proxy_suffix: bool,
}

impl KubePath {
    pub(super) fn parse(path: &str) -> Result<Self, Refusal> {
        let Some(mut rest) = path.strip_prefix('/') else {
            return Err(ambiguous("the path does not begin with a slash"));
        };
        let mut segments: Vec<String> = Vec::new();
        let mut decoded = String::with_capacity(path.len());
        loop {
            decoded.push('/');
            let (raw, more) = match rest.split_once('/') {
                Some((raw, more)) => (raw, Some(more)),
                None => (rest, None),
            };
            if raw.is_empty() && more.is_none() {
                break; // A trailing slash: the API server trims it.
            }
            let segment = decode_segment(raw)?;
            if segments.is_empty()
                && segment != raw
                && ["clusters", "portcullis", ".well-known"].contains(&&*segment)
            {
                return Err(ambiguous("the path's first segment is needlessly encoded"));
            }
            decoded.push_str(&segment);
            let is_proxy = segment == "proxy";
            segments.push(segment);
            let Some(more) = more else { break };
            if is_proxy && ResourcePath::ends_in_proxy(&segments) {
                decoded.push('/');
                decoded.push_str(&decode_suffix(more)?);
                return Ok(Self { segments, decoded, proxy_suffix: true });
            }
            rest = more;
        }
        let proxy_suffix = ResourcePath::ends_in_proxy(&segments);
        Ok(Self { segments, decoded, proxy_suffix })
    }
}

fn decode_segment(raw: &str) -> Result<String, Refusal> {
    if raw.is_empty() {
        return Err(ambiguous("the path has an empty segment").advice("send it without the double slash"));
    }
    let segment = decode(raw)?;
    if segment == "." || segment == ".." {
        return Err(ambiguous("the path has a dot segment"));
    }
    if let Some(found) = segment.chars().find(|c| "/\\%".contains(*c) || c.is_control()) {
        return Err(ambiguous(format!("a segment of the path contains {}", name_of(found))));
    }
    Ok(segment)
}

/// What follows `proxy/` is passed on as it is, but may not climb out: a proxy on the way that resolves dot segments would
/// see another request than we do.
fn decode_suffix(raw: &str) -> Result<String, Refusal> {
    let suffix = decode(raw)?;
    let mut depth = 0usize;
    for segment in suffix.split(['/', '\\']) {
        match segment {
            "" | "." => {}
            ".." => {
                depth = depth
                    .checked_sub(1)
                    .ok_or_else(|| ambiguous("the path climbs out of the proxied service"))?;
            }
            _ => depth += 1,
        }
    }
    Ok(suffix)
}

fn decode(raw: &str) -> Result<String, Refusal> {
    if !raw.is_ascii() {
        return Err(ambiguous("the path has bytes that must be percent-encoded"));
    }
    let bytes = raw.as_bytes();
    let escapes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    for (at, _) in escapes {
        if !bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(ambiguous("the path has a percent sign that begins no escape"));
        }
    }
    let text = percent_decode_str(raw).decode_utf8().map_err(|_| ambiguous("the path is not UTF-8"))?;
    Ok(text.into_owned())
}

fn name_of(c: char) -> &'static str {
    match c {
        '/' => "an encoded slash",
        '\\' => "a backslash",
        '%' => "an encoded percent sign",
        _ => "a control character",
    }
}

fn ambiguous(message: impl Into<String>) -> Refusal {
    Refusal::bad_request("kube/ambiguous-path", message)
}
