//! What a request's path names. The double's own reading, on purpose: it shares no code with what it is used to test.

use http::{Method, Uri};
use percent_encoding::percent_decode_str;

use super::{
    kinds::{self, Kind},
    status::ApiError,
};

/// What a request is for.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// Anything that is no resource: discovery, health, OpenAPI.
    Path(String),
    /// A resource, known or not.
    Resource(ResourceTarget),
}

/// A resource request's path and verb, as the authorizer sees them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResourceTarget {
    pub(crate) verb: &'static str,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// The one name a list or watch selects (`fieldSelector=metadata.name=`): to the authorizer it is the request's name.
    pub(crate) selected: String,
}

impl ResourceTarget {
    /// The kind of object it is about, if this server serves it.
    pub(crate) fn kind(&self) -> Result<&'static Kind, ApiError> {
        kinds::find(&self.group, &self.resource)
            .filter(|kind| kind.version == self.version)
            .filter(|kind| kind.namespaced || self.namespace.is_empty() || kind.plural == "namespaces")
            .ok_or_else(ApiError::path_not_found)
    }

    /// `pods` or `pods/log`.
    pub(crate) fn path(&self) -> String {
        match self.subresource.is_empty() {
            true => self.resource.clone(),
            false => format!("{}/{}", self.resource, self.subresource),
        }
    }
}

/// Reads a request's method and target.
pub(crate) fn parse(method: &Method, uri: &Uri) -> Result<Target, ApiError> {
    let path = uri.path();
    let mut segments = Vec::new();
    for segment in path.trim_start_matches('/').split('/') {
        let decoded = percent_decode_str(segment).decode_utf8();
        let decoded = decoded.map_err(|_| ApiError::bad_request("the path is not UTF-8"))?;
        segments.push(decoded.into_owned());
    }
    if segments.last().is_some_and(String::is_empty) {
        segments.pop();
    }
    let mut rest = segments.into_iter();
    let (group, version) = match (rest.next().as_deref(), rest.len()) {
        (Some("api"), 2..) => (String::new(), rest.next().unwrap_or_default()),
        (Some("apis"), 3..) => (rest.next().unwrap_or_default(), rest.next().unwrap_or_default()),
        _ => return Ok(Target::Path(path.to_owned())),
    };
    let mut target = ResourceTarget { group, version, ..ResourceTarget::default() };
    let rest: Vec<String> = rest.collect();
    // `namespaces/x/y` is y in namespace x, but `namespaces/x/status` is about x itself.
    let rest = match rest.as_slice() {
        [word, name, sub, ..] if word == "namespaces" && sub != "status" && sub != "finalize" => {
            target.namespace.clone_from(name);
            &rest[2..]
        }
        [word, name, ..] if word == "namespaces" => {
            target.namespace.clone_from(name);
            &rest[..]
        }
        rest => rest,
    };
    let mut rest = rest.iter();
    target.resource = rest.next().cloned().unwrap_or_default();
    target.name = rest.next().cloned().unwrap_or_default();
    target.subresource = rest.next().cloned().unwrap_or_default();
    if rest.next().is_some() {
        return Err(ApiError::path_not_found());
    }
    target.verb = verb(method, uri, &target);
    if ["list", "watch", "deletecollection"].contains(&target.verb) {
        let query = Query::of(uri);
        let mut terms = query.get("fieldSelector").unwrap_or_default().split(',');
        let name = terms.find_map(|term| term.strip_prefix("metadata.name="));
        target.selected = name.unwrap_or_default().trim_start_matches('=').to_owned();
    }
    Ok(Target::Resource(target))
}

fn verb(method: &Method, uri: &Uri, target: &ResourceTarget) -> &'static str {
    let collection = target.name.is_empty();
    match *method {
        Method::GET | Method::HEAD if collection && Query::of(uri).flag("watch") => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// A request's query, decoded; the first of several values counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn of(uri: &Uri) -> Self {
        let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        Self(pairs.into_owned().collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A boolean option: anything but absence, `0` and `false` is true, as in Kubernetes.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// A number, if the option is there.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.get(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => match value.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(ApiError::bad_request(format!("{name}: {value:?} is not a whole number"))),
            },
        }
    }

    /// Whether it is a dry run; every value but `All` is refused, as the API server does.
    pub(crate) fn dry_run(&self) -> Result<bool, ApiError> {
        let mut dry = false;
        for value in self.all("dryRun") {
            match value {
                "All" => dry = true,
                _ => {
                    return Err(ApiError::bad_request(format!(
                        "dryRun: Unsupported value: {value:?}: supported values: \"All\""
                    )));
                }
            }
        }
        Ok(dry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, uri: &str, expected: &str) {
        let uri: Uri = uri.parse().unwrap();
        let read = match parse(&method, &uri).unwrap() {
            Target::Path(path) => path,
            Target::Resource(t) => {
                format!("{} {}/{} {} {} {}", t.verb, t.group, t.version, t.namespace, t.path(), t.name)
            }
        };
        assert_eq!(read, expected, "{method} {uri}");
    }

    #[test]
    fn paths_are_read_as_the_api_server_reads_them() {
        check(Method::GET, "/api/v1/namespaces/shop/pods/web/log", "get /v1 shop pods/log web");
        check(Method::GET, "/api/v1/pods?watch=true", "watch /v1  pods ");
        check(Method::GET, "/api/v1/pods?watch=false", "list /v1  pods ");
        check(Method::GET, "/api/v1/namespaces/shop", "get /v1 shop namespaces shop");
        check(Method::PUT, "/api/v1/namespaces/shop/status", "update /v1 shop namespaces/status shop");
        check(Method::GET, "/api/v1/namespaces", "list /v1  namespaces ");
        check(
            Method::DELETE,
            "/apis/apps/v1/namespaces/shop/deployments",
            "deletecollection apps/v1 shop deployments ",
        );
        check(
            Method::GET,
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            "get rbac.authorization.k8s.io/v1  clusterroles system:node",
        );
        check(Method::GET, "/apis/apps/v1", "/apis/apps/v1");
        check(Method::GET, "/healthz", "/healthz");
        check(Method::GET, "/", "/");
    }
}
