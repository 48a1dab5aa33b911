//! What of the rules applies to one request, and what a value of it is replaced with.

use std::{fmt, io, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Extensions;
use portcullis_core::{Grant, Identity, RequestInfo, Verdict};

use super::{
    Action, Archives, Limits, Pack, RuleBits, RuleId, Rules,
    automaton::Automaton,
    columns::ColumnRules,
    compile::{Accept, CompiledRule},
    subject::{Object, Said, Subject},
};
use crate::{
    detect::{Detector, DetectorSet},
    token::{self, Fingerprint, MaskKey},
};

/// Who asks, as far as is known. Whoever is unknown is nobody's exception; a verdict that names rule sets selects those, and
/// all of them if one is unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller<'a> {
    /// Their identity.
    pub identity: Option<&'a Identity>,
    /// The grant they act under.
    pub grant: Option<&'a Grant>,
    /// What policy says.
    pub verdict: Option<&'a Verdict>,
}

impl<'a> Caller<'a> {
    /// Who that is, as outer layers have left it.
    pub fn of(extensions: &'a Extensions) -> Self {
        Self { identity: extensions.get(), grant: extensions.get(), verdict: extensions.get() }
    }
}

/// The rules that apply to one request, and what is known of its objects from the request alone.
#[derive(Clone)]
pub struct Scope {
    pub(super) rules: Rules,
    /// The key that makes tokens, if not the rules' own. (One is hundreds of bytes long, and scopes are copied.)
    key: Option<Arc<MaskKey>>,
    active: RuleBits,
    /// Those of them that are only for, or not for, some objects.
    only_some: RuleBits,
    not_some: RuleBits,
    kubernetes: bool,
    /// The kinds that the requested resource's objects are of, whatever they say.
    pub(crate) presumed: u64,
    /// Whether the requested resource's objects are known not to be of any other kind, unless they say so at once.
    pub(crate) decided: bool,
    /// What a token is bound to where no UID is known.
    bound: Arc<Bound>,
    /// Those that may mask cells of Tables.
    columns: RuleBits,
    /// Whether no token tells if two values are equal, unless the rule says that it does everywhere.
    incomparable: bool,
    /// Whether rules apply that go by the names of keys.
    pub(crate) has_keys: bool,
    covers_text: bool,
    /// Whether rules apply that only search strings.
    pub(crate) has_searches: bool,
    /// Whether a rule that applies to those of whom nothing is known does not to this caller, who sees more than they.
    pub(crate) shows_more: bool,
}

/// Which object a request is for, as far as it says.
struct Bound {
    place: Vec<u8>,
    name: Vec<u8>,
}

/// The groups that the API server serves itself: their lists leave out the kind of their items, and their encoders write an
/// object's kind before anything else. (Aggregated and custom resources may do otherwise.)
const BUILT_IN_GROUPS: [&str; 21] = [
    "",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];

impl Scope {
    pub(super) fn new(rules: &Rules, info: &RequestInfo, caller: Caller<'_>) -> Self {
        let Caller { identity, grant, verdict } = caller;
        let sets = verdict.map(|verdict| verdict.mask_sets.as_slice()).unwrap_or_default();
        let known = sets.iter().all(|set| rules.has_set(set));
        let (mut active, mut presumed, mut has_keys, mut covers_text) = (0, 0, false, false);
        let (mut only_some, mut not_some, mut columns) = (0, 0, 0);
        let (mut has_searches, mut shows_more) = (false, false);
        let of_columns = rules.0.columns.as_ref().filter(|_| info.is_resource_request);
        let of_columns = of_columns.map_or(0, |(known, _)| known.all.mask | known.all.json);
        let decided = info.is_resource_request
            && info.subresource != "proxy"
            && BUILT_IN_GROUPS.contains(&info.api_group.as_str());
        for (id, rule) in rules.0.rules.iter().enumerate() {
            let selected = match (sets.is_empty(), known) {
                (true, _) => rule.default,
                (false, true) => sets.iter().any(|set| Pack::current_set(set) == rule.set),
                (false, false) => true,
            };
            let named = rule.names(info);
            let by_kind = rule.kinds != 0 && info.is_resource_request;
            let covered = |subject: &Option<Subject>, otherwise, unknown| {
                subject.as_ref().map_or(otherwise, |subject| subject.covers(info, identity, grant, unknown))
            };
            let wanted = covered(&rule.only_for, Said::Yes, true);
            let exempt = covered(&rule.except, Said::No, false);
            if !(named || by_kind) {
                continue;
            }
            if !selected || wanted == Said::No || exempt == Said::Yes {
                shows_more |= rule.default && rule.applies_to_anybody(info);
                continue;
            }
            active |= 1 << id;
            only_some |= RuleBits::from(wanted == Said::Depends) << id;
            not_some |= RuleBits::from(exempt == Said::Depends) << id;
            has_keys |= !rule.rule.keys.is_empty();
            covers_text |= !rule.rule.is_structural();
            has_searches |= rule.glance.is_some();
            if named {
                presumed |= rule.kinds;
            }
            if of_columns & (1 << id) != 0 {
                columns |= RuleBits::from(rule.may_be_in_rows(info, decided)) << id;
            }
        }
        let parts = match info.is_resource_request {
            true => [info.cluster.as_bytes(), info.api_group.as_bytes(), info.resource.as_bytes()],
            false => [info.cluster.as_bytes(), b"", info.path.as_bytes()],
        };
        let place = parts.join(&0);
        let name = [info.namespace.as_bytes(), info.name.as_bytes()].join(&0);
        Self {
            rules: rules.clone(),
            key: None,
            active,
            only_some,
            not_some,
            kubernetes: info.is_resource_request,
            presumed,
            decided,
            bound: Arc::new(Bound { place, name }),
            columns,
            incomparable: false,
            has_keys,
            covers_text,
            has_searches,
            shows_more,
        }
    }

    /// Whether no rule applies: then nothing needs to be read.
    pub fn is_empty(&self) -> bool {
        self.active == 0
    }

    /// The same rules, but tokens that equal no other: for what would confirm a guess.
    ///
    /// # Errors
    ///
    /// When the system has no randomness to give.
    pub(crate) fn with_key_of_its_own(self) -> io::Result<Self> {
        Ok(Self { key: Some(Arc::new(MaskKey::generate()?)), ..self })
    }

    /// The same rules, once for each key there is: what made tokens before still tells what they stand for.
    pub(crate) fn with_each_key(&self) -> impl Iterator<Item = Self> {
        self.rules.key().each().map(|key| Self { key: Some(Arc::new(key)), ..self.clone() })
    }

    /// The names of the rules that apply.
    pub fn rule_names(&self) -> impl Iterator<Item = &str> {
        self.active_rules().map(|(_, rule)| rule.rule.name.as_str())
    }

    /// Whether rules apply that select values of JSON documents.
    pub(crate) fn is_structural(&self) -> bool {
        self.active_rules().any(|(_, rule)| rule.rule.is_structural())
    }

    /// Whether rules apply that may leave no token where a value was: such as drop it, or meet numbers. Those of the packs meet
    /// strings only.
    pub(crate) fn may_leave_no_token(&self) -> bool {
        let packs = [Pack::KubernetesSecrets, Pack::LogsAndExec, Pack::Pii].map(Pack::name);
        self.active_rules().any(|(_, rule)| {
            rule.rule.is_structural() && rule.rule.detectors.is_empty() && !packs.contains(&rule.set.as_str())
        })
    }

    /// Whether rules apply that look into plain text.
    pub(crate) fn covers_text(&self) -> bool {
        self.covers_text
    }

    /// Whether the requested resource itself may be masked: its kind is one that rules name, or somebody's own rules apply, or
    /// nobody knows what it is. Otherwise only what is masked in objects of every kind is: environment values, and the copy
    /// of the object in an annotation.
    pub(crate) fn masks_resource(&self) -> bool {
        let packs = [Pack::KubernetesSecrets.name(), Pack::LogsAndExec.name()];
        !self.decided
            || self.presumed != 0
            || self
                .active_rules()
                .any(|(_, rule)| rule.rule.is_structural() && !packs.contains(&rule.set.as_str()))
    }

    /// Whether an archive may pass where text is looked into.
    pub(crate) fn passes_archives(&self) -> bool {
        self.rules.0.archives == Archives::Pass
    }

    pub(crate) fn passes_content_type(&self, content_type: &str) -> bool {
        self.rules.0.pass_content_types.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => content_type.starts_with(prefix),
            None => content_type == pattern,
        })
    }

    pub(super) fn active_rules(&self) -> impl Iterator<Item = (RuleId, &CompiledRule)> {
        let rules = self.rules.0.rules.iter().enumerate();
        rules.filter(|(id, _)| self.active & (1 << id) != 0).map(|(id, rule)| (id as RuleId, rule))
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.rules.0.limits
    }

    pub(crate) fn is_kubernetes(&self) -> bool {
        self.kubernetes
    }

    pub(crate) fn automaton(&self) -> &Automaton<Accept> {
        &self.rules.0.automaton
    }

    pub(crate) fn is_active(&self, rule: RuleId) -> bool {
        self.active & (1 << rule) != 0
    }

    /// Whether it depends on the object whether a rule applies.
    pub(crate) fn depends_on_object(&self, rule: RuleId) -> bool {
        (self.only_some | self.not_some) & (1 << rule) != 0
    }

    /// Whether a rule applies to an object.
    pub(crate) fn applies_to(&self, rule: RuleId, object: &Object<'_>) -> Said {
        let compiled = &self.rules.0.rules[rule as usize];
        let said = |some: RuleBits, subject: &Option<Subject>, otherwise| match subject {
            Some(subject) if some & (1 << rule) != 0 => subject.covers_object(object),
            _ => otherwise,
        };
        let wanted = said(self.only_some, &compiled.only_for, Said::Yes);
        let exempt = said(self.not_some, &compiled.except, Said::No);
        match (wanted, exempt) {
            (Said::No, _) | (_, Said::Yes) => Said::No,
            (Said::Yes, Said::No) => Said::Yes,
            _ => Said::Depends,
        }
    }

    pub(crate) fn label_matches(&self, label: u8, value: &[u8]) -> bool {
        self.rules.0.labels.matches(label, value)
    }

    /// The rules that mask the values of this key, wherever it stands.
    pub(crate) fn key_rules(&self, key: &[u8], rules: &mut Vec<RuleId>) {
        rules.clear();
        if let Some((globs, owners)) = &self.rules.0.keys {
            rules.extend(globs.which(key).map(|glob| owners[glob]).filter(|rule| self.is_active(*rule)));
            rules.sort_unstable();
            rules.dedup();
        }
    }

    /// Whether rules apply that may mask cells of Tables.
    #[inline]
    pub(crate) fn has_columns(&self) -> bool {
        self.columns != 0
    }

    /// What may happen to the cells of the column of this number and name.
    pub(crate) fn column(&self, number: usize, name: &[u8]) -> ColumnRules {
        let known = self.rules.0.columns.as_ref().filter(|_| self.has_columns());
        known.map(|(columns, _)| columns.rules(number, name).of(self.columns)).unwrap_or_default()
    }

    /// What may happen to a cell, whatever its column.
    pub(crate) fn any_column(&self) -> ColumnRules {
        self.rules.0.columns.as_ref().map(|(columns, _)| columns.all.of(self.columns)).unwrap_or_default()
    }

    /// The bit of Tables.
    pub(crate) fn table_kind(&self) -> u64 {
        self.rules.0.columns.as_ref().map_or(0, |(_, table)| *table)
    }

    /// The same rules, with tokens that do not tell whether two values are equal.
    pub(crate) fn incomparable(&self) -> Self {
        Self { incomparable: true, ..self.clone() }
    }

    /// The bits of a kind: of objects that say `kind`, and of the items of a list that says it.
    pub(crate) fn kind_bits(&self, kind: &[u8]) -> (u64, u64) {
        let kinds = &self.rules.0.kinds;
        let bits = |kind: &[u8]| {
            std::str::from_utf8(kind).ok().and_then(|kind| kinds.get(kind).copied()).unwrap_or_default()
        };
        (bits(kind), kind.strip_suffix(b"List").map(bits).unwrap_or_default())
    }

    /// The answer is of this kind, whatever it says.
    pub(crate) fn presume(&mut self, kind: &str) {
        self.presumed |= self.kind_bits(kind.as_bytes()).0;
    }

    /// The bits of every kind that rules name.
    pub(crate) fn all_kinds(&self) -> u64 {
        self.rules.0.kinds.values().fold(0, |all, bits| all | bits)
    }

    pub(crate) fn clause_matches(&self, clause: u8, value: &[u8]) -> bool {
        self.rules.0.clauses[clause as usize].matches(value)
    }

    pub(crate) fn action(&self, rule: RuleId) -> Action {
        self.rules.0.rules[rule as usize].action()
    }

    pub(crate) fn detectors(&self, rule: RuleId) -> &[Detector] {
        self.rules.0.rules[rule as usize].detectors()
    }

    /// Whether a rule replaces only what is found in a string.
    pub(crate) fn searches(&self, rule: RuleId) -> bool {
        let rule = &self.rules.0.rules[rule as usize];
        !(rule.detectors().is_empty() && rule.patterns.is_empty())
    }

    /// What a rule looks for, if it only searches strings, for what can be told [at a glance](crate::detect::finds).
    #[inline]
    pub(crate) fn glance(&self, rule: RuleId) -> Option<DetectorSet> {
        self.rules.0.rules[rule as usize].glance
    }

    pub(crate) fn holds_unknown(&self, rule: RuleId) -> bool {
        self.rules.0.rules[rule as usize].holds_unknown()
    }

    pub(crate) fn name(&self, rule: RuleId) -> &str {
        &self.rules.0.rules[rule as usize].rule.name
    }

    /// What the tokens of an object are bound to: its UID, or else its namespace and name, or else the request's.
    pub(crate) fn binding(&self, uid: &[u8], namespace: &[u8], name: &[u8]) -> Bytes {
        if !uid.is_empty() {
            return [b"uid".as_slice(), uid].join(&0).into();
        }
        let named = [namespace, name].join(&0);
        let named = if name.is_empty() { &self.bound.name[..] } else { named.as_slice() };
        [b"name".as_slice(), &self.bound.place[..], named].join(&0).into()
    }

    /// Writes the text of a token for a value with this fingerprint.
    fn write_token(
        &self,
        rule: RuleId,
        binding: &[u8],
        path: &[u8],
        value: &Fingerprint,
        token: &mut String,
    ) {
        let name = self.name(rule);
        let (binding, path) = match self.rules.0.rules[rule as usize].compares_everywhere() {
            false if self.incomparable => return token::write_token(token, name, "redacted"),
            true => (&b""[..], &b""[..]),
            false => (binding, path),
        };
        let key = self.key.as_deref().unwrap_or(self.rules.key());
        let digits = key.digits(&[b"value", name.as_bytes(), binding, path, value.bytes()]);
        token::write_token(token, name, digits.as_str());
    }

    /// Writes what a string is replaced with, where the fingerprint or text that the action needs is at hand. Of what is `base64` it is
    /// what the base64 is to stand for. False if nothing stands in its place.
    pub(crate) fn write_replacement(
        &self,
        rule: RuleId,
        base64: bool,
        binding: &[u8],
        path: &[u8],
        value: Value<'_>,
        token: &mut String,
    ) -> bool {
        match (self.action(rule), value) {
            (Action::Drop, _) => return false,
            (Action::Redact, _) => token::write_token(token, self.name(rule), "redacted"),
            (Action::Hash, Value::Fingerprint(value)) => self.write_token(rule, binding, path, value, token),
            (Action::Hash, Value::Text(text)) => {
                self.write_token(rule, binding, path, &Fingerprint::of(text), token);
            }
            (Action::Partial, Value::Text(text)) => *token = self.partial(rule, base64, text),
            (Action::Partial, Value::Fingerprint(_)) => *token = self.partial(rule, base64, b""),
        }
        true
    }

    fn partial(&self, rule: RuleId, base64: bool, text: &[u8]) -> String {
        let decoded = if base64 { STANDARD.decode(text).unwrap_or_default() } else { text.to_vec() };
        let characters: Vec<char> = String::from_utf8(decoded).unwrap_or_default().chars().collect();
        let shown = if characters.len() >= 12 { &characters[characters.len() - 4..] } else { &[] };
        token::token(self.name(rule), &format!("****{}", shown.iter().collect::<String>()))
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.rule_names()).finish()
    }
}

/// What is known of a value that is replaced.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    Fingerprint(&'a Fingerprint),
    Text(&'a [u8]),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MaskConfig, MaskKey, piece::join};

    const CONFIG: &str = "
packs: [known-formats]
rules:
  - { name: all, paths: [a] }
  - { name: prod, resources: [widgets], paths: [a], for: { namespaces: [prod] } }
  - { name: bots, paths: [a], for: { groups: [bots] } }
  - { name: most, paths: [a], except: { users: [ada], groups: [security] } }
  - { name: kept, paths: [a], except: { groups: [security], namespaces: [dev] } }
  - { name: pii, set: pii, paths: [a] }
";

    fn check(namespace: &str, identity: Option<(&str, &str)>, sets: &[&str], expected: &[&str]) {
        let config: MaskConfig = serde_yaml::from_str(CONFIG).unwrap();
        let rules = Rules::new(&config, MaskKey::from_bytes(&[7; 32]).unwrap()).unwrap();
        let info = RequestInfo {
            is_resource_request: true,
            resource: "widgets".into(),
            namespace: namespace.into(),
            ..RequestInfo::default()
        };
        let identity = identity.map(|(user, group)| Identity {
            user: user.into(),
            groups: vec![group.into()],
            ..Identity::default()
        });
        let verdict =
            Verdict { mask_sets: sets.iter().map(|&set| set.to_owned()).collect(), ..Verdict::default() };
        let caller = Caller { identity: identity.as_ref(), verdict: Some(&verdict), ..Caller::default() };
        let scope = rules.scope(&info, caller);
        assert_eq!(scope.rule_names().collect::<Vec<_>>(), expected);
        // Who is shown more than those of whom nothing is known.
        let strictest = rules.scope(&info, Caller::default());
        let spared = strictest.active & !scope.active != 0;
        assert_eq!((scope.shows_more, strictest.shows_more), (spared, false));
    }

    #[test]
    fn patterns_are_looked_for_in_whole_strings() {
        let config = r#"{packs: [], rules: [{name: tickets, paths: [a], patterns: ['TICKET-[0-9]+', '(?s)begin.*end'], detectors: [github]}]}"#;
        let config: MaskConfig = serde_yaml::from_str(config).unwrap();
        let rules = Rules::new(&config, MaskKey::from_bytes(&[7; 32]).unwrap()).unwrap();
        let scope = rules.scope(&RequestInfo::default(), Caller::default());
        let mask = |json: &str| {
            let mut masker = crate::Masker::new(scope.clone());
            let mut pieces = Vec::new();
            masker.push(Bytes::copy_from_slice(json.as_bytes()), &mut pieces).unwrap();
            masker.finish(&mut pieces).unwrap();
            let digits = regex::Regex::new("masked:tickets:[0-9a-f]{16}").unwrap();
            digits.replace_all(std::str::from_utf8(&join(&pieces)).unwrap(), "#").into_owned()
        };
        let token = "ghp_0123456789abcdefghijklmnopqrstuvwxyz";
        assert_eq!(
            mask(&format!(r#"{{"a":"x TICKET-1, {token}","b":"TICKET-1"}}"#)),
            r##"{"a":"x #, #","b":"TICKET-1"}"##
        );
        assert_eq!(mask(r#"{"a":"x begin\n1\nend y"}"#), r##"{"a":"x # y"}"##);
        assert_eq!(mask(r#"{"a":"nothing"}"#), r#"{"a":"nothing"}"#);
        assert_eq!(mask(r#"{"a":17}"#), r#"{"a":17}"#);
    }

    #[test]
    fn patterns_that_cannot_be_used_are_refused() {
        for pattern in ["(", "a*", r"\w{1000}{1000}"] {
            let rule = crate::Rule::new("x").path("a").pattern(pattern);
            let config = MaskConfig { rules: vec![rule], ..MaskConfig::default() };
            let error = Rules::new(&config, MaskKey::from_bytes(&[7; 32]).unwrap()).unwrap_err();
            assert_eq!(error.place(), "rules[0].patterns[0]");
        }
    }

    #[test]
    fn exceptions_from_rules_of_packs_go_by_their_names() {
        let config = |yaml: &str| -> MaskConfig { serde_yaml::from_str(yaml).unwrap() };
        let key = || MaskKey::from_bytes(&[7; 32]).unwrap();
        let rules =
            Rules::new(&config("packExceptions: {secrets: {types: [helm.sh/release.v1]}}"), key()).unwrap();
        let info =
            RequestInfo { is_resource_request: true, resource: "secrets".into(), ..RequestInfo::default() };
        let mask = |kind: &str| {
            let json = format!(r#"{{"kind":"Secret","data":{{"a":"YQ=="}},"type":"{kind}"}}"#);
            let mut masker = crate::Masker::new(rules.scope(&info, Caller::default()));
            let mut pieces = Vec::new();
            masker.push(json.clone().into(), &mut pieces).unwrap();
            masker.finish(&mut pieces).unwrap();
            join(&pieces) == json.as_bytes()
        };
        assert!(mask("helm.sh/release.v1") && !mask("Opaque"));
        let error = Rules::new(&config("packExceptions: {secret: {}}"), key()).unwrap_err();
        assert_eq!(error.place(), "packExceptions.secret");
        assert!(error.to_string().contains("they have secrets, last-applied"), "{error}");
    }

    #[test]
    fn rules_apply_to_whom_they_say() {
        check("prod", Some(("bob", "bots")), &[], &["all", "prod", "bots", "most", "kept"]);
        check("dev", Some(("ada", "staff")), &[], &["all", "kept"]);
        check("dev", Some(("eve", "security")), &[], &["all"]);
        check("prod", Some(("eve", "security")), &[], &["all", "prod", "kept"]);
    }

    #[test]
    fn what_is_not_known_never_exempts() {
        check("", Some(("eve", "security")), &[], &["all", "prod", "kept"]);
        check("dev", None, &[], &["all", "bots", "most", "kept"]);
    }

    #[test]
    fn a_verdict_selects_rule_sets() {
        check("dev", Some(("ada", "staff")), &["pii"], &["pii"]);
        check("dev", Some(("ada", "staff")), &["pii", "default"], &["all", "kept", "pii"]);
        check("dev", Some(("ada", "staff")), &["no-such-set"], &["all", "kept", "pii"]);
        // It exists, under the name that it has now; none of its rules is for widgets.
        check("dev", Some(("ada", "staff")), &["known-formats"], &[]);
    }
}
