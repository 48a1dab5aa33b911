//! A request as the command that would have sent it: what people read in tickets, records and consoles.

use percent_encoding::percent_decode_str;

use crate::RequestInfo;

impl RequestInfo {
    /// The request as a `kubectl` command line, without the word `kubectl`: `get pods web -n shop`.
    ///
    /// `query` is the raw query of the request's target. Whatever a client could have put a secret into (the command of
    /// an exec, selectors, paths) passes through `redact`, one argument at a time.
    pub fn in_words(&self, query: Option<&str>, redact: impl Fn(&str) -> String) -> String {
        let query = Query::parse(query.unwrap_or_default());
        let mut words = Words { text: String::new(), redact };
        if !self.cluster.is_empty() {
            words.option("--cluster", &self.cluster);
        }
        if self.is_resource_request {
            words.resource(self, &query)
        } else {
            words.non_resource(self)
        }
        words.text
    }
}

struct Words<F> {
    text: String,
    redact: F,
}

impl<F: Fn(&str) -> String> Words<F> {
    fn non_resource(&mut self, info: &RequestInfo) {
        match info.verb.as_str() {
            "get" => self.plain("get --raw"),
            "post" => self.plain("create --raw"),
            "put" => self.plain("replace --raw"),
            "delete" => self.plain("delete --raw"),
            verb => self.plain(verb),
        }
        self.argument(&info.path);
    }

    fn resource(&mut self, info: &RequestInfo, query: &Query) {
        let (mut command, mut object) = (verb_in_words(info, query), true);
        match (info.resource.as_str(), info.subresource.as_str()) {
            ("pods", "log") => (command, object) = ("logs", false),
            ("pods", "exec") => (command, object) = ("exec", false),
            ("pods", "attach") => (command, object) = ("attach", false),
            ("pods", "portforward") => (command, object) = ("port-forward", false),
            ("pods", "eviction") => command = "evict",
            ("serviceaccounts", "token") if info.verb == "create" => {
                (command, object) = ("create token", false)
            }
            (_, "scale") if info.verb != "get" => command = "scale",
            _ => {}
        }
        self.plain(command);
        if object {
            self.plain(&kind(info));
        } else if info.resource != "pods" && info.resource != "serviceaccounts" {
            self.plain(&info.resource);
        }
        if info.verb == "deletecollection" {
            self.plain("--all");
        } else if !info.name.is_empty() {
            self.plain(&quoted(&info.name));
        }
        if !info.namespace.is_empty() {
            self.option("-n", &info.namespace);
        }
        if object && !info.subresource.is_empty() && !["scale", "evict"].contains(&command) {
            self.option("--subresource", &info.subresource);
        }
        for (flag, value) in [("-l", &info.label_selector), ("--field-selector", &info.field_selector)] {
            let names_it = flag == "--field-selector" && *value == format!("metadata.name={}", info.name);
            if !value.is_empty() && !names_it {
                self.plain(flag);
                self.argument(value);
            }
        }
        if info.verb == "watch" {
            self.plain("--watch");
        }
        if info.dry_run {
            self.plain("--dry-run=server");
        }
        if let Some(container) = query.first("container") {
            self.plain("-c");
            self.argument(container);
        }
        match info.subresource.as_str() {
            "log" if query.is_true("follow") => self.plain("-f"),
            "exec" | "attach" => match (query.is_true("stdin"), query.is_true("tty")) {
                (true, true) => self.plain("-it"),
                (true, false) => self.plain("-i"),
                (false, true) => self.plain("-t"),
                (false, false) => {}
            },
            _ => {}
        }
        if info.subresource == "exec" {
            self.plain("--");
            query.all("command").for_each(|argument| self.argument(argument));
        }
    }

    fn plain(&mut self, word: &str) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(word);
    }

    fn option(&mut self, flag: &str, value: &str) {
        self.plain(flag);
        self.plain(&quoted(value));
    }

    fn argument(&mut self, value: &str) {
        let redacted = (self.redact)(value);
        self.plain(&quoted(&redacted));
    }
}

fn verb_in_words<'a>(info: &'a RequestInfo, query: &Query) -> &'a str {
    match info.verb.as_str() {
        "list" | "watch" => "get",
        "deletecollection" => "delete",
        "update" => "replace",
        "patch" | "create" if query.first("fieldManager") == Some("kubectl-client-side-apply") => "apply",
        "patch" if query.first("fieldManager").is_some() && query.first("force").is_some() => "apply",
        verb => verb,
    }
}

/// `pods`, `deployments.apps`: how kubectl names a resource without doubt.
fn kind(info: &RequestInfo) -> String {
    match info.api_group.is_empty() {
        true => info.resource.clone(),
        false => format!("{}.{}", info.resource, info.api_group),
    }
}

/// The word as a shell would need it; control characters are shown, never sent to a terminal.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let shown: String = word
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect();
    format!("'{}'", shown.replace('\'', r"'\''"))
}

struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Self {
        let decode = |text: &str| {
            let spaced = text.replace('+', " ");
            percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
        };
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn first<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).next()
    }

    fn is_true(&self, name: &str) -> bool {
        self.first(name).is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resource(verb: &str, resource: &str, subresource: &str, name: &str) -> RequestInfo {
        RequestInfo {
            is_resource_request: true,
            verb: verb.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            namespace: "shop".into(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn requests_read_as_commands() {
        let check = |info: RequestInfo, query: &str, words: &str| {
            assert_eq!(info.in_words(Some(query), str::to_owned), words);
        };
        check(resource("get", "pods", "", "web"), "", "get pods web -n shop");
        check(resource("list", "pods", "", ""), "limit=500", "get pods -n shop");
        check(resource("watch", "pods", "", ""), "", "get pods -n shop --watch");
        check(resource("deletecollection", "pods", "", ""), "", "delete pods --all -n shop");
        check(
            resource("update", "pods", "status", "web"),
            "",
            "replace pods web -n shop --subresource status",
        );
        check(
            resource("get", "pods", "log", "web"),
            "container=app&follow=true",
            "logs web -n shop -c app -f",
        );
        check(
            resource("create", "pods", "exec", "web"),
            "command=sh&command=-c&command=echo+%27hi%27%0a&stdin=true&tty=true",
            r"exec web -n shop -it -- sh -c 'echo '\''hi'\''\n'",
        );
        check(resource("create", "pods", "portforward", "web"), "", "port-forward web -n shop");
        check(resource("create", "pods", "eviction", "web"), "", "evict pods web -n shop");
        check(resource("create", "serviceaccounts", "token", "bot"), "", "create token bot -n shop");
        let deployments =
            RequestInfo { api_group: "apps".into(), ..resource("patch", "deployments", "", "web") };
        check(deployments.clone(), "", "patch deployments.apps web -n shop");
        check(deployments.clone(), "fieldManager=kubectl&force=true", "apply deployments.apps web -n shop");
        check(
            RequestInfo { subresource: "scale".into(), dry_run: true, cluster: "prod".into(), ..deployments },
            "",
            "--cluster prod scale deployments.apps web -n shop --dry-run=server",
        );
        let selected = RequestInfo { label_selector: "app=web".into(), ..resource("list", "pods", "", "") };
        check(selected, "", "get pods -n shop -l app=web");
        check(RequestInfo::non_resource(&http::Method::GET, "/healthz"), "", "get --raw /healthz");
        check(RequestInfo::non_resource(&http::Method::PATCH, "/a b"), "", "patch '/a b'");
    }

    #[test]
    fn what_a_client_wrote_freely_is_redacted() {
        let exec = resource("create", "pods", "exec", "web");
        let words = exec
            .in_words(Some("command=login&command=hunter2"), |argument| argument.replace("hunter2", "***"));
        assert_eq!(words, "exec web -n shop -- login '***'");
    }

    proptest! {
        #[test]
        fn any_query_is_one_line(query in "\\PC*", path in ".*") {
            let exec = resource("create", "pods", "exec", "web").in_words(Some(&query), str::to_owned);
            let path = RequestInfo::non_resource(&http::Method::GET, &path).in_words(Some(&query), str::to_owned);
            prop_assert!(!exec.chars().chain(path.chars()).any(char::is_control));
        }
    }
}
