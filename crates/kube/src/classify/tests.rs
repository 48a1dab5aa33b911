use http::Request;
use proptest::prelude::*;

use super::*;

fn classify(method: &str, target: &str) -> Result<RequestInfo, Refusal> {
    let (parts, ()) = Request::builder().method(method).uri(target).body(()).unwrap().into_parts();
    KubeClassifier::new().classify(&parts)
}

/// `verb group/version namespace resource/subresource name`, with `-` for what is empty.
fn summary(info: &RequestInfo) -> String {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let group_version = match info.api_group.is_empty() {
        true => info.api_version.clone(),
        false => format!("{}/{}", info.api_group, info.api_version),
    };
    match info.is_resource_request {
        true => [&info.verb, &group_version, &info.namespace, &info.resource_path(), &info.name]
            .map(|text| or_dash(text))
            .join(" "),
        false => format!("{} {}", info.verb, info.path),
    }
}

#[track_caller]
fn check(method: &str, target: &str, expected: &str) {
    let info = classify(method, target).unwrap_or_else(|refusal| panic!("{target}: {}", refusal.message()));
    assert_eq!(summary(&info), expected, "{method} {target}");
}

#[track_caller]
fn check_refused(target: &str, code: &str) {
    match classify("GET", target) {
        Ok(info) => panic!("{target} was read as {}", summary(&info)),
        Err(refusal) => {
            assert_eq!(refusal.code(), code, "{target}");
            assert_eq!(refusal.status(), 400);
        }
    }
}

#[test]
fn resource_paths() {
    check("GET", "/api/v1/namespaces", "list v1 - namespaces -");
    check("GET", "/api/v1/namespaces/other", "get v1 other namespaces other");
    check("GET", "/api/v1/namespaces/other/pods", "list v1 other pods -");
    check("GET", "/api/v1/namespaces/other/pods/foo", "get v1 other pods foo");
    check("HEAD", "/api/v1/namespaces/other/pods/foo", "get v1 other pods foo");
    check("GET", "/api/v1/pods", "list v1 - pods -");
    check("HEAD", "/api/v1/pods", "list v1 - pods -");
    check("GET", "/api/v1/pods/", "list v1 - pods -");
    check("GET", "/apis/batch/v1/jobs/foo", "get batch/v1 - jobs foo");
    check("GET", "/apis/batch/v1/namespaces/other/jobs/foo/scale", "get batch/v1 other jobs/scale foo");
    check("GET", "/apis/metrics.k8s.io/v1beta1/nodes", "list metrics.k8s.io/v1beta1 - nodes -");
    check("GET", "/api/v1/nodes/system%3Anode", "get v1 - nodes system:node");
    check("GET", "/ap%69/v1/pods", "list v1 - pods -");
}

#[test]
fn verbs_in_the_path() {
    check("GET", "/api/v1/proxy/namespaces/other/pods/foo", "proxy v1 other pods foo");
    check(
        "GET",
        "/api/v1/proxy/namespaces/other/pods/foo/subpath/not/a/subresource",
        "proxy v1 other pods foo",
    );
    check("GET", "/api/v1/watch/pods", "watch v1 - pods -");
    check("GET", "/api/v1/watch/namespaces/other/pods", "watch v1 other pods -");
    check("GET", "/api/v1/watch/namespaces/other/pods/foo", "watch v1 other pods foo");
    check("POST", "/apis/g/v1/watch/pods", "watch g/v1 - pods -");
    check_refused("/api/v1/watch", "kube/ambiguous-path");
    check_refused("/apis/g/v1/proxy/", "kube/ambiguous-path");
}

#[test]
fn watch_parameters() {
    for (query, verb) in [
        ("watch=true", "watch"),
        ("watch=1", "watch"),
        ("watch", "watch"),
        ("watch=", "watch"),
        ("watch=yes", "watch"),
        ("w%61tch=1", "watch"),
        ("watch=false", "list"),
        ("watch=FALSE", "list"),
        ("watch=0", "list"),
        ("Watch=true", "list"),
        ("limit=x&watch=true", "watch"),
    ] {
        check("GET", &format!("/api/v1/namespaces/other/pods?{query}"), &format!("{verb} v1 other pods -"));
    }
    check("GET", "/api/v1/namespaces/other/pods/foo?watch=true", "get v1 other pods foo");
    check("POST", "/api/v1/namespaces/other/pods?watch=true", "create v1 other pods -");
}

#[test]
fn subresources() {
    check("GET", "/api/v1/namespaces/other/pods/foo/status", "get v1 other pods/status foo");
    check("GET", "/api/v1/namespaces/other/pods/foo/proxy/subpath", "get v1 other pods/proxy foo");
    check("PUT", "/api/v1/namespaces/other/finalize", "update v1 other namespaces/finalize other");
    check("PUT", "/api/v1/namespaces/other/status", "update v1 other namespaces/status other");
    check(
        "GET",
        "/api/v1/namespaces/other/pods/foo/exec?command=ls&command=-l",
        "get v1 other pods/exec foo",
    );
    check("GET", "/api/v1/namespaces/status", "get v1 status namespaces status");
    check("GET", "/api/v1/nodes/n1/proxy", "get v1 - nodes/proxy n1");
}

#[test]
fn verbs() {
    check("PATCH", "/api/v1/namespaces/other/pods/foo", "patch v1 other pods foo");
    check("DELETE", "/api/v1/namespaces/other/pods/foo", "delete v1 other pods foo");
    check("POST", "/api/v1/namespaces/other/pods", "create v1 other pods -");
    check("DELETE", "/api/v1/nodes", "deletecollection v1 - nodes -");
    check("DELETE", "/api/v1/namespaces", "deletecollection v1 - namespaces -");
    check(
        "DELETE",
        "/apis/extensions/v1/namespaces/other/pods",
        "deletecollection extensions/v1 other pods -",
    );
    check("POST", "/apis/extensions/v1beta3/namespaces/other/pods", "create extensions/v1beta3 other pods -");
    check("OPTIONS", "/api/v1/pods", "- v1 - pods -");
    check("get", "/api/v1/pods", "- v1 - pods -");
}

#[test]
fn non_resource_paths() {
    for path in [
        "/",
        "/api",
        "/api/v1",
        "/api/v1/",
        "/apis",
        "/apis/apps",
        "/apis/apps/v1/",
        "/healthz",
        "/openapi/v3/apis/apps/v1",
    ] {
        check("GET", path, &format!("get {path}"));
    }
    check("GET", "/badprefix/version/resource", "get /badprefix/version/resource");
    check("GET", "/apis/version/resource", "get /apis/version/resource");
    check("POST", "/not-api/version/resource", "post /not-api/version/resource");
    check("GET", "/API/v1/pods", "get /API/v1/pods");
}

#[test]
fn selectors() {
    let check = |method, target: &str, verb, name, fields, labels| {
        let info = classify(method, target).unwrap();
        let found = (
            info.verb.as_str(),
            info.name.as_str(),
            info.field_selector.as_str(),
            info.label_selector.as_str(),
        );
        assert_eq!(found, (verb, name, fields, labels), "{target}");
    };
    let base = "/apis/group/version/resource";
    check("GET", base, "list", "", "", "");
    check(
        "GET",
        &format!("{base}?fieldSelector=metadata.name=name1"),
        "list",
        "name1",
        "metadata.name=name1",
        "",
    );
    check(
        "GET",
        &format!("{base}?fieldSelector=metadata.name%3Dname1"),
        "list",
        "name1",
        "metadata.name=name1",
        "",
    );
    check(
        "GET",
        &format!("{base}?watch=true&fieldSelector=metadata.name=name1"),
        "watch",
        "name1",
        "metadata.name=name1",
        "",
    );
    check(
        "GET",
        &format!("{base}?fieldSelector=foo=bar&labelSelector=baz=qux"),
        "list",
        "",
        "foo=bar",
        "baz=qux",
    );
    check(
        "GET",
        &format!("{base}?fieldSelector=metadata.name=name1,foo"),
        "list",
        "",
        "metadata.name=name1,foo",
        "",
    );
    check(
        "GET",
        &format!("{base}?fieldSelector=metadata.name=name1,foo&watch=true"),
        "watch",
        "",
        "metadata.name=name1,foo",
        "",
    );
    check("GET", &format!("{base}?fieldSelector=metadata.name=a%2Fb"), "list", "", "metadata.name=a/b", "");
    check(
        "GET",
        &format!("{base}?fieldSelector=metadata.name=n&labelSelector=-"),
        "list",
        "",
        "metadata.name=n",
        "-",
    );
    check("GET", &format!("{base}?fieldSelector=metadata.name=n&limit=x"), "list", "", "metadata.name=n", "");
    check(
        "DELETE",
        &format!("{base}?fieldSelector=foo=bar&labelSelector=baz=qux"),
        "deletecollection",
        "",
        "foo=bar",
        "baz=qux",
    );
    check(
        "DELETE",
        &format!("{base}?fieldSelector=metadata.name=n"),
        "deletecollection",
        "",
        "metadata.name=n",
        "",
    );
    check("GET", &format!("{base}/name?fieldSelector=foo=bar&labelSelector=foo=bar"), "get", "name", "", "");
    check(
        "GET",
        "/apis/group/version/watch/resource?fieldSelector=metadata.name=foo&labelSelector=foo=bar",
        "watch",
        "",
        "",
        "",
    );
    check(
        "GET",
        "/apis/group/version/watch/resource/name?fieldSelector=metadata.name=foo",
        "watch",
        "name",
        "",
        "",
    );
}

#[test]
fn paths_that_could_be_read_two_ways_are_refused() {
    for path in [
        "//api/v1/pods",
        "/api//v1/pods",
        "/api/v1/pods//",
        "/api/v1/./pods",
        "/api/v1/../v1/pods",
        "/api/v1/namespaces/shop/..",
        "/api/v1/%2e%2e/pods",
        "/api/v1/%2E/pods",
        "/api/v1/namespaces/shop%2Fpods",
        "/api/v1/namespaces/shop%2fpods/web",
        "/api/v1/namespaces/shop%5cpods",
        "/api/v1/namespaces/shop\\pods",
        "/api/v1/namespaces/%252e",
        "/api/v1/namespaces/a%25",
        "/api/v1/namespaces/a%00b",
        "/api/v1/namespaces/a%0d%0ab",
        "/api/v1/namespaces/a%7f",
        "/api/v1/namespaces/%c2%85",
        "/api/v1/namespaces/%ff",
        "/api/v1/namespaces/%zz",
        "/api/v1/namespaces/%4",
        "/api/v1/namespaces/%",
        "/%70ortcullis/approvals",
        "/%63lusters/eu/api",
        "/clusters//api",
        "/clusters/",
        "/clusters/EU/api",
        "/clusters/a%62/api",
        "/clusters/../api",
        "/api/v1/nodes/n1/proxy/../../../namespaces/kube-system/secrets",
        "/api/v1/nodes/n1/proxy/a/..%2f..%2Fsecrets",
        "/api/v1/nodes/n1/proxy/%2e%2e/secrets",
        "/api/v1/nodes/n1/proxy/..%5csecrets",
        "/api/v1/proxy/nodes/n1/proxy/a%2fb",
    ] {
        check_refused(path, "kube/ambiguous-path");
    }
    assert_eq!(classify("OPTIONS", "*").unwrap_err().code(), "kube/ambiguous-path");
    assert_eq!(classify("CONNECT", "example.com:443").unwrap_err().code(), "kube/ambiguous-path");
}

#[test]
fn what_follows_proxy_is_left_alone() {
    let info =
        classify("GET", "/api/v1/namespaces/shop/services/web/proxy/a%2Fb//c%25/./d/../?x=1;y=%zz").unwrap();
    assert_eq!(summary(&info), "get v1 shop services/proxy web");
    assert_eq!(info.path, "/api/v1/namespaces/shop/services/web/proxy/a/b//c%/./d/../");
    let info = classify("GET", "/apis/cluster.example.com/v1/clusters/eu/proxy/api/v1//x").unwrap();
    assert_eq!(summary(&info), "get cluster.example.com/v1 - clusters/proxy eu");
}

#[test]
fn queries_that_could_be_read_two_ways_are_refused() {
    for query in [
        "watch=true&watch=false",
        "dryRun=All&dryRun=",
        "fieldSelector=metadata.name=a&fieldSelector=metadata.name=b",
        "watch=true;limit=1",
        "watch=%zz",
        "x=%ff",
        "%=1",
    ] {
        check_refused(&format!("/api/v1/pods?{query}"), "kube/ambiguous-query");
    }
    check("GET", "/api/v1/pods?watch=true&watch=true", "watch v1 - pods -");
}

#[test]
fn headers_that_could_be_read_two_ways_are_refused() {
    let check = |headers: &[(&str, &str)], code: Option<&str>| {
        let mut request = Request::get("https://gateway:8443/api/v1/pods");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let refusal = KubeClassifier::new().classify(&parts).err();
        assert_eq!(refusal.as_ref().map(Refusal::code), code, "{headers:?}");
    };
    let refused = Some("kube/ambiguous-headers");
    check(&[("authorization", "Bearer a"), ("authorization", "Bearer a")], refused);
    check(&[("authorization", "Bearer \u{e9}")], refused);
    check(&[("host", "gateway:8443"), ("host", "gateway:8443")], refused);
    check(&[("host", "elsewhere")], refused);
    check(&[("content-type", "application/json"), ("content-type", "text/plain")], refused);
    check(&[("content-length", "3"), ("transfer-encoding", "chunked")], refused);
    check(&[("impersonate-user", "a"), ("impersonate-user", "b")], refused);
    check(
        &[
            ("host", "GATEWAY:8443"),
            ("authorization", "Bearer a"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
        ],
        None,
    );
}

#[test]
fn a_cluster_is_peeled_off() {
    let info = classify("GET", "/clusters/eu-1.prod/api/v1/pods").unwrap();
    assert_eq!((info.cluster.as_str(), info.path.as_str()), ("eu-1.prod", "/api/v1/pods"));
    assert_eq!(summary(&info), "list v1 - pods -");
    assert_eq!(classify("GET", "/clusters/eu").unwrap().path, "/");
    assert_eq!(classify("GET", "/clusters").unwrap().cluster, "");

    let check = |target: &str, expected: &str| {
        let target = UpstreamTarget::of(&target.parse().unwrap()).unwrap();
        assert_eq!(target.path_and_query, expected);
    };
    check("/clusters/eu/api/v1/nodes/system%3anode?a=%3D&b", "/api/v1/nodes/system%3anode?a=%3D&b");
    check("/clusters/eu?x", "/?x");
    check("https://host/api/v1/pods?", "/api/v1/pods?");

    let (parts, ()) = Request::get("/clusters/eu/api/v1/pods").body(()).unwrap().into_parts();
    let alone = KubeClassifier::new().without_cluster_prefix().classify(&parts).unwrap();
    assert_eq!(summary(&alone), "get /clusters/eu/api/v1/pods");
}

#[test]
fn a_dry_run_is_one_only_where_the_query_counts() {
    let check = |method: &str, target: &str, headers: &[(&str, &str)], expected| {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(
            KubeClassifier::new().classify(&parts).unwrap().dry_run,
            expected,
            "{method} {target} {headers:?}"
        );
    };
    check("POST", "/api/v1/namespaces?dryRun=All", &[("content-length", "7")], true);
    check("POST", "/api/v1/namespaces?dryRun=all", &[], false);
    check("POST", "/api/v1/namespaces", &[], false);
    check("DELETE", "/api/v1/namespaces/x?dryRun=All", &[], true);
    check("DELETE", "/api/v1/namespaces/x?dryRun=All", &[("content-length", "0")], true);
    check("DELETE", "/api/v1/namespaces/x?dryRun=All", &[("content-length", "2")], false);
    check("DELETE", "/api/v1/namespaces?dryRun=All", &[("transfer-encoding", "chunked")], false);
}

#[test]
fn errors_are_written_for_who_reads_them() {
    let format = |path: &str| KubeClassifier::new().error_format(&path.parse().unwrap());
    for path in ["/api/v1/pods", "/", "/clusters/eu/version", "/portcullisx", "/clusters/eu/portcullis/x"] {
        assert_eq!(format(path), ErrorFormat::Status, "{path}");
    }
    for path in ["/portcullis", "/portcullis/token", "/.well-known/oauth-authorization-server/portcullis"] {
        assert_eq!(format(path), ErrorFormat::Problem, "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_target_makes_it_panic(
        method in "GET|POST|DELETE|OPTIONS|CONNECT|X",
        target in "(/|/api|/apis|/v1|/watch|/proxy|/namespaces|/clusters|/status|/pods|%2[ef5F]|%|[.]|a|\\\\|~){0,9}([?](watch|dryRun|=|&|;|%|fieldSelector=metadata.name=|[+a]){0,6})?",
    ) {
        if let Ok(uri) = target.parse::<Uri>() {
            let (parts, ()) = Request::builder().method(method.as_str()).uri(uri).body(()).unwrap().into_parts();
            let _ = UpstreamTarget::of(&parts.uri);
            if let Ok(info) = KubeClassifier::new().classify(&parts) {
                prop_assert!(info.path.starts_with('/'));
                let segments: Vec<_> = info.path.split('/').collect();
                prop_assert!(info.subresource == "proxy" || !segments.contains(&".."));
            }
        }
    }
}
