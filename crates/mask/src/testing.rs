//! Tests of rules, a line each: which values of an answer a rule masks, and that nothing else changes.
//!
//! ```
//! use portcullis_mask::testing::RuleTest;
//!
//! let rules = RuleTest::yaml("
//! rules:
//!   - name: widget-passwords
//!     resources: [widgets.example.com]
//!     paths: ['spec.**.password']
//!     except: { groups: [security] }
//! ");
//! let door = r#"{"kind":"Widget","spec":{"color":"red","locks":[{"password":"hunter2"}]}}"#;
//! rules.json("get widgets.example.com shop/door", door).assert_masked(&["spec.locks[0].password -> widget-passwords"]);
//! rules.json("get gadgets.example.com shop/door", door).assert_nothing_masked();
//! rules.clone().caller("ada", &["security"]).json("list widgets.example.com", door).assert_nothing_masked();
//!
//! // In text it is what was replaced that counts.
//! let log = "GET https://ci:hunter2@git.example.com/ 200";
//! rules.text("get pods/log shop/web", log).assert_masked(&["hunter2 -> known-formats"]);
//! ```
//!
//! Rules are what stands below `mask:` in the gateway's configuration, so the default packs are among them, unless `packs: []` says
//! otherwise. Tokens are made with a key that is always the same: what [`Masked::output`] says today it says tomorrow. Everything
//! here panics where a test should fail.

use std::{collections::BTreeSet, fmt::Write as _};

use bytes::Bytes;
use portcullis_core::{Grant, Identity, RequestInfo, Timestamp, Verdict};
use regex::Regex;
use serde_json::Value;

use crate::{
    Action, Caller, MaskConfig, MaskKey, Masker, Piece, Rules, Scope, TextMasker, json::add_key, piece::join,
};

/// Rules, and who asks.
#[derive(Clone, Debug)]
pub struct RuleTest {
    rules: Rules,
    /// The same rules, with tokens that can be told from any other text.
    redacting: Rules,
    identity: Option<Identity>,
    grant: Option<Grant>,
    verdict: Verdict,
}

impl RuleTest {
    /// Tests these rules.
    ///
    /// # Panics
    ///
    /// If they cannot be used; says which part, and why.
    #[track_caller]
    pub fn new(config: &MaskConfig) -> Self {
        let mut redacting = config.clone();
        // (Those of packs have tokens that say no more already.)
        for rule in &mut redacting.rules {
            rule.action = Action::Redact;
        }
        Self {
            rules: compile(config),
            redacting: compile(&redacting),
            identity: None,
            grant: None,
            verdict: Verdict::default(),
        }
    }

    /// Tests these rules: the YAML that stands below `mask:` in the gateway's configuration.
    ///
    /// # Panics
    ///
    /// If it is not that, or the rules cannot be used; says which part, and why.
    #[track_caller]
    pub fn yaml(rules: &str) -> Self {
        match serde_yaml::from_str(rules) {
            Ok(config) => Self::new(&config),
            Err(error) => panic!("these are no rules: {error}"),
        }
    }

    /// Who asks. Without one, nobody is known: then no exception for users or groups holds.
    #[must_use]
    pub fn caller(mut self, user: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        self.identity = Some(Identity { user: user.into(), groups, ..Identity::default() });
        self
    }

    /// Under a grant that was cut from this profile.
    #[must_use]
    pub fn grant(mut self, profile: &str) -> Self {
        self.grant = Some(Grant {
            id: "test".into(),
            profile: profile.into(),
            task: None,
            rules: Vec::new(),
            issued_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::MAX,
            approvers: Vec::new(),
        });
        self
    }

    /// Where a policy rule names these rule sets.
    #[must_use]
    pub fn sets(mut self, sets: &[&str]) -> Self {
        self.verdict.mask_sets = sets.iter().map(|&set| set.to_owned()).collect();
        self
    }

    /// What becomes of this JSON document, as the answer to a request: `get secrets shop/db`, `list widgets.example.com shop/`
    /// (of a namespace), `list secrets` (of all), `get nodes n1`, `create serviceaccounts/token shop/ci`; or, where it is for no
    /// Kubernetes resource, `GET /users`.
    ///
    /// # Panics
    ///
    /// If that is no request, the document is not JSON or cannot be masked, or anything changed that no rule answers for.
    #[track_caller]
    pub fn json(&self, request: &str, document: &str) -> Masked {
        let (info, mut pieces) = (request_info(request), Vec::new());
        let scope = self.scope(&self.rules, &info);
        let mut masker = Masker::new(scope.clone()).traced();
        let pushed = masker.push(Bytes::copy_from_slice(document.as_bytes()), &mut pieces);
        if let Err(error) = pushed.and_then(|()| masker.finish(&mut pieces)) {
            panic!("the answer to `{request}` cannot be masked: {error}");
        }
        let trace = masker.take_trace().unwrap_or_default();
        let places = trace.into_iter().map(|(place, rule)| (place, scope.name(rule).to_owned()));
        let masked = Masked {
            places: places.collect(),
            output: text_of(&pieces),
            is_text: false,
            request: request.to_owned(),
            test: self.clone(),
        };
        masked.assert_nothing_else_changed(document);
        masked
    }

    /// What becomes of this text, as the answer to a request such as `get pods/log shop/web`, or `GET /log`.
    ///
    /// # Panics
    ///
    /// If that is no request, or anything changed that no rule answers for.
    #[track_caller]
    pub fn text(&self, request: &str, text: &str) -> Masked {
        let info = request_info(request);
        let mask = |rules: &Rules| {
            let (mut masker, mut pieces) = (TextMasker::new(&self.scope(rules, &info)), Vec::new());
            masker.push(Bytes::copy_from_slice(text.as_bytes()), &mut pieces);
            masker.finish(&mut pieces);
            text_of(&pieces)
        };
        Masked {
            places: replaced(text, &mask(&self.redacting)),
            output: mask(&self.rules),
            is_text: true,
            request: request.to_owned(),
            test: self.clone(),
        }
    }

    fn scope(&self, rules: &Rules, info: &RequestInfo) -> Scope {
        let verdict = Some(&self.verdict);
        rules.scope(info, Caller { identity: self.identity.as_ref(), grant: self.grant.as_ref(), verdict })
    }
}

/// What became of an answer.
#[derive(Clone, Debug)]
#[must_use = "assert what was masked"]
pub struct Masked {
    /// Where, or in text what, and by which rule.
    places: Vec<(String, String)>,
    output: String,
    is_text: bool,
    request: String,
    test: RuleTest,
}

impl Masked {
    /// Everything that was masked, as `data.password -> secrets`, in its order; of text, what was replaced stands in the place
    /// of the path. What lies in a string that holds JSON comes after ` | `.
    pub fn places(&self) -> impl Iterator<Item = String> {
        self.places.iter().map(shown)
    }

    /// What the client gets.
    pub fn output(&self) -> &str {
        &self.output
    }

    /// Exactly these were masked, in any order: a path, or `path -> rule`; of text, what was replaced.
    ///
    /// # Panics
    ///
    /// If not. Says what was not masked, and what would mask it; and what was masked besides.
    #[track_caller]
    pub fn assert_masked(&self, expected: &[&str]) {
        let is = |place: &(String, String), expected: &str| place.0 == expected || shown(place) == expected;
        let missing = expected.iter().filter(|expected| !self.places.iter().any(|place| is(place, expected)));
        let besides = self.places.iter().filter(|place| !expected.iter().any(|expected| is(place, expected)));
        let mut wrong = String::new();
        for expected in missing {
            let _ = write!(wrong, "\n  not masked: {expected} ({})", self.why_not(expected));
        }
        for place in besides {
            let _ = write!(wrong, "\n  masked, too: {}", shown(place));
        }
        assert!(wrong.is_empty(), "in the answer to `{}`:{wrong}", self.request);
    }

    /// Nothing was masked.
    ///
    /// # Panics
    ///
    /// If anything was; says what, and by which rule.
    #[track_caller]
    pub fn assert_nothing_masked(&self) {
        self.assert_masked(&[]);
    }

    fn why_not(&self, expected: &str) -> String {
        let path = expected.split(" -> ").next().unwrap_or(expected);
        if let Some((_, rule)) = self.places.iter().find(|(place, _)| place == path) {
            return format!("`{rule}` masks it");
        }
        let info = request_info(&self.request);
        let scope = self.test.scope(&self.test.rules, &info);
        let caller = Caller {
            identity: self.test.identity.as_ref(),
            grant: self.test.grant.as_ref(),
            verdict: Some(&self.test.verdict),
        };
        let found = match self.is_text {
            true => Vec::new(),
            false => self.test.rules.explain(&info, caller, path).unwrap_or_default(),
        };
        let conditions = found.iter().map(|found| match found.when.is_empty() {
            true => format!("`{}` masks it, where it is", found.rule),
            false => format!("`{}` would, if {}", found.rule, found.when.join(", and ")),
        });
        let conditions: Vec<_> = conditions.collect();
        match (conditions.is_empty(), scope.is_empty()) {
            (false, _) => conditions.join("; "),
            (true, true) => "no rule is for this request".to_owned(),
            (true, false) => format!(
                "no rule selects it; for this request there are {}",
                scope.rule_names().collect::<Vec<_>>().join(", ")
            ),
        }
    }

    #[track_caller]
    fn assert_nothing_else_changed(&self, document: &str) {
        let parsed = |json: &str| -> Value {
            serde_json::from_str(json).unwrap_or_else(|error| panic!("the document is not JSON: {error}"))
        };
        let (before, after) = (parsed(document), parsed(&self.output));
        let masked: BTreeSet<&str> =
            self.places.iter().map(|(place, _)| place.split(" | ").next().unwrap_or(place)).collect();
        let mut changed = Vec::new();
        differences(&before, &after, String::new(), &mut changed);
        changed.retain(|place| !masked.contains(place.as_str()));
        assert!(changed.is_empty(), "changed, though no rule answers for it: {}", changed.join(", "));
    }
}

fn shown((place, rule): &(String, String)) -> String {
    format!("{place} -> {rule}")
}

fn text_of(pieces: &[Piece]) -> String {
    String::from_utf8_lossy(&join(pieces)).into_owned()
}

#[track_caller]
fn compile(config: &MaskConfig) -> Rules {
    let compiled = MaskKey::from_bytes(&[42; 32]).map(|key| Rules::new(config, key));
    match compiled {
        Ok(Ok(rules)) => rules,
        Ok(Err(error)) => panic!("these rules cannot be used: {error}"),
        Err(error) => panic!("no key: {error}"),
    }
}

/// `VERB RESOURCE [[NAMESPACE/][NAME]]`, or `METHOD /PATH`.
#[track_caller]
fn request_info(request: &str) -> RequestInfo {
    let mut words = request.split_whitespace();
    let (Some(verb), Some(what), object, None) = (words.next(), words.next(), words.next(), words.next())
    else {
        panic!("`{request}` is no request: expected `get secrets shop/db`, or `GET /path`");
    };
    let verb = verb.to_ascii_lowercase();
    if what.starts_with('/') {
        return RequestInfo { verb, path: what.to_owned(), ..RequestInfo::default() };
    }
    let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
    let (resource, api_group) = resource.split_once('.').unwrap_or((resource, ""));
    let object = object.unwrap_or_default();
    let (namespace, name) = object.split_once('/').unwrap_or(("", object));
    RequestInfo {
        is_resource_request: true,
        verb,
        api_group: api_group.into(),
        api_version: "v1".into(),
        namespace: namespace.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        name: name.into(),
        ..RequestInfo::default()
    }
}

/// What was replaced in a text, and by which rule: what stands between the parts that have stayed.
#[track_caller]
fn replaced(text: &str, redacted: &str) -> Vec<(String, String)> {
    let Ok(token) = Regex::new("masked:([a-z0-9-]+):(?:redacted|[0-9a-f]{16})") else { return Vec::new() };
    let (mut pattern, mut tokens, mut end) = ("(?s)^".to_owned(), Vec::new(), 0);
    for found in token.captures_iter(redacted) {
        let Some(whole) = found.get(0) else { continue };
        let _ = write!(pattern, "{}(.*?)", regex::escape(&redacted[end..whole.start()]));
        tokens.push((whole.as_str(), found[1].to_owned()));
        end = whole.end();
    }
    let _ = write!(pattern, "{}$", regex::escape(&redacted[end..]));
    let Some(found) = Regex::new(&pattern).ok().and_then(|pattern| pattern.captures(text)) else {
        panic!("changed, though no rule answers for it: {redacted}");
    };
    let secrets = found.iter().skip(1).flatten().map(|secret| secret.as_str().to_owned());
    // A token that has been there before is text like any other.
    let replaced = secrets.zip(tokens).filter(|(secret, (token, _))| secret != token);
    replaced.map(|(secret, (_, rule))| (secret, rule)).collect()
}

/// The places at which two documents differ.
fn differences(before: &Value, after: &Value, place: String, changed: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) if before.keys().eq(after.keys()) => {
            for (key, before) in before {
                let mut place = place.clone();
                add_key(&mut place, key);
                differences(before, &after[key], place, changed);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                differences(before, after, format!("{place}[{index}]"), changed);
            }
        }
        (before, after) if before == after => {}
        _ => changed.push(place),
    }
}

#[cfg(test)]
mod tests;
