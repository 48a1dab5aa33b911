//! A configuration that is wrong in each of its fields: where, what, and what to do.

use std::process::Stdio;

use portcullis_tests::{Finished, Running, gateway_binary};
use tempfile::TempDir;
use tokio::process::Command;

/// Every field there is, in the way people write it.
const RIGHT: &str = r#"apiVersion: portcullis.dev/v1alpha1
kind: Gateway
listen:
  address: 127.0.0.1:8443
  publicUrl: https://gateway.example:8443
  tls:
    certFile: tls.crt
    keyFile: tls.key
    clientCaFile: clients.crt
  drain: 30s
operations:
  address: 127.0.0.1:9180
stateDir: state
clusters:
  - name: prod
    kubeconfig:
      path: prod.kubeconfig
      context: admin
    protocol: http1
    impersonateExtra: false
  - name: staging
    kubeconfig: { path: staging.kubeconfig }
authentication:
  leeway: 20s
  keyRefresh: 5m
  outageTolerance: 1h
  keyRetry: 10s
  fetchTimeout: 10s
  tokenCache: 100
  jwt:
    - issuer:
        url: https://issuer.example
        audiences: [portcullis]
      claimMappings:
        username: { claim: sub, prefix: "" }
        groups: { claim: groups, prefix: "ci:" }
      claimValidationRules:
        - { expression: "claims.hd == 'example.com'", message: wrong domain }
policy:
  default: allow
  approvers: { groups: [platform] }
  baseline:
    disable: [baseline/certificates]
  rules:
    - name: no-deletes
      match: { verbs: [delete], namespaces: ["prod-*"] }
      action: deny
      message: ask the owners
    - name: big-scale-ups
      match: { verbs: [update, patch], resources: [deployments/scale] }
      when: object.spec.replicas > 50
      action: hold
      hold: { quorum: 2, holdFor: 40s, expiresAfter: 2h }
mask:
  packs: [kubernetes-secrets, logs-and-exec]
  rules:
    - name: passwords
      resources: [configmaps]
      paths: ["data.password"]
      action: redact
hold:
  holdFor: 50s
  expiresAfter: 1h
  withdrawOnDisconnect: false
grants:
  profiles:
    - name: deploy
      forWhom: { groups: ["ci:deployers"] }
      rules:
        - { verbs: [get, patch], apiGroups: [apps], resources: [deployments], namespaces: [shop] }
      defaultTtl: 10m
      maxTtl: 50m
      heartbeat: 25s
administrators:
  users: [root@example.com]
audit:
  origin: example.com/gateway-1
  bodyBytes: 65536
  recordInput: false
limits:
  connections: 20000
  connectionsPerSecond: 200
  connectionBurst: 1000
  streamsPerConnection: 1001
  headerBytes: 65535
  bodyBytes: 3145728
  requestsPerIdentity: 400
  streamsPerIdentity: 2000
telemetry:
  log: info,portcullis=debug
  logFormat: json
  otlpEndpoint: http://127.0.0.1:4317
"#;

struct Checker {
    dir: TempDir,
}

impl Checker {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    async fn portcullis(&self, what: &str, config: &str) -> Finished {
        let path = self.dir.path().join("portcullis.yaml");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new(gateway_binary());
        command.args([what, "--config", "portcullis.yaml"]).current_dir(self.dir.path()).stdin(Stdio::null());
        Running::start(command).finish().await
    }

    /// What is wrong with how the right configuration, with `right` replaced by `wrong`, is refused: the message must point
    /// to `at` (where it first stands from there on) and have these words in it.
    async fn check(&self, (right, wrong, at, words): (&str, &str, &str, &[&str])) -> Vec<String> {
        assert_eq!(RIGHT.matches(right).count(), 1, "`{right}` is there once");
        let config = RIGHT.replace(right, wrong);
        let start = RIGHT.find(right).expect("just counted");
        let place = start + config[start..].find(at).unwrap_or_else(|| panic!("no `{at}` behind `{wrong}`"));
        let line = config[..place].matches('\n').count() + 1;
        let column = place - config[..place].rfind('\n').map_or(0, |end| end + 1) + 1;
        let said = self.portcullis("check", &config).await;
        let message = said.err();
        let place = format!("portcullis.yaml:{line}:{column}");
        let mut missing: Vec<&str> = words.iter().copied().filter(|word| !message.contains(word)).collect();
        if !message.lines().any(|line| line.ends_with(&place)) {
            missing.push(&place);
        }
        match missing.is_empty() && said.code() == Some(65) {
            true => Vec::new(),
            false => vec![format!("`{wrong}` ({:?}): no {missing:?} in {message}", said.code())],
        }
    }
}

#[tokio::test]
async fn the_right_one_is_right() {
    let said = Checker::new().portcullis("check", RIGHT).await.ok();
    for word in ["is right", "prod, staging"] {
        assert!(said.contains(word), "{said}");
    }
}

#[tokio::test]
async fn unknown_fields_are_refused_with_the_closest_name() {
    let (checker, mut complaints) = (Checker::new(), Vec::new());
    for (right, wrong, meant) in [
        ("apiVersion:", "apiVersoin:", "apiVersion"),
        ("listen:", "listne:", "listen"),
        ("  address: 127.0.0.1:8443", "  adress: 127.0.0.1:8443", "address"),
        ("certFile:", "certfile:", "certFile"),
        ("  address: 127.0.0.1:9180", "  addres: 127.0.0.1:9180", "address"),
        ("stateDir:", "statedir:", "stateDir"),
        ("protocol:", "protocols:", "protocol"),
        ("impersonateExtra:", "impersonateExtras:", "impersonateExtra"),
        ("context:", "contxt:", "context"),
        ("leeway:", "leway:", "leeway"),
        ("audiences:", "audience:", "audiences"),
        ("claimMappings:", "claimsMappings:", "claimMappings"),
        ("approvers:", "aprovers:", "approvers"),
        ("disable:", "disabled:", "disable"),
        ("when:", "whem:", "when"),
        ("verbs: [delete]", "verb: [delete]", "verbs"),
        ("quorum:", "qorum:", "quorum"),
        ("packs:", "pack:", "packs"),
        ("paths:", "path:", "paths"),
        ("withdrawOnDisconnect:", "withdrawOnDisconect:", "withdrawOnDisconnect"),
        ("forWhom:", "forWho:", "forWhom"),
        ("heartbeat:", "heartbeats:", "heartbeat"),
        ("administrators:", "administrator:", "administrators"),
        ("recordInput:", "recordInputs:", "recordInput"),
        ("headerBytes:", "headerByte:", "headerBytes"),
        ("otlpEndpoint:", "otlpEndpiont:", "otlpEndpoint"),
    ] {
        let key = wrong.trim_start().split(':').next().unwrap();
        let words = ["unknown field", &format!("did you mean `{meant}`?")];
        complaints.extend(checker.check((right, wrong, key, &words)).await);
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[tokio::test]
async fn wrong_values_are_refused_where_they_stand() {
    let (checker, mut complaints) = (Checker::new(), Vec::new());
    for case in [
        (
            "portcullis.dev/v1alpha1",
            "portcullis.dev/v2",
            "portcullis.dev/v2",
            &["unknown variant", "v1alpha1"] as &[_],
        ),
        ("kind: Gateway", "kind: Deployment", "Deployment", &["unknown variant", "Gateway"]),
        ("127.0.0.1:8443\n  public", "nowhere\n  public", "nowhere", &["socket address"]),
        (
            "https://gateway.example:8443",
            "http://gateway.example",
            "http://",
            &["no https origin", "https://gateway.example:8443"],
        ),
        ("https://gateway.example:8443", "https://gateway.example/path", "https://", &["no https origin"]),
        ("drain: 30s", "drain: soon", "soon", &["no duration", "50s, 15m or 1h30m"]),
        ("drain: 30s", "drain: -5s", "-5s", &["negative"]),
        ("127.0.0.1:9180", "127.0.0.1", "127.0.0.1\n", &["socket address"]),
        ("name: staging", "name: Staging_1", "Staging_1", &["no name for a cluster", "lower-case"]),
        ("name: staging", "name: prod", "prod", &["two clusters named `prod`"]),
        ("context: admin", "context: [admin]", "[admin]", &["invalid type", "string"]),
        ("certFile: tls.crt", "certFile: [tls.crt]", "[tls.crt]", &["invalid type", "path"]),
        ("keyFile: tls.key", "keyFile: { file: tls.key }", "{ file", &["invalid type", "path"]),
        (
            "clientCaFile: clients.crt",
            "clientCaFile: [clients.crt]",
            "[clients.crt]",
            &["invalid type", "path"],
        ),
        ("protocol: http1", "protocol: http3", "http3", &["http1", "http2"]),
        ("impersonateExtra: false", "impersonateExtra: maybe", "maybe", &["boolean"]),
        ("leeway: 20s", "leeway: 1h", "1h", &["5"]),
        ("keyRefresh: 5m", "keyRefresh: 0s", "0s", &["must not be zero"]),
        ("keyRefresh: 5m", "keyRefresh: often", "often", &["keyRefresh"]),
        ("outageTolerance: 1h", "outageTolerance: 1m", "1m", &["shorter than keyRefresh"]),
        ("keyRetry: 10s", "keyRetry: 0s", "0s", &["must not be zero"]),
        ("fetchTimeout: 10s", "fetchTimeout: 0s", "0s", &["must not be zero"]),
        ("tokenCache: 100", "tokenCache: -1", "-1", &["invalid"]),
        ("url: https://issuer.example", "url: http://issuer.example", "http://", &["https"]),
        ("audiences: [portcullis]", "audiences: []", "[]", &["audience"]),
        ("{ claim: sub, prefix: \"\" }", "{ claim: sub }", "{ claim: sub }", &["prefix"]),
        ("\"claims.hd == 'example.com'", "\"claims.hd ==", "\"claims.hd ==", &["expression"]),
        ("default: allow", "default: alow", "alow", &["did you mean `allow`?"]),
        (
            "[baseline/certificates]",
            "[baseline/certificate]",
            "baseline/certificate",
            &["baseline/certificate"],
        ),
        ("action: deny", "action: denny", "denny", &["did you mean `deny`?"]),
        ("verbs: [delete]", "verbs: [remove]", "remove", &["remove"]),
        (
            "when: object.spec.replicas > 50",
            "when: object.spec.replicas >",
            "object.spec.replicas >",
            &["expression"],
        ),
        ("quorum: 2", "quorum: 0", "0,", &["quorum"]),
        ("expiresAfter: 2h }", "expiresAfter: 0s }", "0s }", &["expiresAfter"]),
        ("expiresAfter: 2h }", "expiresAfter: later }", "later }", &["duration"]),
        ("holdFor: 40s", "holdFor: 40 parsecs", "40 parsecs", &["duration"]),
        (
            "[kubernetes-secrets, logs-and-exec]",
            "[kubernetes-secret]",
            "kubernetes-secret",
            &["did you mean `kubernetes-secrets`?"],
        ),
        ("paths: [\"data.password\"]", "paths: [\"data..password\"]", "\"data..password", &["path"]),
        ("action: redact", "action: redacted", "redacted", &["did you mean `redact`?"]),
        ("holdFor: 50s", "holdFor: \"\"", "\"\"", &["duration"]),
        ("expiresAfter: 1h", "expiresAfter: 0s", "0s", &["must not be zero", "nobody could decide"]),
        ("expiresAfter: 1h", "expiresAfter: soon", "soon", &["no duration"]),
        ("withdrawOnDisconnect: false", "withdrawOnDisconnect: no way", "no way", &["boolean"]),
        ("name: deploy", "name: \"\"", "\"\"", &["a profile needs a name"]),
        ("{ groups: [\"ci:deployers\"] }", "{}", "{}", &["nobody may use it"]),
        ("defaultTtl: 10m", "defaultTtl: 2h", "2h", &["longer than maxTtl"]),
        ("maxTtl: 50m", "maxTtl: 48h", "48h", &["longer than a day"]),
        ("heartbeat: 25s", "heartbeat: 1s", "1s", &["below 5s"]),
        ("[root@example.com]", "root@example.com", "root@example.com", &["sequence"]),
        ("example.com/gateway-1", "\"two words\"", "\"two words\"", &["spaces"]),
        ("bodyBytes: 65536", "bodyBytes: lots", "lots", &["invalid"]),
        ("recordInput: false", "recordInput: some", "some", &["boolean"]),
        ("connections: 20000", "connections: 0", "0\n", &["must not be 0", "nobody could connect"]),
        (
            "connections: 20000",
            "connections: 2305843009213693952",
            "2305843009213693952",
            &["above 2305843009213693951"],
        ),
        (
            "connectionsPerSecond: 200",
            "connectionsPerSecond: 2000000000",
            "2000000000",
            &["above 1000000000"],
        ),
        ("connectionBurst: 1000", "connectionBurst: 0", "0\n", &["nonzero"]),
        ("connectionBurst: 1000", "connectionBurst: 4294967296", "4294967296", &["invalid value"]),
        ("streamsPerConnection: 1001", "streamsPerConnection: 0", "0\n", &["must not be 0", "HTTP/2"]),
        ("streamsPerConnection: 1001", "streamsPerConnection: -1", "-1", &["invalid"]),
        ("bodyBytes: 3145728", "bodyBytes: 0", "0\n", &["must not be 0", "every write"]),
        ("bodyBytes: 3145728", "bodyBytes: 3MiB", "3MiB", &["invalid type"]),
        ("requestsPerIdentity: 400", "requestsPerIdentity: 0", "0\n", &["must not be 0", "every request"]),
        ("streamsPerIdentity: 2000", "streamsPerIdentity: 0", "0\n", &["must not be 0", "every watch"]),
        ("connectionsPerSecond: 200", "connectionsPerSecond: 0", "0\n", &["nonzero"]),
        ("headerBytes: 65535", "headerBytes: 100", "100", &["below 8192"]),
        ("info,portcullis=debug", "\"info,=\"", "\"info,=\"", &["no log filter", "info,portcullis=debug"]),
        ("logFormat: json", "logFormat: xml", "xml", &["unknown variant", "json"]),
        (
            "http://127.0.0.1:4317",
            "nonsense",
            "nonsense",
            &["no http or https URL", "http://collector.example:4317"],
        ),
        ("http://127.0.0.1:4317", "ftp://collector.example", "ftp://", &["no http or https URL"]),
        ("http://127.0.0.1:4317", "\"http://colle ctor\"", "\"http://", &["no http or https URL"]),
    ] {
        complaints.extend(checker.check(case).await);
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let checker = Checker::new();
    for (right, field) in [
        ("apiVersion: portcullis.dev/v1alpha1\n", "apiVersion"),
        ("    certFile: tls.crt\n", "certFile"),
        ("stateDir: state\n", "stateDir"),
        ("      action: deny\n", "action"),
    ] {
        assert_eq!(RIGHT.matches(right).count(), 1, "{right}");
        let said = checker.portcullis("check", &RIGHT.replace(right, "")).await;
        assert_eq!(said.code(), Some(65), "{field}: {said}");
        assert!(said.err().contains(&format!("missing field `{field}`")), "{said}");
    }
}

#[tokio::test]
async fn what_is_no_yaml_is_refused_and_nothing_starts() {
    let checker = Checker::new();
    for (wrong, words) in [
        ("", "missing field"),
        ("[]", "invalid type"),
        ("apiVersion: [", "1:"),
        ("a: b: c", "portcullis.yaml:1:"),
        ("\tkind: Gateway", "portcullis.yaml:1:"),
        ("kind: Gateway\nkind: Gateway\n", "duplicate"),
        ("a: &a [*a]", "portcullis.yaml:1:"),
    ] {
        // `serve` says the same as `check`, and starts nothing.
        for what in ["check", "serve"] {
            let said = checker.portcullis(what, wrong).await;
            assert_eq!(said.code(), Some(65), "{what} {wrong:?}: {said}");
            assert!(said.err().contains(words), "{what} {wrong:?}: {said}");
        }
    }
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\n".to_owned()
        + &('b'..='j')
            .map(|c| {
                format!(
                    "{c}: &{c} [{0},{0},{0},{0},{0},{0},{0},{0}]\n",
                    format!("*{}", char::from(c as u8 - 1))
                )
            })
            .collect::<String>();
    assert_eq!(checker.portcullis("check", &bomb).await.code(), Some(65));
    // Everything that is wrong is said at once.
    let two =
        RIGHT.replace("headerBytes: 65535", "headerBytes: 1").replace("heartbeat: 25s", "heartbeat: 1s");
    let said = checker.portcullis("check", &two).await.fails();
    assert!(said.contains("below 8192") && said.contains("below 5s"), "{said}");
    let missing = Running::start({
        let mut command = Command::new(gateway_binary());
        command.args(["check", "--config", "/no/such/file.yaml"]);
        command
    });
    let said = missing.finish().await;
    assert!(said.code() == Some(65) && said.err().contains("cannot be read"), "{said}");
    assert!(!checker.dir.path().join("state").exists());
}
