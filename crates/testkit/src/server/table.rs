//! `kubectl get`: objects as rows of a `Table` (`meta.k8s.io/v1`), with the columns the API server prints.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    kinds::{Kind, labels_text},
    object::{created, entries, items, meta, text},
};

/// A column: name, type, whether only `-o wide` shows it.
type Column = (&'static str, &'static str, bool);

const NAME: Column = ("Name", "string", false);
const AGE: Column = ("Age", "string", false);

const fn wide(name: &'static str) -> Column {
    (name, "string", true)
}

const fn narrow(name: &'static str) -> Column {
    (name, "string", false)
}

const fn number(name: &'static str) -> Column {
    (name, "integer", false)
}

const WORKLOAD_WIDE: [Column; 3] = [wide("Containers"), wide("Images"), wide("Selector")];

fn columns(kind: &Kind) -> Vec<Column> {
    let mut columns = match kind.plural {
        "events" => vec![
            narrow("Last Seen"),
            narrow("Type"),
            narrow("Reason"),
            narrow("Object"),
            narrow("Message"),
            wide("Count"),
            wide("Name"),
        ],
        "roles" | "clusterroles" => vec![NAME, ("Created At", "date", false)],
        _ => vec![NAME],
    };
    columns.extend(match kind.plural {
        "pods" => vec![
            narrow("Ready"),
            narrow("Status"),
            narrow("Restarts"),
            AGE,
            wide("IP"),
            wide("Node"),
            wide("Nominated Node"),
            wide("Readiness Gates"),
        ],
        "deployments" => vec![narrow("Ready"), number("Up-to-date"), number("Available"), AGE],
        "replicasets" => vec![number("Desired"), number("Current"), number("Ready"), AGE],
        "services" => vec![
            narrow("Type"),
            narrow("Cluster-IP"),
            narrow("External-IP"),
            narrow("Port(s)"),
            AGE,
            wide("Selector"),
        ],
        "configmaps" => vec![number("Data"), AGE],
        "secrets" => vec![narrow("Type"), number("Data"), AGE],
        "namespaces" => vec![narrow("Status"), AGE],
        "nodes" => vec![
            narrow("Status"),
            narrow("Roles"),
            AGE,
            narrow("Version"),
            wide("Internal-IP"),
            wide("OS-Image"),
        ],
        "rolebindings" | "clusterrolebindings" => {
            vec![narrow("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")]
        }
        "serviceaccounts" => vec![AGE],
        _ => vec![],
    });
    if ["deployments", "replicasets"].contains(&kind.plural) {
        columns.extend_from_slice(&WORKLOAD_WIDE);
    }
    columns
}

/// The column definitions of a kind.
pub(crate) fn definitions(kind: &Kind) -> Value {
    let definition = |(name, of, wide): Column| {
        let format = if name == "Name" { "name" } else { "" };
        let description = format!("{name} of the {}", kind.kind);
        json!({"name": name, "type": of, "format": format, "description": description, "priority": i32::from(wide)})
    };
    columns(kind).into_iter().map(definition).collect()
}

/// The cells of one object.
pub(crate) fn cells(kind: &Kind, object: &Value, now: Timestamp) -> Value {
    let name = meta(object, "name");
    let age = age(object, now);
    let spec = &object["spec"];
    let status = &object["status"];
    let count = |field: &str| status[field].as_u64().unwrap_or(0);
    let keys = entries(&object["data"]).count() + entries(&object["binaryData"]).count();
    let template = &spec["template"]["spec"]["containers"];
    let listed =
        |field: &str| items(template).iter().map(|one| text(&one[field])).collect::<Vec<_>>().join(",");
    let selector = || labels_text(&spec["selector"]["matchLabels"]);
    match kind.plural {
        "pods" => pod(object, &age),
        "deployments" => {
            let ready = format!("{}/{}", count("readyReplicas"), spec["replicas"].as_u64().unwrap_or(0));
            let (updated, available) = (count("updatedReplicas"), count("availableReplicas"));
            json!([name, ready, updated, available, age, listed("name"), listed("image"), selector()])
        }
        "replicasets" => {
            let (desired, current, ready) =
                (spec["replicas"].as_u64().unwrap_or(0), count("replicas"), count("readyReplicas"));
            json!([name, desired, current, ready, age, listed("name"), listed("image"), selector()])
        }
        "services" => {
            let address = spec["clusterIP"].as_str().unwrap_or("<none>");
            let external = spec["externalName"].as_str().unwrap_or("<none>");
            let ports: Vec<_> = items(&spec["ports"]).iter().map(port).collect();
            let ports = if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") };
            json!([name, text(&spec["type"]), address, external, ports, age, labels_text(&spec["selector"])])
        }
        "configmaps" => json!([name, keys, age]),
        "secrets" => json!([name, text(&object["type"]), keys, age]),
        "namespaces" => json!([name, text(&status["phase"]), age]),
        "nodes" => node(object, &age),
        "events" => event(object, now),
        "roles" | "clusterroles" => json!([name, meta(object, "creationTimestamp")]),
        "rolebindings" | "clusterrolebindings" => {
            let role = format!("{}/{}", text(&object["roleRef"]["kind"]), text(&object["roleRef"]["name"]));
            let of = |kind: &str| {
                let subjects = items(&object["subjects"]).iter().filter(|subject| subject["kind"] == kind);
                let name = |subject: &Value| match subject["namespace"].as_str() {
                    Some(namespace) => format!("{namespace}/{}", text(&subject["name"])),
                    None => text(&subject["name"]).to_owned(),
                };
                subjects.map(name).collect::<Vec<_>>().join(", ")
            };
            json!([name, role, age, of("User"), of("Group"), of("ServiceAccount")])
        }
        _ => json!([name, age]),
    }
}

fn pod(pod: &Value, age: &str) -> Value {
    let status = &pod["status"];
    let statuses = items(&status["containerStatuses"]);
    let containers = items(&pod["spec"]["containers"]).len();
    let ready = statuses.iter().filter(|one| one["ready"] == true).count();
    let restarts: u64 = statuses.iter().filter_map(|one| one["restartCount"].as_u64()).sum();
    let phase = match pod["metadata"]["deletionTimestamp"].is_null() {
        false => "Terminating",
        true => status["phase"].as_str().unwrap_or("Pending"),
    };
    let or_none =
        |value: &Value| value.as_str().filter(|text| !text.is_empty()).unwrap_or("<none>").to_owned();
    json!([
        meta(pod, "name"),
        format!("{ready}/{containers}"),
        phase,
        restarts.to_string(),
        age,
        or_none(&status["podIP"]),
        or_none(&pod["spec"]["nodeName"]),
        "<none>",
        "<none>",
    ])
}

fn port(port: &Value) -> String {
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    match port["nodePort"].as_u64() {
        Some(node) => format!("{}:{node}/{protocol}", port["port"]),
        None => format!("{}/{protocol}", port["port"]),
    }
}

fn node(node: &Value, age: &str) -> Value {
    let status = &node["status"];
    let ready =
        items(&status["conditions"]).iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
    let address = items(&status["addresses"]).iter().find(|one| one["type"] == "InternalIP");
    let address = address.map(|one| text(&one["address"])).unwrap_or("<none>");
    let info = &status["nodeInfo"];
    let state = if ready { "Ready" } else { "NotReady" };
    json!([
        meta(node, "name"),
        state,
        "<none>",
        age,
        text(&info["kubeletVersion"]),
        address,
        text(&info["osImage"])
    ])
}

fn event(event: &Value, now: Timestamp) -> Value {
    let object = &event["involvedObject"];
    let object = format!("{}/{}", text(&object["kind"]).to_ascii_lowercase(), text(&object["name"]));
    let seen = text(&event["lastTimestamp"]).parse().ok().or_else(|| created(event));
    let seen = seen.map(|seen| duration(now, seen)).unwrap_or_else(|| "<unknown>".into());
    let count = event["count"].as_u64().unwrap_or(1).to_string();
    json!([
        seen,
        text(&event["type"]),
        text(&event["reason"]),
        object,
        text(&event["message"]),
        count,
        meta(event, "name")
    ])
}

fn age(object: &Value, now: Timestamp) -> String {
    created(object).map(|created| duration(now, created)).unwrap_or_else(|| "<unknown>".into())
}

fn duration(now: Timestamp, then: Timestamp) -> String {
    human_duration(now.as_second().saturating_sub(then.as_second()))
}

/// A duration in the two units that matter, as `kubectl` shows it (`k8s.io/apimachinery/pkg/util/duration`).
fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |large: i64, unit: char, small: i64, sub: char| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{sub}"),
    };
    match seconds {
        ..-1 => "<invalid>".into(),
        -1..=0 => "0s".into(),
        1..120 => format!("{seconds}s"),
        120..600 => two(seconds / MINUTE, 'm', seconds % MINUTE, 's'),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(seconds / HOUR, 'h', seconds % HOUR / MINUTE, 'm'),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(seconds / DAY, 'd', seconds % DAY / HOUR, 'h'),
        691_200..63_072_000 => format!("{}d", seconds / DAY),
        63_072_000..252_288_000 => two(seconds / YEAR, 'y', seconds % YEAR / DAY, 'd'),
        _ => format!("{}y", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::kinds::KINDS;

    #[test]
    fn durations_read_as_kubectl_writes_them() {
        let cases = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (3600, "60m"),
            (10_800, "3h"),
            (90_000, "25h"),
        ];
        for (seconds, expected) in
            cases.into_iter().chain([(200_000, "2d7h"), (864_000, "10d"), (-5, "<invalid>")])
        {
            assert_eq!(human_duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn every_row_has_a_cell_for_every_column() {
        for kind in KINDS {
            let cells = cells(kind, &json!({"metadata": {"name": "x"}}), Timestamp::UNIX_EPOCH);
            assert_eq!(
                cells.as_array().map(Vec::len),
                definitions(kind).as_array().map(Vec::len),
                "{}",
                kind.kind
            );
        }
    }
}
