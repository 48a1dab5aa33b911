//! Hostile and odd URLs: the gateway reads each one exactly as the API server does, and passes it on
//! byte for byte, or refuses it and the API server never sees it.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use portcullis_tests::{AuditEvent, Cluster, Gateway, HttpClient};

/// What the API server is asked, as it is written. `NS` is a namespace of the test's own.
const READ_THE_SAME: &[&str] = &[
    // Paths for no resource.
    "GET /",
    "GET /api",
    "GET /api/",
    "GET /api/v1",
    "GET /api/v1/",
    "GET /apis",
    "GET /apis/apps",
    "GET /apis/apps/v1",
    "GET /apis/apps/v1/",
    "GET /version",
    "GET /healthz/ping",
    "GET /healthz/nothing/here",
    "GET /openapi/v2",
    "GET /API/v1/pods",
    "GET /apiextras/v1/pods",
    "GET /ap%69/v1/nodes",
    "GET /metrics",
    "GET /logs/",
    "GET /clusterspace/x",
    "POST /version",
    "DELETE /",
    "HEAD /version",
    "OPTIONS /version",
    // Verbs.
    "HEAD /api/v1/namespaces/NS/configmaps",
    "HEAD /api/v1/namespaces/NS/configmaps/kube-root-ca.crt",
    "OPTIONS /api/v1/namespaces/NS/configmaps",
    "TRACE /api/v1/namespaces/NS/configmaps",
    "PROPFIND /api/v1/namespaces/NS/configmaps",
    "POST /api/v1/namespaces/NS/configmaps/kube-root-ca.crt",
    "PUT /api/v1/namespaces/NS/configmaps",
    "PATCH /api/v1/namespaces/NS/configmaps",
    "PATCH /api/v1/namespaces/NS/configmaps/kube-root-ca.crt",
    "PUT /api/v1/namespaces/NS/configmaps/absent",
    "DELETE /api/v1/namespaces/NS/configmaps/absent",
    "DELETE /api/v1/namespaces/NS/configmaps?labelSelector=nothing%3Dhas-this",
    "DELETE /api/v1/configmaps",
    "DELETE /api/v1/namespaces",
    "DELETE /api/v1/nodes/?dryRun=All",
    // Namespaces, as objects and as places.
    "GET /api/v1/namespaces",
    "GET /api/v1/namespaces/NS",
    "GET /api/v1/namespaces/NS/",
    "GET /api/v1/namespaces/NS/status",
    "PUT /api/v1/namespaces/NS/finalize",
    "PUT /api/v1/namespaces/NS/status",
    "GET /api/v1/namespaces/status",
    "GET /api/v1/namespaces/NS/pods/",
    "GET /api/v1/namespaces/NS/configmaps/kube-root-ca.crt/",
    "GET /api/v1/namespaces/NS/namespaces/NS",
    // Subresources, known and not.
    "GET /api/v1/nodes/local/status",
    "GET /api/v1/namespaces/NS/pods/absent/log?tailLines=1",
    "GET /api/v1/namespaces/NS/pods/absent/exec?command=ls&command=-l",
    "POST /api/v1/namespaces/NS/pods/absent/attach",
    "GET /api/v1/namespaces/NS/pods/absent/portforward",
    "GET /api/v1/namespaces/NS/pods/absent/exec/and/more",
    "PUT /apis/apps/v1/namespaces/NS/deployments/absent/scale",
    "GET /apis/apps/v1/namespaces/NS/deployments/absent/nonsense",
    "POST /api/v1/namespaces/NS/serviceaccounts/absent/token",
    "POST /api/v1/namespaces/NS/pods/absent/eviction",
    "GET /api/v1/namespaces/NS/configmaps/a/b/c/d/e",
    // Proxies: what follows belongs to somebody else.
    "GET /api/v1/nodes/local/proxy",
    "GET /api/v1/nodes/local/proxy/metrics",
    "GET /api/v1/namespaces/NS/services/web:80/proxy",
    "GET /api/v1/namespaces/NS/services/https:web:443/proxy/a%2Fb/c%25d",
    "GET /api/v1/namespaces/NS/services/web/proxy/a//b/?q=%7a+z&r",
    "POST /api/v1/namespaces/NS/pods/absent/proxy/x/../y",
    "DELETE /api/v1/namespaces/NS/pods/absent/proxy/api/v1/namespaces/kube-system",
    // The old verbs in the path.
    "GET /api/v1/watch/namespaces/NS/pods?timeoutSeconds=1",
    "GET /api/v1/watch/namespaces/NS/pods/absent?timeoutSeconds=1",
    "GET /api/v1/watch/nodes?timeoutSeconds=1",
    "GET /apis/apps/v1/watch/namespaces/NS/deployments?timeoutSeconds=1",
    "GET /api/v1/watch/namespaces/NS?timeoutSeconds=1",
    "GET /api/v1/watch/namespaces/NS/pods?watch=false&timeoutSeconds=1",
    "POST /api/v1/watch/namespaces/NS/pods",
    "DELETE /api/v1/watch/namespaces/NS/pods",
    "GET /api/v1/proxy/namespaces/NS/services/web",
    "GET /api/v1/proxy/nodes/local/metrics",
    "GET /api/v1/redirect/namespaces/NS/services/web",
    // All the ways to say, and not to say, watch.
    "GET /api/v1/namespaces/NS/pods?watch=true&timeoutSeconds=1",
    "GET /api/v1/namespaces/NS/pods?watch=1&timeoutSeconds=1",
    "GET /api/v1/namespaces/NS/pods?watch&timeoutSeconds=1",
    "GET /api/v1/namespaces/NS/pods?watch=&timeoutSeconds=1",
    "GET /api/v1/namespaces/NS/pods?watch=yes&timeoutSeconds=1",
    "GET /api/v1/namespaces/NS/pods?watch=T&timeoutSeconds=1",
    "GET /api/v1/namespaces/NS/pods?watch=%74rue&timeoutSeconds=1",
    "GET /api/v1/namespaces/NS/pods?w%61tch=true&timeoutSeconds=1",
    "GET /api/v1/namespaces/NS/pods?&&watch=true&&timeoutSeconds=1",
    "GET /api/v1/namespaces/NS/pods?watch=+true&timeoutSeconds=1",
    "GET /api/v1/namespaces/NS/pods?watch=true&watch=true&timeoutSeconds=1",
    "GET /api/v1/namespaces/NS/pods?watch=false",
    "GET /api/v1/namespaces/NS/pods?watch=0",
    "GET /api/v1/namespaces/NS/pods?watch=FALSE",
    "GET /api/v1/namespaces/NS/pods?Watch=true",
    "GET /api/v1/namespaces/NS/pods?watch=true&limit=x&timeoutSeconds=1",
    "GET /api/v1/namespaces/NS/pods?watch=true&timeoutSeconds=x",
    "GET /api/v1/namespaces/NS/pods/absent?watch=true",
    "POST /api/v1/namespaces/NS/pods?watch=true",
    "HEAD /api/v1/namespaces/NS/pods?watch=true&timeoutSeconds=1",
    // Names by selector.
    "GET /api/v1/namespaces/NS/pods?fieldSelector=metadata.name=one",
    "GET /api/v1/namespaces/NS/pods?fieldSelector=metadata.name%3Done",
    "GET /api/v1/namespaces/NS/pods?fieldSelector=metadata.name==one",
    "GET /api/v1/namespaces/NS/pods?fieldSelector=metadata.name!=one",
    "GET /api/v1/namespaces/NS/pods?fieldSelector=metadata.name=one,metadata.name=two",
    "GET /api/v1/namespaces/NS/pods?fieldSelector=metadata.name=one,spec.nodeName=local",
    "GET /api/v1/namespaces/NS/pods?fieldSelector=spec.nodeName=local,metadata.name=one",
    "GET /api/v1/namespaces/NS/pods?fieldSelector=metadata.name=",
    "GET /api/v1/namespaces/NS/pods?fieldSelector=metadata.name=a%2Fb",
    "GET /api/v1/namespaces/NS/pods?fieldSelector=metadata.name=..",
    "GET /api/v1/namespaces/NS/pods?fieldSelector=nonsense",
    "GET /api/v1/namespaces/NS/pods?fieldSelector=metadata.name=one&limit=x",
    "GET /api/v1/namespaces/NS/pods?fieldSelector=metadata.name=one&labelSelector=!!",
    "GET /api/v1/namespaces/NS/pods?fieldSelector=metadata.name=one&labelSelector=a%20in%20(b,c)",
    "GET /api/v1/namespaces/NS/pods?fieldSelector=metadata.name=one&watch=true&timeoutSeconds=1",
    r"GET /api/v1/namespaces/NS/pods?fieldSelector=metadata.name=a%5C,b",
    "DELETE /api/v1/namespaces/NS/pods?fieldSelector=metadata.name=one",
    // Names in need of encoding.
    "GET /apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
    "GET /apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
    "GET /api/v1/namespaces/NS/configmaps/with%20a%20space",
    "GET /api/v1/namespaces/NS/configmaps/caf%C3%A9",
    "GET /api/v1/namespaces/NS/configmaps/plus+plus",
    "GET /api/v1/namespaces/NS/configmaps/semi;colon",
    "GET /api/v1/namespaces/NS/configmaps/a%3Fb%23c",
    "GET /api/v1/namespaces/NS/configmaps/%6Bube-root-ca.crt",
    "GET /api/v1/namespaces/NS/configmaps/...",
    "GET /api/v1/n%61mespaces/NS/pods",
    // What does not exist.
    "GET /api/v1/namespaces/NS/gadgets",
    "GET /api/v2/namespaces/NS/pods",
    "GET /apis/nothing.example/v1/gadgets/one",
    "GET /apis/nothing.example/v1/namespaces/NS/gadgets/one/status",
    "POST /apis/nothing.example/v1/gadgets",
    "GET /apis/apps/v1/namespaces/NS/pods",
    "GET /apis/v1/pods",
    // Queries that nothing hangs on.
    "GET /api/v1/namespaces/NS/pods?",
    "GET /api/v1/namespaces/NS/pods?limit=1&continue=nonsense",
    "GET /api/v1/namespaces/NS/pods?resourceVersion=0&resourceVersionMatch=Exact",
    "GET /api/v1/namespaces/NS/pods?pretty=true&x=%26watch%3Dtrue",
];

/// What could be read in two ways.
const REFUSED: &[&str] = &[
    "GET //api/v1/namespaces/NS/pods",
    "GET /api//v1/namespaces/NS/pods",
    "GET /api/v1/namespaces//secrets",
    "GET /api/v1/namespaces/NS/pods//",
    "GET /api/v1/namespaces/NS/../kube-system/secrets",
    "GET /api/v1/namespaces/NS/./pods",
    "GET /api/v1/namespaces/NS/%2e%2e/kube-system/secrets",
    "GET /api/v1/namespaces/NS/.%2E/kube-system/secrets",
    "GET /api/v1/namespaces/NS/configmaps/..",
    "GET /../api/v1/secrets",
    "GET /api/v1/namespaces/NS%2Fsecrets",
    "GET /api/v1/namespaces/NS/configmaps/a%2fb",
    "GET /api%2Fv1/secrets",
    "GET /api/v1/namespaces/NS/configmaps/a%5Cb",
    "GET /api/v1/namespaces/NS/configmaps/a%25b",
    "GET /api/v1/namespaces/NS/configmaps/a%252Fb",
    "GET /api/v1/namespaces/NS/configmaps/a%00b",
    "GET /api/v1/namespaces/NS/configmaps/a%0ab",
    "GET /api/v1/namespaces/NS/configmaps/a%",
    "GET /api/v1/namespaces/NS/configmaps/a%zz",
    "GET /api/v1/namespaces/NS/configmaps/a%ff",
    "GET /api/v1/namespaces/NS/pods/absent/proxy/../../../../kube-system/secrets",
    "GET /api/v1/namespaces/NS/services/web/proxy/%2e%2e/%2e%2e",
    "GET /api/v1/namespaces/NS/services/web/proxy/a?q=b;c",
    "GET /api/v1/namespaces/NS/services/web/proxy/a?q=%zz",
    "GET /api/v1/namespaces/NS/pods?watch=true&watch=false",
    "GET /api/v1/namespaces/NS/pods?watch=true;x=y",
    "GET /api/v1/namespaces/NS/pods?fieldSelector=%zz",
    "GET /api/v1/namespaces/NS/pods?fieldSelector=metadata.name=a&fieldSelector=metadata.name=b",
    "DELETE /api/v1/namespaces/NS/pods?dryRun=All&dryRun=x",
    "GET /api/v1/watch",
    "GET /api/v1/proxy/",
    "GET /cluster%73/test/api/v1/pods",
    "GET /clusters//api/v1/pods",
    "GET /clusters/Test/api/v1/pods",
    "GET /clusters/%74est/api/v1/pods",
];

#[tokio::test]
async fn each_is_read_as_the_server_reads_it_or_never_arrives() {
    let cluster = Cluster::from_env();
    // No rule stands between: what is compared is how a request is read.
    let unjudged = |config: &mut serde_json::Value| {
        config["policy"] = serde_json::json!({ "baseline": { "enabled": false } })
    };
    let gateway = Gateway::configured(&cluster, unjudged).await;
    let asker = Asker {
        http: gateway.http(),
        token: gateway.token("agent-ci").await,
        namespace: cluster.namespace_of_agents("odd").await,
        gateway: &gateway,
    };
    let read = asker.ask_all(READ_THE_SAME).await;
    let below_a_cluster: Vec<String> =
        READ_THE_SAME.iter().step_by(5).map(|line| line.replacen(" /", " /clusters/test/", 1)).collect();
    let below_a_cluster: Vec<&str> = below_a_cluster.iter().map(String::as_str).collect();
    let read_below = asker.ask_all(&below_a_cluster).await;
    let refused = asker.ask_all(REFUSED).await;
    let nowhere = asker.ask_all(&["GET /clusters/nowhere/api/v1/pods", "GET /clusters/te.st/version"]).await;

    let seen = gateway.seen().await;
    let by_id: BTreeMap<&str, &AuditEvent> =
        seen.iter().map(|event| (event.audit_id.as_str(), event)).collect();
    for answer in read.iter().chain(&read_below) {
        let Some(event) = by_id.get(answer.id.as_str()) else {
            panic!("{} was answered {} and never arrived: {}", answer.line, answer.status, answer.body);
        };
        let sent = answer.target.strip_prefix("/clusters/test").unwrap_or(&answer.target);
        assert_eq!(event.request_uri.trim_end_matches('?'), sent.trim_end_matches('?'), "{}", answer.line);
    }
    for answer in &refused {
        assert_eq!(answer.status, 400, "{}: {}", answer.line, answer.body);
        assert!(answer.body.contains("/ambiguous-"), "{}: {}", answer.line, answer.body);
    }
    for answer in refused.iter().chain(&nowhere) {
        assert!((400..500).contains(&answer.status), "{}: {}", answer.line, answer.body);
        assert!(!by_id.contains_key(answer.id.as_str()), "{} has arrived", answer.line);
    }
    assert_eq!(by_id.len(), read.len() + read_below.len());
    let comparison = gateway.agrees_with_the_server().await;
    assert_eq!(comparison.explained.values().sum::<usize>(), nowhere.len(), "{:?}", comparison.explained);
}

struct Asker<'a> {
    http: HttpClient,
    token: String,
    namespace: String,
    gateway: &'a Gateway,
}

struct Answered {
    line: String,
    target: String,
    status: u16,
    id: String,
    body: String,
}

impl Asker<'_> {
    async fn ask_all(&self, lines: &[&str]) -> Vec<Answered> {
        // A few at a time: those that watch take a second each.
        stream::iter(lines).map(|line| self.ask(line)).buffer_unordered(16).collect().await
    }

    #[expect(clippy::unwrap_used, reason = "without it there is no test")]
    async fn ask(&self, line: &str) -> Answered {
        let (method, target) = line.split_once(' ').unwrap();
        let target = target.replace("NS", &self.namespace);
        let mut request = self.gateway.request(method, &target, &self.token);
        let body = match method {
            "POST" | "PUT" => "{}",
            "PATCH" => {
                request = request.header("content-type", "application/merge-patch+json");
                "{}"
            }
            _ => "",
        };
        if body == "{}" && method != "PATCH" {
            request = request.header("content-type", "application/json");
        }
        let answer = self.http.send(request.body(body).unwrap()).await;
        let id = answer.headers().get("audit-id").map(|id| id.to_str().unwrap().to_owned());
        Answered {
            line: line.to_owned(),
            target,
            status: answer.status().as_u16(),
            id: id.unwrap_or_default(),
            body: String::from_utf8_lossy(answer.body()).chars().take(300).collect(),
        }
    }
}
