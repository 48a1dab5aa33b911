//! Records as a busy gateway writes them: requests of some hundred bots for a month, most of them reads.

use std::path::Path;

use portcullis_ledger::{Durability, Ledger, Options, Writer};
use serde_json::json;

use crate::AnyError;

/// Numbers that look like chance and are the same in each run (SplitMix64).
pub(super) struct Chance(u64);

impl Chance {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit.max(1) as u64).unwrap_or(0)
    }

    pub(super) fn of<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

const VERBS: [&str; 20] = [
    "get", "get", "get", "get", "get", "get", "get", "get", "get", "list", "list", "list", "list", "watch",
    "watch", "create", "patch", "patch", "update", "delete",
];
const RESOURCES: [(&str, &str); 8] = [
    ("", "pods"),
    ("", "pods"),
    ("", "secrets"),
    ("", "configmaps"),
    ("apps", "deployments"),
    ("batch", "jobs"),
    ("", "services"),
    ("", "events"),
];

/// The intent and the outcome of one request, as bytes.
pub(super) fn request(chance: &mut Chance, number: u64) -> (Vec<u8>, Vec<u8>) {
    let verb = chance.of(&VERBS);
    let (group, resource) = RESOURCES[chance.below(RESOURCES.len())];
    let user = format!("ci-{}", chance.below(300));
    let namespace = format!("team-{}", chance.below(120));
    let name = format!("{resource}-{:05x}", chance.below(400_000));
    let status = match chance.below(40) {
        0 => 403,
        1 | 2 => 404,
        3 => 409,
        4 if verb == "create" => 500,
        _ => 200,
    };
    let id = format!(
        "019a{:04x}-{:04x}-7{:03x}-8{:03x}-{number:012x}",
        number >> 16 & 0xffff,
        number & 0xffff,
        number % 4096,
        number % 4093
    );
    let session = format!("session-{}", number / 40);
    let second = 1_790_000_000 + i64::try_from(number / 4).unwrap_or(0);
    let time = jiff_like(second, number % 4 * 250);
    let info = json!({
        "isResourceRequest": true, "path": format!("/api/v1/namespaces/{namespace}/{resource}/{name}"), "verb": verb,
        "apiPrefix": if group.is_empty() { "api" } else { "apis" }, "apiGroup": group, "apiVersion": "v1", "namespace": namespace,
        "resource": resource, "name": name,
    });
    let command = format!("{verb} {resource} {name} -n {namespace}");
    let intent = json!({
        "v": 1, "time": time, "type": "intent", "id": id, "session": session, "received": time, "command": command,
        "request": {
            "info": info, "method": "GET", "uri": format!("/api/v1/namespaces/{namespace}/{resource}/{name}"),
            "userAgent": "kubectl/v1.36.2 (linux/amd64) kubernetes/abcdef0", "source": format!("10.0.{}.{}:41234", chance.below(8), chance.below(250)),
        },
        "identity": {"issuer": "https://token.actions.example", "subject": user, "user": user, "groups": ["bots", "system:authenticated"]},
        "verdict": {"decision": {"action": "allow"}, "rule": "bots-read"},
    });
    let refusal = (status == 403)
        .then(|| json!({"code": "policy/denied", "message": format!("{user} may not {verb} {resource}")}));
    let mut outcome = json!({
        "v": 1, "time": time, "type": "outcome", "id": id, "session": session, "end": if status == 403 { "refused" } else { "completed" },
        "status": status, "command": command, "info": info, "user": user, "intent": number * 2, "received": time, "committed": time,
        "upstream": time, "requestBytes": 0, "verdict": {"decision": {"action": "allow"}, "rule": "bots-read"},
        "response": {"bytes": 1200 + chance.below(4000), "sha256": "ab".repeat(32), "contentType": "application/json"},
    });
    if let (Some(refusal), Some(fields)) = (refusal, outcome.as_object_mut()) {
        fields.insert("refusal".into(), refusal);
    }
    (intent.to_string().into_bytes(), outcome.to_string().into_bytes())
}

fn jiff_like(second: i64, milli: u64) -> String {
    let at = portcullis_core::Timestamp::from_second(second).unwrap_or_default();
    format!("{at:.0}").replace('Z', &format!(".{milli:03}Z"))
}

/// A log of so many records.
pub(super) fn generate(dir: &Path, count: u64) -> Result<(), AnyError> {
    let (ledger, _) = Ledger::open(dir, Options::new("bench.example/ledger"))?;
    let writer = ledger.writer();
    let mut chance = Chance::new(7);
    for number in 0..count / 2 {
        let (intent, outcome) = request(&mut chance, number);
        append(&writer, intent);
        append(&writer, outcome);
    }
    ledger.checkpoint()?;
    ledger.close();
    Ok(())
}

fn append(writer: &Writer, record: Vec<u8>) {
    // By the thread itself: nobody else appends.
    writer.append(record, Durability::Write, Box::new(|result| assert!(result.is_ok(), "{result:?}")));
}
