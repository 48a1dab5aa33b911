use std::sync::LazyLock;

use portcullis_core::RequestInfo;
use proptest::prelude::*;

use super::*;
use crate::{Caller, MaskConfig, MaskKey, Pack, Rules, Scope, detect::finds, piece::join};

static SCOPE: LazyLock<Scope> = LazyLock::new(|| scope(vec![Pack::LogsAndExec, Pack::Pii]));
static DEFAULT_SCOPE: LazyLock<Scope> = LazyLock::new(|| scope(MaskConfig::default().packs));

fn log() -> RequestInfo {
    RequestInfo {
        is_resource_request: true,
        verb: "get".into(),
        resource: "pods".into(),
        subresource: "log".into(),
        ..RequestInfo::default()
    }
}

fn scope(packs: Vec<Pack>) -> Scope {
    let key = MaskKey::from_bytes(&[7; 32]).unwrap();
    let config = MaskConfig { packs, ..MaskConfig::default() };
    Rules::new(&config, key).unwrap().scope(&log(), Caller::default())
}

const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl";
const GITHUB: &str = "ghp_0123456789abcdefghijklmnopqrstuvwxyz";
const KEY: &str = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\nAwEHoUQD\n-----END EC PRIVATE KEY-----";

fn mask(scope: &Scope, chunks: &[&[u8]], interactive: bool) -> Vec<u8> {
    let scan = TextScan::new(scope.text_plan(false));
    let mut scan = if interactive { scan.interactive() } else { scan };
    let mut pieces = Vec::new();
    for chunk in chunks {
        scan.push(Bytes::copy_from_slice(chunk), &mut pieces);
    }
    scan.finish(&mut pieces);
    join(&pieces)
}

fn without_digits(masked: &[u8]) -> String {
    let digits = regex::Regex::new("masked:(?:known-formats|pii):(?:[0-9a-f]{16}|redacted)").unwrap();
    digits.replace_all(std::str::from_utf8(masked).unwrap(), "#").into_owned()
}

fn check(text: &str, expected: &str) {
    let whole = mask(&SCOPE, &[text.as_bytes()], false);
    assert_eq!(without_digits(&whole), expected, "{text}");
    assert_eq!(finds(text.as_bytes(), SCOPE.text_plan(false).detectors()), text != expected, "{text}");
    for cut in 0..text.len() {
        let (left, right) = text.as_bytes().split_at(cut);
        assert_eq!(mask(&SCOPE, &[left, right], false), whole, "{text} cut at {cut}");
    }
    let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
    assert_eq!(mask(&SCOPE, &bytes, false), whole, "{text} by the byte");
}

#[test]
fn known_formats_are_replaced() {
    check(&format!("a {JWT} b"), "a # b");
    check(&format!("token={JWT}."), "token=#.");
    check(&format!("Authorization: Bearer {JWT}\n"), "Authorization: Bearer #\n");
    check("Bearer abcdefgh12345678", "Bearer #");
    check(&format!("{GITHUB},{GITHUB}"), "#,#");
    check("AKIAIOSFODNN7EXAMPLE", "#");
    check("glpat-abcdefghij0123456789 xoxb-123456789012-abc", "# #");
    check("sk_live_0123456789abcdefgh", "#");
    check("AIzaSyA0123456789abcdefghijklmnopqrstuvw", "#");
    check("npm_0123456789abcdefghijklmnopqrstuvwxyz", "#");
    check(&format!("x\n{KEY}\ny"), "x\n#\ny");
    check(&format!("{{\"key\":\"{}\"}}", KEY.replace('\n', "\\n")), "{\"key\":\"#\"}");
    check("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA never ends", "#");
    check("-----BEGIN PGP PRIVATE KEY BLOCK-----\nx\n-----END PGP PRIVATE KEY BLOCK-----.", "#.");
}

#[test]
fn keys_of_clouds_are_replaced() {
    let key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
    check(
        &format!(
            "DefaultEndpointsProtocol=https;AccountName=devstoreaccount1;AccountKey={key};EndpointSuffix=core.windows.net"
        ),
        "DefaultEndpointsProtocol=https;AccountName=devstoreaccount1;AccountKey=#;EndpointSuffix=core.windows.net",
    );
    check(&format!(r#"{{"accountKey": "{key}"}}"#), r##"{"accountKey": "#"}"##);
    check(
        "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=oq4mPn6HNYRTVxWBwBM8FZ0Yp9sNcV8kTn0jXk2bGhA=",
        "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=#",
    );
    check(
        "https://a.blob.core.windows.net/c/b?sv=2022-11-02&sr=b&sig=Z%2FRHIX5Xcg0Mq2rqI3OlWTjEg2tYkboXr1P9ZUXDtkk%3D&se=2026",
        "https://a.blob.core.windows.net/c/b?sv=2022-11-02&sr=b&sig=#&se=2026",
    );
    check(
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n",
        "aws_secret_access_key = #\n",
    );
    check("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "AWS_SECRET_ACCESS_KEY=#");
    check(
        r#"{"AccessKeyId":"ASIAIOSFODNN7EXAMPLE","SecretAccessKey":"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}"#,
        r##"{"AccessKeyId":"#","SecretAccessKey":"#"}"##,
    );
    let account = r#"{"type": "service_account", "private_key_id": "0123456789abcdef0123456789abcdef01234567", "private_key": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n-----END PRIVATE KEY-----\n", "client_id": "1"}"#;
    let masked = without_digits(&mask(&SCOPE, &[account.as_bytes()], false));
    assert!(!masked.contains("MIIE") && masked.ends_with(r#""client_id": "1"}"#), "{masked}");
    check(account, &masked);
    for text in [
        "the sig=abc of AccountKey=short",
        "sig=0123456789012345678901234567890123456789012345678901234567890123",
        "SharedAccessKeyName=RootManageSharedAccessKeyForEverythingThereIs",
        "aws_secret_access_key: (set)",
        "secret_access_key=${AWS_SECRET_ACCESS_KEY}",
    ] {
        check(text, text);
    }
}

#[test]
fn passwords_in_urls_are_replaced() {
    for scheme in
        ["postgres", "postgresql", "mysql", "mariadb", "mongodb+srv", "amqps", "sqlserver", "http", "smtp"]
    {
        check(&format!("{scheme}://app:hunter2@db:1/x?y"), &format!("{scheme}://app:#@db:1/x?y"));
    }
    check("redis://:p@cache", "redis://:#@cache");
    check("mongodb://u:p%40x@a:1,b:2/db", "mongodb://u:#@a:1,b:2/db");
    check("dsn=\"postgres://u:we#ird?p@ss@db/x\"", "dsn=\"postgres://u:#@db/x\"");
    check(&format!("https://x:{GITHUB}@github.com/a"), "https://x:#@github.com/a");
    check(&format!("https://{GITHUB}:x-oauth-basic@github.com/a"), "https://#@github.com/a");
    check("POSTGRES://u:hunter2@db", "POSTGRES://u:#@db");
    for text in [
        "http://10.0.0.1:8080/a@b https://user@host/ postgres://db:5432/x",
        "http://host:80?to=u@x http://host:80",
        "postgres://$(USER):$(PASSWORD)@db postgres://u:${PASS}@db redis://:****@db mysql://u:xxxxx@db",
        "git@github.com:org/repo ssh://git@host",
    ] {
        check(text, text);
    }
}

#[test]
fn authorization_is_replaced() {
    check("Authorization: Basic YWRtaW46aHVudGVyMg==\r\n", "Authorization: Basic #\r\n");
    check(r#"{"authorization":"Basic YWRtaW46aHVudGVyMg=="}"#, r##"{"authorization":"Basic #"}"##);
    check(r#"\"Authorization\":[\"Basic dTpw\"]"#, r##"\"Authorization\":[\"Basic #\"]"##);
    check("curl -H 'Authorization: token abcdef0123456789' x", "curl -H 'Authorization: token #' x");
    check("Proxy-Authorization: Bearer abcdefgh12345678", "Proxy-Authorization: Bearer #");
    check(
        "map[Authorization:[Bearer abcdefgh12345678] Accept:[*/*]]",
        "map[Authorization:[Bearer #] Accept:[*/*]]",
    );
    check(
        "Authorization: AWS4-HMAC-SHA256 Credential=AKIA/2026, SignedHeaders=host, Signature=fe5f80\nx",
        "Authorization: AWS4-HMAC-SHA256 #\nx",
    );
    check("authorization: Digest username=\"ada\", response=\"6629fae4\"\n", "authorization: Digest #\n");
    check("Authorization: 9f86d081884c7d659a2feaa0c55ad015", "Authorization: #");
    for text in [
        "Authorization: required for this",
        "Authorization: Bearer authentication is required",
        "--authorization-mode=Node,RBAC and authorization.k8s.io/v1",
        "authorization: basic auth is not enabled",
        "WWW-Authenticate: Basic realm=\"x\"",
    ] {
        check(text, text);
    }
}

#[test]
fn values_beside_telling_names_are_replaced() {
    check("DB_PASSWORD=hunter2hunter\n", "DB_PASSWORD=#\n");
    check("spring.datasource.password: s3cr3tpass\n", "spring.datasource.password: #\n");
    check(r#"{"password": "correct horse battery", "x": 1}"#, r##"{"password": "#", "x": 1}"##);
    check(r#"{"password":"with \" a mark"}"#, r##"{"password":"#"}"##);
    check(r#"msg="{\"passwd\":\"hunter2hunter\",\"a\":1}""#, r##"msg="{\"passwd\":\"#\",\"a\":1}""##);
    check("Server=db;Password=hunter2!x;Encrypt=True", "Server=db;Password=#;Encrypt=True");
    check("a=1&password=p&ssword1&b=2", "a=1&password=#&b=2");
    check("password: correcthorsebattery\n", "password: #\n");
    check("passphrase='it is long', x", "passphrase='#', x");
    check("client_secret=8f14e45fceea167a5a36dedd4bea2543", "client_secret=#");
    check("X-Api-Key: 3f9a7c21b84e4d0d9e6a5f10", "X-Api-Key: #");
    check("api_key => 'AbCdEf0123GhIjKl4567'", "api_key => '#'");
    check("token: 07401b.f395accd246ae52d", "token: #");
    check("\"AccessKey\" : \"q1W2e3R4t5Y6u7I8o9P0\",", "\"AccessKey\" : \"#\",");
    for text in [
        "password: authentication failed for user",
        "invalid password: required\n",
        "password: ${DB_PASSWORD} password={{ .Values.password }} password=$DB_PASSWORD password=********",
        "password=/run/secrets/password PWD=/home/someone/work",
        "secretName: my-tls-secret-2024-with-long-name",
        "secret: default/argocd-secret-5f7c9b8d6f",
        "checksum/secret: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "token: signature is invalid, tokens: 1234567890123456789",
        "token_type=bearer, tokenExpirationSeconds=3607",
        "the secret of apiKey and Password: ",
        r#"{"password":"masked:secrets:0123456789abcdef"}"#,
        "password: \"bWFza2VkOnNlY3JldHM6MDEyMzQ1Njc4OWFiY2RlZg==\"",
    ] {
        check(text, text);
    }
}

#[test]
fn what_is_personal_is_replaced() {
    check("user ada.lovelace+x@mail.example.com, logged in", "user #, logged in");
    check("<ada@example.com>\n-a@b.de.", "<#>\n-#.");
    check("DE89370400440532013000 and GB82 WEST 1234 5698 7654 32.", "# and #.");
    check("card 4111 1111 1111 1111 200", "card # 200");
    check("4111111111111111,5500-0000-0000-0004;3782 822463 10005\n", "#,#;#\n");
    check("6011000990139424 30569309025904 3530111333300000", "# # #");
    for text in [
        "app@sha256:0123456789abcdef getty@tty1.service git@github.com:x pkg@1.2.3 @scope/x a@b",
        "DE89370400440532013001 DE8937040044053201300 XX89370400440532013000 TO2025 DE",
        "4111111111111112 1700000000000000 4111 1111 1111 1112 0000 0000 0000 0000",
        "1.4111111111111111 a4111111111111111 41111111111111111111",
        "8a1f6c1e-0d54-4f6f-9a52-000000000012 2026-01-02T03:04:05.123456789Z",
    ] {
        check(text, text);
    }
    let long = format!("{}@example.com {}.com x@{}", "a".repeat(65), "b".repeat(300), "c.".repeat(200));
    check(&long, &long);
}

#[test]
fn a_prompt_shows_at_once() {
    for prompt in ["Password: ", "token = ", "redis://", "Authorization:", "api_key=\""] {
        let mut scan = TextScan::new(SCOPE.text_plan(false));
        let mut pieces = Vec::new();
        scan.push(Bytes::from_static(prompt.as_bytes()), &mut pieces);
        assert_eq!(join(&pieces), prompt.as_bytes());
    }
}

#[test]
fn ordinary_text_passes() {
    for text in [
        "",
        "the eye sees AKIA and ghp_ and Bearer of news",
        "Bearer authentication is required for this",
        "eyJhbGciOiJSUzI1NiJ9.notajwt",
        "taskAKIAIOSFODNN7EXAMPLE",
        "AKIAIOSFODNN7EXAMPLELONGER",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "-----BEGIN ",
        "2026-11-03T10:00:00Z level=info sha256:0123456789abcdef0123456789abcdef",
        "gh p_ glpat-short sk_live_short",
    ] {
        check(text, text);
    }
}

/// What software says and what people deploy, all of it harmless, and much of it about passwords and tokens.
#[test]
fn an_ordinary_corpus_passes_the_default_packs() {
    let corpus =
        [include_str!("../../tests/corpus/logs.txt"), include_str!("../../tests/corpus/manifests.yaml")];
    let hits: Vec<String> = corpus
        .iter()
        .flat_map(|text| text.lines())
        .filter(|line| {
            mask(&DEFAULT_SCOPE, &[line.as_bytes(), b"\n"], false) != format!("{line}\n").as_bytes()
        })
        .map(|line| without_digits(&mask(&DEFAULT_SCOPE, &[line.as_bytes()], false)))
        .collect();
    assert!(hits.is_empty(), "{hits:#?}");
    for text in corpus {
        assert_eq!(mask(&DEFAULT_SCOPE, &[text.as_bytes()], false), text.as_bytes());
    }
}

#[test]
fn a_run_without_end_is_masked_in_bounded_memory() {
    let mut scan = TextScan::new(SCOPE.text_plan(false));
    let mut pieces = Vec::new();
    scan.push(Bytes::from_static(b"x ghp_"), &mut pieces);
    for _ in 0..100 {
        scan.push(Bytes::from(vec![b'a'; 1 << 10]), &mut pieces);
        assert!(scan.held.len() <= LONGEST + (2 << 10));
    }
    scan.push(Bytes::from_static(b" y"), &mut pieces);
    scan.finish(&mut pieces);
    assert_eq!(without_digits(&join(&pieces)), "x # y");
}

#[test]
fn a_line_is_handed_on_at_once_and_not_copied() {
    let mut scan = TextScan::new(SCOPE.text_plan(false));
    let line = Bytes::from_static(b"GET /healthz 200\n");
    let mut pieces = Vec::new();
    scan.push(line.clone(), &mut pieces);
    assert_eq!(pieces, [Piece::Verbatim(line.clone())]);
    assert_eq!(pieces[0].bytes().as_ptr(), line.as_ptr());
}

#[test]
fn a_terminal_shows_each_character_typed() {
    let mut scan = TextScan::new(SCOPE.text_plan(false)).interactive();
    for typed in ["g", "h", " ", "-", "-", "e", "y", "J"] {
        let mut pieces = Vec::new();
        scan.push(Bytes::from_static(typed.as_bytes()), &mut pieces);
        assert_eq!(join(&pieces), typed.as_bytes());
    }
    let bytes: Vec<&[u8]> = GITHUB.as_bytes().chunks(1).collect();
    let shown = String::from_utf8(mask(&SCOPE, &bytes, true)).unwrap();
    assert!(
        shown.starts_with("ghp_masked:known-formats:") && !shown.contains("0123456789abcdefghijk"),
        "{shown}"
    );
    assert_eq!(without_digits(&mask(&SCOPE, &[format!("$ {GITHUB}\n").as_bytes()], true)), "$ #\n");
}

fn with_patterns() -> Scope {
    let config: MaskConfig = serde_yaml::from_str(
        r#"{packs: [logs-and-exec], rules: [
            {name: tickets, resources: [pods/log], patterns: ['\bTICKET-[0-9]+\b', 'T-[0-9]{4,}$']},
            {name: hex, resources: [pods/log], patterns: ['ET-[0-9a-f]+', '^line .* secret$']}]}"#,
    )
    .unwrap();
    Rules::new(&config, MaskKey::from_bytes(&[7; 32]).unwrap()).unwrap().scope(&log(), Caller::default())
}

#[test]
fn patterns_are_looked_for_line_by_line() {
    let scope = with_patterns();
    let text = format!(
        "a TICKET-17 b\nTICKET-1234abc\r\nline one secret\r\nline two\nsecret {GITHUB}\n{}\nTICKET-9",
        "x".repeat(LONGEST_LINE + 1)
    );
    let whole = mask(&scope, &[text.as_bytes()], false);
    let shown = regex::Regex::new("masked:([a-z-]+):(?:[0-9a-f]{16}|redacted)").unwrap();
    let shown = shown.replace_all(std::str::from_utf8(&whole).unwrap(), "#$1").into_owned();
    assert_eq!(
        shown,
        "a #tickets b\nTICK#hex\r\n#hex\r\nline two\nsecret #known-formats\n#tickets\n#tickets"
    );
    let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
    assert_eq!(mask(&scope, &bytes, false), whole);
    for size in [7, 1000, LONGEST_LINE] {
        let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
        assert_eq!(mask(&scope, &chunks, false), whole);
    }
}

#[test]
fn patterns_hold_a_line_but_not_in_a_terminal() {
    let scope = with_patterns();
    let mut pieces = Vec::new();
    let mut scan = TextScan::new(scope.text_plan(false));
    scan.push(Bytes::from_static(b"one\ntwo TICK"), &mut pieces);
    assert_eq!(join(&pieces), b"one\n");
    for _ in 0..100 {
        scan.push(Bytes::from(vec![b'a'; 1 << 10]), &mut pieces);
        assert!(scan.lines.held.len() <= LONGEST_LINE + (1 << 10));
    }
    let mut pieces = Vec::new();
    let mut scan = TextScan::new(scope.text_plan(false)).interactive();
    scan.push(Bytes::from_static(b"$ "), &mut pieces);
    assert_eq!(join(&pieces), b"$ ");
}

fn fragments() -> impl Strategy<Value = String> {
    let fragment = prop_oneof![
        Just(JWT.to_owned()),
        Just(GITHUB.to_owned()),
        Just(KEY.to_owned()),
        Just("-----BEGIN PRIVATE KEY-----".to_owned()),
        Just("-----END ".to_owned()),
        Just("ghp_".to_owned()),
        Just("Bearer ".to_owned()),
        prop::sample::select(vec![
            "Authorization: ",
            "Basic YTpi",
            "Digest a=\"b\", c",
            "password",
            "_pass",
            "secret",
            "_access_key",
            "=",
            ": ",
            "\": \"",
            "\\\":\\\"",
            "\\",
            "\"",
            "'",
            "https://",
            "u:p@h",
            "@",
            "AccountKey=",
            "token",
            "api_key=",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "3f9a7c21b84e4d0d9e6a5f10",
            "ada",
            "@example.com",
            ".",
            "DE89 3704 0044 0532 0130 00",
            "DE89370400440532013000",
            "4111 1111 1111 1111",
            " 123",
            "-",
            "4111111111111111",
            "hunter2hunter",
            "masked:",
            "&x=",
            "; ",
            "{",
        ])
        .prop_map(str::to_owned),
        "[ -~\n]{0,12}",
    ];
    prop::collection::vec(fragment, 0..9).prop_map(|fragments| fragments.concat())
}

proptest! {
    #[test]
    fn cutting_never_changes_what_comes_out(text in fragments(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5), interactive: bool) {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        at.extend([0, text.len()]);
        at.sort_unstable();
        let chunks: Vec<&[u8]> = at.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
        let whole = mask(&SCOPE, &[text.as_bytes()], false);
        let cut = mask(&SCOPE, &chunks, interactive);
        if !interactive {
            prop_assert_eq!(&cut, &whole);
        }
        // A quick look tells exactly whether anything is found.
        let found = finds(text.as_bytes(), SCOPE.text_plan(false).detectors());
        prop_assert_eq!(found, whole != text.as_bytes(), "{:?}", text);
        prop_assert!(memchr::memmem::find(&cut, &GITHUB.as_bytes()[8..]).is_none() || memchr::memmem::find(&whole, &GITHUB.as_bytes()[8..]).is_some());
    }
}
