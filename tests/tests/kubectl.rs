//! kubectl through the gateway does, says and exits with what kubectl does directly: whatever is one
//! request and one answer. What stays open is in `streams.rs`.

use portcullis_tests::{Both, Cluster, Twins};

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 2
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: example.test/web:1.0
          command: [sh, -c, 'echo started; sleep 1000']
          env: [{name: COLOUR, value: blue}]
";

const SETTINGS: &str = "apiVersion: v1
kind: ConfigMap
metadata:
  name: settings
data:
  colour: blue
  size: large
";

#[tokio::test]
async fn reading_says_the_same() {
    let cluster = Cluster::from_env();
    let twins = Twins::start(&cluster, "read").await;
    twins.feed(&["apply", "-f", "-"], &format!("{SETTINGS}---\n{DEPLOYMENT}")).await.same().ok();
    for twin in twins.both() {
        let ready = ["wait", "--for=condition=Available", "deployment/web", "--timeout=50s"];
        twin.kubectl.run(&ready).await.ok();
    }
    for command in [
        "get all,configmaps",
        "get deployments -o wide",
        "get deployment web -o yaml",
        "get pods -l app=web -o name",
        "get pods --field-selector=status.phase=Running",
        "get pods --sort-by=.metadata.name --no-headers",
        "get pods -o jsonpath={.items[*].spec.containers[*].image}",
        "get pods -o custom-columns=NAME:.metadata.labels.app,IMAGE:.spec.containers[0].image",
        "get configmap settings -o json",
        "get configmap settings -o go-template={{.data.colour}}",
        "get configmap settings -o yaml --show-managed-fields",
        "get configmaps --chunk-size=1",
        "get namespace shop --show-labels",
        "get nodes",
        "get clusterrole view -o yaml",
        "get --raw /api/v1/namespaces/NAMESPACE/configmaps/settings",
        "get --raw /version",
        "get --raw /openapi/v3/apis/apps/v1",
        "describe configmap settings",
        "describe deployment web",
        "describe pods -l app=web",
        "describe namespace NAMESPACE",
        "explain deployment.spec.strategy",
        "explain pods --recursive",
        "api-resources",
        "api-resources --api-group=apps -o wide",
        "api-versions",
        "version -o json",
        "cluster-info",
        "auth whoami -o yaml",
        "auth can-i --list",
        "auth can-i delete pods",
        "top pods",
        "events --for deployment/web",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let same = twins.run(&words).await.same();
        // `top` has no metrics to show; everything else has an answer.
        assert_eq!(same.code(), Some(i32::from(command == "top pods")), "{same}");
    }
    twins.agree_with_the_server().await;
}

#[tokio::test]
async fn what_is_refused_by_the_server_reads_the_same() {
    let cluster = Cluster::from_env();
    let twins = Twins::start(&cluster, "no").await;
    let check = async |command: &str, needle: &str| {
        let words: Vec<&str> = command.split(' ').collect();
        let said = twins.run(&words).await.same().fails();
        assert!(said.contains(needle), "{command}: {said}");
    };
    check("get pod nobody", "NotFound").await;
    check("get secrets -n kube-system", "Forbidden").await;
    check("get nonsense", "the server doesn't have a resource type").await;
    check("delete node local", "Forbidden").await;
    check("create namespace NAMESPACE", "Forbidden").await;
    check("get --raw /apis/nothing.example", "NotFound").await;
    check("get --raw /metrics", "Forbidden").await;
    check("delete configmap nothing", "NotFound").await;
    check("patch configmap nothing -p {}", "NotFound").await;
    check("scale deployment nothing --replicas=2", "NotFound").await;
    check("logs nobody", "NotFound").await;

    let no = twins.run(&["auth", "can-i", "delete", "nodes"]).await.same();
    assert_eq!((no.out().trim(), no.code()), ("no", Some(1)), "{no}");
    let invalid = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_A_Name}\n";
    let said = twins.feed(&["create", "-f", "-"], invalid).await.same().fails();
    assert!(said.contains("Invalid value"), "{said}");
    let unknown = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\nnonsense: 1\n";
    let said = twins.feed(&["create", "-f", "-"], unknown).await.same().fails();
    assert!(said.contains("unknown field"), "{said}");
    twins.agree_with_the_server().await;
}

#[tokio::test]
async fn applying_leaves_the_same() {
    let cluster = Cluster::from_env();
    let twins = Twins::start(&cluster, "apply").await;
    let apply = ["apply", "-f", "-"];
    assert!(twins.feed(&apply, SETTINGS).await.same().ok().contains("created"));
    assert!(twins.feed(&apply, SETTINGS).await.same().ok().contains("unchanged"));
    let green = SETTINGS.replace("blue", "green").replace("  size: large\n", "");
    let difference = twins.feed(&["diff", "-f", "-"], &green).await;
    assert_eq!((difference.through.code(), difference.direct.code()), (Some(1), Some(1)));
    assert!(changed_lines(&difference.through.out()) == changed_lines(&difference.direct.out()));
    assert!(twins.feed(&apply, &green).await.same().ok().contains("configured"));
    twins.see_the_same("configmap settings").await;

    let as_other = ["apply", "--server-side", "--field-manager=other", "-f", "-"];
    let conflict = twins.feed(&as_other, SETTINGS).await.same().fails();
    assert!(conflict.contains("conflict"), "{conflict}");
    let by_force = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    assert!(twins.feed(&by_force, SETTINGS).await.same().ok().contains("serverside-applied"));
    twins.see_the_same("configmap settings --show-managed-fields").await;

    let tried = ["apply", "--dry-run=server", "-o", "yaml", "-f", "-"];
    twins.feed(&tried, &SETTINGS.replace("blue", "red")).await.same().ok();
    twins.see_the_same("configmap settings").await;

    twins
        .feed(&["create", "-f", "-"], &SETTINGS.replace("name: settings", "generateName: settings-"))
        .await
        .same()
        .ok();
    twins.feed(&["replace", "-f", "-"], &green).await.same().ok();
    let pruned = ["apply", "--prune", "-l", "app=web", "-f", "-"];
    twins
        .feed(&apply, &SETTINGS.replace("  name: settings", "  name: old\n  labels: {app: web}"))
        .await
        .same()
        .ok();
    let kept = SETTINGS.replace("  name: settings", "  name: new\n  labels: {app: web}");
    assert!(twins.feed(&pruned, &kept).await.same().ok().contains("configmap/old pruned"));
    twins.see_the_same("configmaps").await;
    twins.agree_with_the_server().await;
}

#[tokio::test]
async fn changing_leaves_the_same() {
    let cluster = Cluster::from_env();
    let twins = Twins::start(&cluster, "change").await;
    twins.feed(&["create", "-f", "-"], &format!("{SETTINGS}---\n{DEPLOYMENT}")).await.same().ok();
    for command in [
        r#"patch configmap settings -p {"data":{"colour":"red"}}"#,
        r#"patch configmap settings --type=merge -p {"data":{"size":null}}"#,
        r#"patch configmap settings --type=json -p [{"op":"add","path":"/data/shape","value":"round"}]"#,
        r#"patch deployment web -p {"spec":{"template":{"spec":{"containers":[{"name":"web","image":"b:2"}]}}}}"#,
        "label configmap settings tier=front",
        "label configmap settings tier-",
        "annotate deployment web note=checked",
        "set env deployment/web COLOUR=red",
        "set image deployment/web web=example.test/web:3.0",
        "set resources deployment/web --requests=cpu=10m",
        "scale deployment web --replicas=1",
        "autoscale deployment web --max=3",
        "expose deployment web --port=80",
        // These kubectl sends as protobuf.
        "create job once --image=none -- true",
        "create deployment other --image=none --replicas=0",
        "create configmap literal --from-literal=a=b",
        "create secret generic words --from-literal=a=b",
        "create serviceaccount robot",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        twins.run(&words).await.same().ok();
    }
    twins.see_the_same("configmaps,serviceaccounts,horizontalpodautoscalers").await;
    twins.see_the_same("deployment web -o jsonpath={.spec}").await;
    twins.see_the_same("deployment other").await;
    twins.see_the_same("job once -o jsonpath={.spec.template.spec}").await;

    for command in [
        "delete configmap literal",
        "delete pods --all --wait=false --dry-run=server",
        "delete deployment web --cascade=foreground --timeout=50s",
        "delete configmaps --all",
        "wait --for=delete pods -l app=web --timeout=50s",
        "get pods,deployments,configmaps -l app=web",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        // How many pods there were just then is a matter of chance.
        match command.starts_with("delete pods") {
            true => drop(twins.run(&words).await.through.ok()),
            false => drop(twins.run(&words).await.same().ok()),
        }
    }
    twins.agree_with_the_server().await;
}

#[tokio::test]
async fn an_editor_edits_the_same() {
    let cluster = Cluster::from_env();
    let twins = Twins::start(&cluster, "edit").await;
    twins.feed(&["apply", "-f", "-"], SETTINGS).await.same().ok();
    let edit = async |script: &str, what: &[&str]| -> Both {
        let run = async |twin: &portcullis_tests::Twin| {
            let kubectl = twin.kubectl.clone().env("KUBE_EDITOR", &format!("sed -i {script}"));
            kubectl.run(&[&["edit"], what].concat()).await
        };
        let (through, direct) = tokio::join!(run(&twins.through), run(&twins.direct));
        twins.pair(through, direct)
    };
    assert!(edit("s/blue/violet/", &["configmap", "settings"]).await.same().ok().contains("edited"));
    let unchanged = edit("s/nothing/else/", &["configmap", "settings"]).await.same();
    assert!(unchanged.err().contains("no changes made"), "{unchanged}");
    edit("s/large/small/", &["configmap/settings", "--output-patch"]).await.same().ok();
    twins.see_the_same("configmap settings").await;
    let colour = ["get", "configmap", "settings", "-o", "jsonpath={.data.colour}/{.data.size}"];
    assert_eq!(twins.run(&colour).await.same().ok(), "violet/small");
    twins.agree_with_the_server().await;
}

#[tokio::test]
async fn a_rollout_goes_the_same() {
    let cluster = Cluster::from_env();
    let twins = Twins::start(&cluster, "roll").await;
    twins.feed(&["apply", "-f", "-"], DEPLOYMENT).await.same().ok();
    // How far it is when asked is a matter of chance; how it ends is not.
    let rolled_out = async || {
        let done = twins.run(&["rollout", "status", "deployment/web", "--timeout=50s"]).await;
        for finished in [done.through, done.direct] {
            assert!(finished.ok().contains("successfully rolled out"), "{finished}");
        }
    };
    rolled_out().await;
    for command in [
        "set image deployment/web web=example.test/web:2.0",
        "rollout pause deployment/web",
        "rollout resume deployment/web",
        "rollout restart deployment/web",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let done = twins.run(&words).await;
        drop((done.through.ok(), done.direct.ok()));
    }
    rolled_out().await;
    twins.run(&["rollout", "undo", "deployment/web", "--to-revision=1"]).await.same().ok();
    rolled_out().await;
    let image = "jsonpath={.spec.template.spec.containers[0].image}";
    let image = twins.run(&["get", "deployment", "web", "-o", image]).await.same().ok();
    assert_eq!(image, "example.test/web:1.0");
    let waited = ["wait", "--for=condition=Available", "deployment/web", "--timeout=50s"];
    twins.run(&waited).await.same().ok();
    let never = ["wait", "--for=jsonpath={.spec.paused}=true", "deployment/web", "--timeout=1s"];
    assert!(twins.run(&never).await.same().fails().contains("timed out"));
    twins.agree_with_the_server().await;
}

#[tokio::test]
async fn a_token_is_created_and_not_handed_out() {
    let cluster = Cluster::from_env();
    let twins = Twins::start(&cluster, "token").await;
    let both = twins.run(&["create", "token", "default", "--duration=10m"]).await;
    let looks_like_a_token = |said: &str| said.trim().split('.').count() == 3 && said.starts_with("eyJ");
    assert!(looks_like_a_token(&both.direct.ok()), "{}", both.direct);
    assert!(!looks_like_a_token(&both.through.ok()), "{}", both.through);
    assert!(both.through.out().contains("masked"), "{}", both.through);
    twins.agree_with_the_server().await;
}

/// What a diff adds and removes, without the names of its files.
fn changed_lines(diff: &str) -> Vec<String> {
    let changes = |line: &&str| {
        (line.starts_with('+') || line.starts_with('-'))
            && !line.starts_with("+++")
            && !line.starts_with("---")
    };
    diff.lines().filter(changes).map(portcullis_tests::without_chance).collect()
}
