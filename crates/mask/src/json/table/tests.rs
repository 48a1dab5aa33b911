//! Tables, cut anywhere: which cells are masked, and which are not.

use super::super::tests::{check, mask, resource, scope};
use crate::{MaskErrorKind, Scope};

const RULES: &str = "{packs: [], rules: [
    {name: paths, resources: [widgets.example.com], paths: [spec.apiToken, spec.pin], columns: ['db*']},
    {name: keys, keys: ['*password*'], action: redact}]}";

fn widgets() -> Scope {
    scope(RULES, &resource("example.com", "widgets"))
}

fn table(columns: &[&str], rows: &[&str]) -> String {
    let column = |name: &&str| format!(r#"{{"name":"{name}","type":"string","format":""}}"#);
    let columns: Vec<_> = columns.iter().map(column).collect();
    format!(
        r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{{"resourceVersion":"1"}},"columnDefinitions":[{}],"rows":[{}]}}"#,
        columns.join(","),
        rows_of(rows)
    )
}

fn rows_of(rows: &[&str]) -> String {
    let object = r#"{"kind":"PartialObjectMetadata","metadata":{"name":"door","uid":"1"}}"#;
    let row = |cells: &&str| format!(r#"{{"cells":[{cells}],"object":{object}}}"#);
    rows.iter().map(row).collect::<Vec<_>>().join(",")
}

fn check_rows(scope: &Scope, columns: &[&str], rows: &[(&str, &str)]) {
    let (came, left): (Vec<_>, Vec<_>) = rows.iter().copied().unzip();
    check(scope, &table(columns, &came), &table(columns, &left));
}

#[test]
fn cells_are_masked_under_columns_that_a_rule_speaks_of() {
    check_rows(
        &widgets(),
        &["Name", "API Token", "Pin", "Old-Pass Word", "DB", "Age"],
        &[
            (
                r#""door","s3cret",1234,"hunter2","x","5d""#,
                r#""door","masked:paths:redacted",0,"masked:keys:redacted","masked:paths:redacted","5d""#,
            ),
            (
                r#""pin","\u0073",true,null,"masked","5d""#,
                r#""pin","masked:paths:redacted",false,null,"masked:paths:redacted","5d""#,
            ),
        ],
    );
    // What is printed as JSON is a string like any other; and so is what is in a container.
    check_rows(
        &widgets(),
        &["Name", "apitoken"],
        &[
            (r#""door","{\"a\":\"b\"}""#, r#""door","masked:paths:redacted""#),
            (
                r#""door",["a",{"b":["c",1]}]"#,
                r#""door",["masked:paths:redacted",{"b":["masked:paths:redacted",0]}]"#,
            ),
        ],
    );
}

#[test]
fn the_same_cells_are_judged_by_the_columns_of_their_own_table() {
    // Where keys are asked for everywhere, nothing is remembered.
    let yaml = "{packs: [], rules: [{name: paths, resources: [widgets.example.com], paths: [spec.pin]}]}";
    let widgets = scope(yaml, &resource("example.com", "widgets"));
    let event =
        |columns: &[&str], rows: &[&str]| format!(r#"{{"type":"ADDED","object":{}}}"#, table(columns, rows));
    let events = |first: &str, second: &str| {
        [event(&["Name", "Age"], &[first]), event(&["Pin", "Age"], &[second])].join("\n")
    };
    let cells = r#""seven","enough to be remembered""#;
    let masked = r#""masked:paths:redacted","enough to be remembered""#;
    let came = vec![events(cells, cells); 3].join("\n");
    let left = vec![events(cells, masked); 3].join("\n");
    check(&widgets, &came, &left);
    // From its second chunk on, a stream is long enough for anything to be remembered.
    assert_eq!(mask(&widgets, &[b" ", came.as_bytes()]).unwrap().0, format!(" {left}"));
}

#[test]
fn each_action_is_kept_and_no_token_compares() {
    for (action, expected) in [
        ("action: hash", r#""masked:r:redacted",0"#),
        ("compare: everywhere", r#""masked:r:#",0"#),
        ("action: partial", r#""masked:r:****3456",0"#),
        ("action: drop", "null,null"),
        ("patterns: ['[0-9]+']", r#""secret-masked:r:redacted",12"#),
    ] {
        let yaml = format!("{{packs: [], rules: [{{name: r, paths: [spec.a, spec.b], {action}}}]}}");
        let scope = scope(&yaml, &resource("example.com", "widgets"));
        check_rows(
            &scope,
            &["Name", "A", "B"],
            &[(r#""1","secret-123456",12"#, &format!(r#""1",{expected}"#))],
        );
    }
    let yaml = "{packs: [], rules: [{name: r, paths: [spec.a], detectors: [github]}]}";
    let scope = scope(yaml, &resource("example.com", "widgets"));
    let cell = |token: &str| format!(r#""1",["use {token}"],"{token}""#);
    let token = "ghp_0123456789abcdefghijklmnopqrstuvwxyz";
    let expected = format!(r#""1",["use masked:r:redacted"],"{token}""#);
    check_rows(&scope, &["Name", "A", "B"], &[(&cell(token), &expected)]);
}

#[test]
fn strings_that_hold_json_are_masked_inside() {
    let yaml = "{packs: [], rules: [{name: json, resources: [widgets], jsonPaths: [spec.config]}, {name: keys, keys: [password]}]}";
    let scope = scope(yaml, &resource("example.com", "widgets"));
    check_rows(
        &scope,
        &["Name", "Config"],
        &[
            (
                r#""door","{\"a\":1,\"password\":\"x\"}""#,
                r#""door","{\"a\":1,\"password\":\"masked:keys:redacted\"}""#,
            ),
            (r#""door","map[password:x]""#, r#""door","masked:json:redacted""#),
        ],
    );
}

#[test]
fn what_packs_mask_names_no_column_of_the_api_server() {
    for (group, plural, columns) in [
        ("", "secrets", vec!["Name", "Type", "Data", "Age"]),
        ("", "pods", vec!["Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node"]),
        ("", "events", vec!["Last Seen", "Type", "Reason", "Object", "Message", "Count", "Name"]),
        ("scheduling.k8s.io", "priorityclasses", vec!["Name", "Value", "Global-Default", "Age"]),
        ("example.com", "widgets", vec!["Name", "Message", "Value", "Token", "Certificate", "Data"]),
    ] {
        let scope = scope("packs: [kubernetes-secrets, logs-and-exec, pii]", &resource(group, plural));
        let row = vec![r#""a""#; columns.len()].join(",");
        check_rows(&scope, &columns, &[(&row, &row)]);
        // In a watch the columns are named only once; here, never.
        let bare = format!(r#"{{"kind":"Table","columnDefinitions":null,"rows":[{}]}}"#, rows_of(&[&row]));
        check(&scope, &bare, &bare);
    }
    // These do have a rule with a name.
    let requests = scope("{}", &resource("certificates.k8s.io", "certificatesigningrequests"));
    let cells = r#""a","b","c","d","e""#;
    let columns = ["Name", "Age", "SignerName", "Requestor", "Condition"];
    check_rows(&requests, &columns, &[(cells, cells)]);
}

#[test]
fn rules_that_go_by_kinds_are_for_the_resource_of_that_name_or_for_what_nobody_knows() {
    let yaml = "{packs: [], rules: [{name: widget, kinds: [Widget], paths: [spec.pin]}, {name: deploy, kinds: [Deployment], paths: [spec.replicas]}, {name: node, kinds: [Node], whenUnknown: pass, paths: [spec.door]}]}";
    let cells = r#""a","b","c","d""#;
    let check = |group: &str, plural: &str, expected: &str| {
        let scope = scope(yaml, &resource(group, plural));
        check_rows(&scope, &["Name", "Pin", "Replicas", "Door"], &[(cells, expected)]);
    };
    check("example.com", "widgets", r#""a","masked:widget:redacted","masked:deploy:redacted","d""#);
    check("apps", "deployments", r#""a","b","masked:deploy:redacted","d""#);
    check("", "nodes", r#""a","b","c","masked:node:redacted""#);
    check("", "pods", cells);
}

#[test]
fn a_row_does_not_say_in_time_which_object_it_is() {
    let yaml = "{packs: [], rules: [{name: r, paths: [spec.pin], except: {namespaces: [public], labels: {a: b}}}, {name: s, paths: [spec.site], except: {namespaces: [shop]}}]}";
    let scope = scope(yaml, &resource("example.com", "widgets"));
    check_rows(&scope, &["Name", "Pin", "Site"], &[(r#""a","b","c""#, r#""a","masked:r:redacted","c""#)]);
}

#[test]
fn events_of_a_watch_name_their_columns_once() {
    let event = |table: &str| format!("{{\"type\":\"ADDED\",\"object\":{table}}}\n");
    let rows = |cells: &str| {
        format!(r#"{{"kind":"Table","columnDefinitions":null,"rows":[{}]}}"#, rows_of(&[cells]))
    };
    let columns = ["Name", "Pin"];
    let watch = |first: &str, cells: &str| {
        event(&table(&columns, &[first]))
            + &event(&rows(cells))
            + &event(&table(&["Pin", "Name"], &[cells]))
            + &event(&rows(cells))
    };
    let masked = r#""a","masked:paths:redacted""#;
    let turned = r#""masked:paths:redacted","b""#;
    let expected = event(&table(&columns, &[masked]))
        + &event(&rows(masked))
        + &event(&table(&["Pin", "Name"], &[turned]))
        + &event(&rows(turned));
    check(&widgets(), &watch(r#""a","b""#, r#""a","b""#), &expected);
}

#[test]
fn a_cell_whose_column_is_not_known_is_one_of_any() {
    let masked = r#""masked:paths:redacted","masked:paths:redacted""#;
    let bare =
        |rows: &str, after: &str| format!(r#"{{"kind":"Table","rows":[{}]{after}}}"#, rows_of(&[rows]));
    let late = r#","columnDefinitions":[{"name":"Name"},{"name":"Pin"}]"#;
    check(&widgets(), &bare(r#""a",1"#, ""), &bare(r#""masked:paths:redacted",0"#, ""));
    check(&widgets(), &bare(r#""a","b""#, late), &bare(masked, late));
    // More cells than columns; and a column that has no name, or one that is too long.
    check_rows(&widgets(), &["Name"], &[(r#""a","b""#, r#""a","masked:paths:redacted""#)]);
    let unnamed = |rows: &str| {
        format!(
            r#"{{"kind":"Table","columnDefinitions":[{{"name":"Name"}},{{"name":7}},{{}}],"rows":[{}]}}"#,
            rows_of(&[rows])
        )
    };
    let two = r#""a","masked:paths:redacted","masked:paths:redacted""#;
    check(&widgets(), &unnamed(r#""a","b","c""#), &unnamed(two));
    let long = "x".repeat(600);
    check_rows(&widgets(), &["Name", &long], &[(r#""a","b""#, r#""a","masked:paths:redacted""#)]);
    // The memory of columns has an end.
    let columns = vec!["Name"; 300];
    let mut cells = vec![r#""a""#; 300];
    let came = table(&columns, &[&cells.join(",")]);
    cells[super::MOST..].fill(r#""masked:paths:redacted""#);
    let (masked, _) = mask(&widgets(), &[came.as_bytes()]).unwrap();
    assert_eq!(masked, table(&columns, &[&cells.join(",")]));
}

#[test]
fn what_is_no_table_keeps_its_cells() {
    let json = |kind: &str| {
        format!(r#"{{"kind":"{kind}","columnDefinitions":[{{"name":"Pin"}}],"rows":[{{"cells":["a"]}}]}}"#)
    };
    check(&widgets(), &json("Widget"), &json("Widget"));
    check(&widgets(), &json("Table"), &json("Table").replace(r#"["a"]"#, r#"["masked:paths:redacted"]"#));
    let late = r#"{"rows":[{"cells":["a"]}],"columnDefinitions":[{"name":"Pin"}],"kind":"Table"}"#;
    check(&widgets(), late, &late.replace(r#"["a"]"#, r#"["masked:paths:redacted"]"#));
    let deeper = r#"{"kind":"Widget","spec":{"kind":"Table","columnDefinitions":[{"name":"Pin"}],"rows":[{"cells":["a"]}]}}"#;
    check(&widgets(), deeper, deeper);
}

#[test]
fn columns_that_take_back_what_a_cell_relied_on_end_the_stream() {
    let fail = |scope: &Scope, json: &str| mask(scope, &[json.as_bytes()]).unwrap_err();
    let twice = r#"{"kind":"Table","columnDefinitions":[{"name":"Name"}],"rows":[{"cells":["a"]}],"columnDefinitions":[{"name":"Pin"}]}"#;
    assert_eq!(fail(&widgets(), twice), MaskErrorKind::Ambiguous);
    let second = format!(
        "{}{}",
        table(&["Name"], &[]),
        r#"{"kind":"Table","rows":[{"cells":["a"]}],"columnDefinitions":[{"name":"Pin"}]}"#
    );
    assert_eq!(fail(&widgets(), &second), MaskErrorKind::Ambiguous);
    // Of what the API server serves itself the kind is presumed, until it says another.
    let pods = scope(RULES, &resource("", "pods"));
    let late = r#"{"columnDefinitions":[{"name":"Password"}],"rows":[{"cells":["a"]}],"kind":"Table"}"#;
    assert_eq!(fail(&pods, late), MaskErrorKind::Ambiguous);
    // A column of two names is one of both.
    let both =
        r#"{"kind":"Table","columnDefinitions":[{"name":"Pin","name":"Name"}],"rows":[{"cells":["a"]}]}"#;
    check(&widgets(), both, &both.replace(r#"["a"]"#, r#"["masked:paths:redacted"]"#));
}

#[test]
fn a_masked_cell_is_not_kept() {
    let scope = scope(
        "{packs: [], limits: {heldBytes: 2000}, rules: [{name: r, paths: [spec.pin]}]}",
        &resource("example.com", "widgets"),
    );
    let long = "x".repeat(5000);
    let rows = vec![format!(r#""a","{long}""#); 20];
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let (masked, _) = mask(&scope, &[table(&["Name", "Pin"], &rows).as_bytes()]).unwrap();
    assert_eq!(masked, table(&["Name", "Pin"], &[r#""a","masked:r:redacted""#; 20]));
}
