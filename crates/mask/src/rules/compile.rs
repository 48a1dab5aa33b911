//! Rules as masking uses them: checked once, at load, into one automaton.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use portcullis_core::RequestInfo;
use regex::bytes::{Regex, RegexBuilder};

use super::{
    Action, Caller, Limits, MaskConfig, Pack, Rule, Scope, Subjects,
    automaton::Automaton,
    columns::{ColumnNames, Columns, resource_of},
    config::{Archives, Compare, OnWrite, WhenUnknown},
    glob::Globs,
    path::{Step, parse},
    subject::{Labels, Said, Subject},
};
use crate::{ConfigError, Detector, MaskKey, detect::DetectorSet};

/// A rule's place in the order of rules.
pub(crate) type RuleId = u8;

/// A set of rules, one bit each.
pub(crate) type RuleBits = u128;

/// Rules, compiled. Cheap to clone.
#[derive(Clone)]
pub struct Rules(pub(super) Arc<Compiled>);

pub(super) struct Compiled {
    pub(super) rules: Vec<CompiledRule>,
    pub(super) automaton: Automaton<Accept>,
    pub(super) clauses: Vec<Globs>,
    /// All `keys` of all rules, and which rule each belongs to.
    pub(super) keys: Option<(Globs, Vec<RuleId>)>,
    /// The columns of Tables that rules speak of, and which kind's bit is Table's.
    pub(super) columns: Option<(Columns, u64)>,
    /// One bit per kind that rules name.
    pub(super) kinds: HashMap<String, u64>,
    pub(super) labels: Labels,
    pub(super) key: MaskKey,
    pub(super) on_write: OnWrite,
    pub(super) archives: Archives,
    pub(super) limits: Limits,
    pub(super) pass_content_types: Vec<String>,
}

pub(super) struct CompiledRule {
    pub(super) rule: Rule,
    pub(super) set: String,
    /// Whether the set applies when a verdict names none.
    pub(super) default: bool,
    pub(super) kinds: u64,
    pub(super) only_for: Option<Subject>,
    pub(super) except: Option<Subject>,
    pub(super) patterns: Vec<Regex>,
    /// What it looks for, if that is all it does, and all of it can be told at a glance.
    pub(super) glance: Option<DetectorSet>,
}

/// What a path stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Accept {
    /// The value is masked by a rule.
    Mask {
        rule: RuleId,
        base64: bool,
        anchor: Anchor,
        /// Only if the anchor is of one of the rule's kinds.
        kinds: u64,
        /// Only if the sibling that this clause names matches.
        clause: Option<u8>,
        /// Only in answers of the Kubernetes API.
        kubernetes: bool,
        /// Only if the value holds no others: the path is for what it should hold.
        leaf: bool,
    },
    /// The value is a string that holds JSON.
    Json {
        rule: RuleId,
        up: u8,
    },
    /// The value is what a clause looks at.
    Sibling(u8),
    /// A Kubernetes object stands here: the answer itself, or an item of its list, table or watch.
    Object,
    /// An item of what may be a list.
    ListItem,
    /// The value is its object's `kind`.
    Kind,
    /// The value is its object's `metadata`.
    Metadata,
    /// The value is the `uid`, `name` or `namespace` of the object two levels up.
    Uid,
    Name,
    Namespace,
    /// The value is its object's `type`.
    Type,
    /// What may be a Table: the answer, or a watch event's object.
    Table,
    /// The definition of a Table's column, and its name.
    Column,
    ColumnName,
    /// A Table's cell.
    Cell,
    /// The value is a label, of this number, of the object three levels up.
    Label(u8),
}

/// To which object a masked value belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Anchor {
    /// The container so many levels above the value.
    Up(u8),
    /// The nearest Kubernetes object, or else the document.
    Object,
}

/// Where Kubernetes objects stand in an answer: by itself, in a list, a table, a watch event.
const OBJECT_PLACES: [&str; 6] =
    ["", "items[*]", "rows[*].object", "object", "object.items[*]", "object.rows[*].object"];

/// Where a Table stands in an answer.
const TABLE_PLACES: [&str; 2] = ["", "object"];

impl Rules {
    /// Compiles a configuration.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] says which part cannot be used, and why.
    pub fn new(config: &MaskConfig, key: MaskKey) -> Result<Self, ConfigError> {
        let mut rules = Vec::new();
        for (index, rule) in config.rules.iter().enumerate() {
            let set = rule.set.clone().unwrap_or_else(|| "default".to_owned());
            rules.push((format!("rules[{index}]"), set, rule.set.is_none(), rule.clone()));
        }
        let first_of_packs = rules.len();
        for pack in &config.packs {
            for rule in pack.rules()? {
                rules.push((pack.name().to_owned(), pack.name().to_owned(), true, rule));
            }
        }
        except_from_packs(&mut rules[first_of_packs..], &config.pack_exceptions)?;
        let mut compiler = Compiler::default();
        let mut compiled = Vec::with_capacity(rules.len());
        for (place, set, default, rule) in rules {
            let kinds = compiler.add(&place, &rule, compiled.len())?;
            let only_for = compiler.subject(&format!("{place}.for"), &rule.only_for)?;
            let except = compiler.subject(&format!("{place}.except"), &rule.except)?;
            let patterns = patterns(&place, &rule)?;
            let streams = rule.detectors.iter().all(|detector| detector.streams());
            let glance = (!rule.detectors.is_empty() && streams && patterns.is_empty())
                .then(|| rule.detectors.iter().copied().collect());
            compiled.push(CompiledRule { rule, set, default, kinds, only_for, except, patterns, glance });
        }
        compiler.patterns_of_kubernetes();
        let columns = compiler.columns()?;
        let automaton = Automaton::new(&compiler.patterns)
            .map_err(|_| ConfigError::new("rules", "the paths are too many together: use fewer `**`"))?;
        let keys = match compiler.keys.is_empty() {
            true => None,
            false => {
                let (patterns, owners): (Vec<_>, Vec<_>) = compiler.keys.into_iter().unzip();
                Some((Globs::new("keys", &patterns)?, owners))
            }
        };
        Ok(Self(Arc::new(Compiled {
            rules: compiled,
            automaton,
            clauses: compiler.clauses,
            keys,
            columns,
            kinds: compiler.kinds,
            labels: compiler.labels,
            key,
            on_write: config.on_write,
            archives: config.archives,
            limits: config.limits.clone(),
            pass_content_types: config.pass_content_types.clone(),
        })))
    }

    /// What of the rules applies to a request.
    pub fn scope(&self, info: &RequestInfo, caller: Caller<'_>) -> Scope {
        Scope::new(self, info, caller)
    }

    /// Whether a rule set of this name exists: what policy names should.
    pub fn has_set(&self, name: &str) -> bool {
        self.0.rules.iter().any(|rule| rule.set == Pack::current_set(name))
    }

    /// The limits they were made with.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// What happens to writes that carry tokens.
    pub(crate) fn on_write(&self) -> OnWrite {
        self.0.on_write
    }

    pub(crate) fn key(&self) -> &MaskKey {
        &self.0.key
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.rules.iter().map(|rule| &rule.rule.name)).finish()
    }
}

impl Pack {
    pub(super) fn rules(self) -> Result<Vec<Rule>, ConfigError> {
        serde_yaml::from_str(self.source())
            .map_err(|error| ConfigError::new(self.name(), format!("the pack is broken: {error}")))
    }
}

/// Makes exceptions from rules of packs: beside their names, these are what a rule of one's own would say.
fn except_from_packs(
    rules: &mut [(String, String, bool, Rule)],
    exceptions: &BTreeMap<String, Subjects>,
) -> Result<(), ConfigError> {
    for (name, except) in exceptions {
        match rules.iter_mut().find(|(.., rule)| rule.name == *name) {
            Some((place, _, _, rule)) => {
                *place = format!("packExceptions.{name}");
                rule.except = except.clone();
            }
            None => {
                let known: Vec<_> = rules.iter().map(|(.., rule)| rule.name.as_str()).collect();
                let message = format!("no pack in force has such a rule; they have {}", known.join(", "));
                return Err(ConfigError::new(format!("packExceptions.{name}"), message));
            }
        }
    }
    Ok(())
}

/// How much memory one pattern may take, compiled.
const PATTERN_BYTES: usize = 1 << 20;

fn patterns(place: &str, rule: &Rule) -> Result<Vec<Regex>, ConfigError> {
    let compile = |(number, pattern): (usize, &String)| {
        let wrong = |message: String| ConfigError::new(format!("{place}.patterns[{number}]"), message);
        let compiled = RegexBuilder::new(pattern)
            .size_limit(PATTERN_BYTES)
            .dfa_size_limit(PATTERN_BYTES)
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        match compiled.is_match(b"") {
            true => Err(wrong("it matches nothing at all, which is everywhere".to_owned())),
            false => Ok(compiled),
        }
    };
    rule.patterns.iter().enumerate().map(compile).collect()
}

#[derive(Default)]
struct Compiler {
    patterns: Vec<(Vec<Step>, Accept)>,
    clauses: Vec<Globs>,
    keys: Vec<(String, RuleId)>,
    columns: ColumnNames,
    kinds: HashMap<String, u64>,
    labels: Labels,
    /// Whether any rule asks for an object's type.
    types: bool,
}

impl Compiler {
    /// Adds a rule, and gives the bits of its kinds.
    fn add(&mut self, place: &str, rule: &Rule, index: usize) -> Result<u64, ConfigError> {
        let wrong = |what: &str, message: &str| ConfigError::new(format!("{place}.{what}"), message);
        let id = RuleId::try_from(index)
            .ok()
            .filter(|id| u32::from(*id) < RuleBits::BITS)
            .ok_or_else(|| wrong("name", "there are more than 128 rules"))?;
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if rule.name.is_empty()
            || rule.name.len() > 63
            || !rule.name.chars().all(label)
            || rule.name.starts_with('-')
        {
            return Err(wrong("name", "must be a DNS label: lower-case letters, digits and `-`"));
        }
        if !rule.is_structural() && rule.detectors.is_empty() && rule.patterns.is_empty() {
            let message =
                "the rule selects nothing: give `paths`, `keys`, `columns`, `detectors` or `patterns`";
            return Err(wrong("paths", message));
        }
        if !rule.is_structural() && !rule.detectors.iter().all(|detector| detector.streams()) {
            return Err(wrong("detectors", "`echoed-…` works on whole strings only: give `paths`"));
        }
        if !rule.kinds.is_empty() && !rule.keys.is_empty() {
            return Err(wrong("keys", "cannot be combined with `kinds`: use `paths`, or `resources`"));
        }
        let mut kinds = 0;
        for kind in &rule.kinds {
            kinds |= self.kind(kind).ok_or_else(|| wrong("kinds", "more than 64 kinds in all rules"))?;
        }
        let clause = match &rule.clause {
            None => None,
            Some(clause) => {
                self.clauses.push(Globs::new(&format!("{place}.where.matches"), &clause.matches)?);
                let number = u8::try_from(self.clauses.len() - 1).ok().filter(|number| *number < 32);
                Some(number.ok_or_else(|| wrong("where", "more than 32 rules with `where`"))?)
            }
        };
        for (what, paths, base64) in
            [("paths", &rule.paths, false), ("base64Paths", &rule.base64_paths, true)]
        {
            for (number, path) in paths.iter().enumerate() {
                let place = format!("{place}.{what}[{number}]");
                let steps = parse(path).map_err(|error| ConfigError::new(&place, error.to_string()))?;
                // What should be a map of secrets, and is a list of them, or one itself: a server refuses it, but what was sent is kept.
                if let [before @ .., Step::Key(_), Step::AnyKey] = steps.as_slice() {
                    let map = steps[..=before.len()].to_vec();
                    let list = [map.as_slice(), &[Step::AnyIndex]].concat();
                    self.path(&place, rule, id, map, base64, kinds, clause, true)?;
                    self.path(&place, rule, id, list, base64, kinds, clause, false)?;
                }
                self.path(&place, rule, id, steps, base64, kinds, clause, false)?;
            }
        }
        for (number, path) in rule.json_paths.iter().enumerate() {
            let place = format!("{place}.jsonPaths[{number}]");
            let steps = parse(path).map_err(|error| ConfigError::new(&place, error.to_string()))?;
            let up = fixed_depth(&place, &steps)?;
            self.patterns.push((anywhere(steps), Accept::Json { rule: id, up }));
        }
        self.keys.extend(rule.keys.iter().map(|key| (key.clone(), id)));
        self.columns.add(place, rule, id)?;
        Ok(kinds)
    }

    fn subject(&mut self, place: &str, subjects: &Subjects) -> Result<Option<Subject>, ConfigError> {
        if subjects.is_empty() {
            return Ok(None);
        }
        let subject = Subject::new(place, subjects, &mut self.labels)?;
        self.types |= subject.has_types();
        Ok(Some(subject))
    }

    #[expect(clippy::too_many_arguments, reason = "one place calls it, with what it has just worked out")]
    fn path(
        &mut self,
        place: &str,
        rule: &Rule,
        id: RuleId,
        steps: Vec<Step>,
        base64: bool,
        kinds: u64,
        clause: Option<u8>,
        leaf: bool,
    ) -> Result<(), ConfigError> {
        let beside = match (&rule.clause, clause, steps.last()) {
            (Some(wanted), Some(number), Some(Step::Key(_))) => {
                let mut beside = steps.clone();
                beside.pop();
                beside.push(Step::Key(wanted.sibling.clone()));
                Some((beside, Accept::Sibling(number)))
            }
            (Some(_), ..) => {
                return Err(ConfigError::new(place, "with `where`, a path must end in a name"));
            }
            _ => None,
        };
        if kinds != 0 {
            let anchor = Anchor::Up(fixed_depth(place, &steps)?);
            let accept = Accept::Mask { rule: id, base64, anchor, kinds, clause, kubernetes: true, leaf };
            self.patterns.push((anywhere(steps), accept));
            self.patterns.extend(beside.map(|(steps, accept)| (anywhere(steps), accept)));
            return Ok(());
        }
        // Outside Kubernetes a path starts at the document; inside, at each object of the answer.
        let floats = steps.first() == Some(&Step::AnyDepth);
        for prefix in OBJECT_PLACES.iter().take(if floats { 1 } else { OBJECT_PLACES.len() }) {
            let kubernetes = !prefix.is_empty();
            let anchor = Anchor::Object;
            let accept = Accept::Mask { rule: id, base64, anchor, kinds, clause, kubernetes, leaf };
            self.patterns.push((prefixed(prefix, &steps), accept));
            self.patterns.extend(beside.as_ref().map(|(steps, accept)| (prefixed(prefix, steps), *accept)));
        }
        Ok(())
    }

    /// The bit of a kind.
    fn kind(&mut self, kind: &str) -> Option<u64> {
        let next = self.kinds.len() as u32;
        match self.kinds.get(kind) {
            Some(bit) => Some(*bit),
            None => {
                let bit = 1u64.checked_shl(next)?;
                self.kinds.insert(kind.to_owned(), bit);
                Some(bit)
            }
        }
    }

    /// What must be read of a Table, if any rule speaks of columns.
    fn columns(&mut self) -> Result<Option<(Columns, u64)>, ConfigError> {
        let names = std::mem::take(&mut self.columns);
        if names.is_empty() {
            return Ok(None);
        }
        for place in TABLE_PLACES {
            for (path, accept) in [
                ("", Accept::Table),
                ("columnDefinitions[*]", Accept::Column),
                ("columnDefinitions[*].name", Accept::ColumnName),
                ("rows[*].cells[*]", Accept::Cell),
            ] {
                self.patterns.push((prefixed(place, &prefixed(path, &[])), accept));
            }
        }
        let table = self.kind("Table");
        let table = table.ok_or_else(|| ConfigError::new("rules", "more than 64 kinds in all rules"))?;
        Ok(Some((names.compile()?, table)))
    }

    /// What must be read of any Kubernetes object to know which it is.
    fn patterns_of_kubernetes(&mut self) {
        for place in OBJECT_PLACES {
            self.patterns.push((prefixed(place, &[]), Accept::Object));
        }
        for (path, accept) in [
            ("**.items[*]", Accept::ListItem),
            ("**.kind", Accept::Kind),
            ("**.metadata", Accept::Metadata),
            ("**.metadata.uid", Accept::Uid),
            ("**.metadata.name", Accept::Name),
            ("**.metadata.namespace", Accept::Namespace),
        ] {
            self.patterns.push((prefixed(path, &[]), accept));
        }
        if self.types {
            self.patterns.push((prefixed("**.type", &[]), Accept::Type));
        }
        for (number, label) in self.labels.names() {
            let step = Step::Key(label.to_owned());
            self.patterns.push((prefixed("**.metadata.labels", &[step]), Accept::Label(number)));
        }
    }
}

fn prefixed(prefix: &str, steps: &[Step]) -> Vec<Step> {
    let mut path = parse(prefix).unwrap_or_default();
    path.extend_from_slice(steps);
    path
}

fn anywhere(mut steps: Vec<Step>) -> Vec<Step> {
    steps.insert(0, Step::AnyDepth);
    steps
}

/// The length of a path that starts at an object found anywhere: without `**`, so that it is clear which object.
fn fixed_depth(place: &str, steps: &[Step]) -> Result<u8, ConfigError> {
    if steps.contains(&Step::AnyDepth) {
        let message = "a rule for `kinds`, and a JSON path, cannot use `**`; rules for `resources` can";
        return Err(ConfigError::new(place, message));
    }
    if steps.first() == Some(&Step::AnyIndex) {
        return Err(ConfigError::new(place, "an object's path starts with a name"));
    }
    u8::try_from(steps.len()).map_err(|_| ConfigError::new(place, "the path is too long"))
}

impl CompiledRule {
    /// Whether it applies where nobody knows who asks: then it is as strict as it can be.
    pub(super) fn applies_to_anybody(&self, info: &RequestInfo) -> bool {
        let said = |subject: &Option<Subject>, otherwise, unknown| {
            subject.as_ref().map_or(otherwise, |subject| subject.covers(info, None, None, unknown))
        };
        said(&self.only_for, Said::Yes, true) != Said::No && said(&self.except, Said::No, false) != Said::Yes
    }

    /// Whether it holds for what is plain to see of a request: its resource or path.
    pub(super) fn names(&self, info: &RequestInfo) -> bool {
        let rule = &self.rule;
        if info.is_resource_request {
            return rule.resources.iter().any(|pattern| resource_matches(pattern, info))
                || (rule.resources.is_empty() && rule.kinds.is_empty() && rule.urls.is_empty());
        }
        if rule.urls.is_empty() {
            return rule.resources.is_empty() && rule.kinds.is_empty();
        }
        rule.urls.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => info.path.starts_with(prefix),
            None => info.path == *pattern,
        })
    }

    /// Whether rows of a Table that answers a request may show what it masks. Rows do not say their kind: a rule that goes by
    /// kinds alone is for those of the resource that the kind is called after, and, unless it lets pass what is unknown, of
    /// every resource that is not `known` to be another.
    pub(super) fn may_be_in_rows(&self, info: &RequestInfo, known: bool) -> bool {
        let rule = &self.rule;
        self.names(info)
            || (info.is_resource_request
                && rule.resources.is_empty()
                && rule.urls.is_empty()
                && ((!known && self.holds_unknown())
                    || rule.kinds.iter().any(|kind| resource_of(kind) == info.resource)))
    }

    pub(super) fn action(&self) -> Action {
        self.rule.action
    }

    /// Whether its tokens say nothing of where a value stands.
    pub(super) fn compares_everywhere(&self) -> bool {
        self.rule.compare == Compare::Everywhere
    }

    pub(super) fn detectors(&self) -> &[Detector] {
        &self.rule.detectors
    }

    pub(super) fn holds_unknown(&self) -> bool {
        self.rule.when_unknown == WhenUnknown::Hold
    }
}

/// Subresources that show something else than the object.
const APART: [&str; 5] = ["log", "exec", "attach", "portforward", "proxy"];

fn resource_matches(pattern: &str, info: &RequestInfo) -> bool {
    // Most are for something else, which is seen at once.
    if !pattern.starts_with('*') && !pattern.starts_with(info.resource.as_str()) {
        return false;
    }
    let (resource, subresource) = match pattern.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource)),
        None => (pattern, None),
    };
    let (resource, group) = match resource.split_once('.') {
        Some((resource, group)) => (resource, Some(group)),
        None => (resource, None),
    };
    let is = |pattern: &str, value: &str| pattern == "*" || pattern == value;
    is(resource, &info.resource)
        && group.is_none_or(|group| is(group, &info.api_group))
        && match subresource {
            Some(subresource) => is(subresource, &info.subresource),
            None => !APART.contains(&info.subresource.as_str()),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str, expected: Option<&str>) {
        let config: MaskConfig = serde_yaml::from_str(yaml).unwrap();
        let found = Rules::new(&config, MaskKey::from_bytes(&[1; 32]).unwrap()).err();
        assert_eq!(found.map(|error| error.to_string()).as_deref(), expected, "{yaml}");
    }

    #[test]
    fn the_packs_compile() {
        check("{}", None);
        check("packs: []", None);
    }

    #[test]
    fn mistakes_name_their_place() {
        check(
            "rules: [{name: A, paths: [a]}]",
            Some("rules[0].name: must be a DNS label: lower-case letters, digits and `-`"),
        );
        check(
            "rules: [{name: a}]",
            Some(
                "rules[0].paths: the rule selects nothing: give `paths`, `keys`, `columns`, `detectors` or `patterns`",
            ),
        );
        check(
            "rules: [{name: a, paths: [a, 'b..c']}]",
            Some("rules[0].paths[1]: expected a name, `*` or `**` at character 3"),
        );
        check(
            "rules: [{name: a, kinds: [X], paths: ['a.**.b']}]",
            Some(
                "rules[0].paths[0]: a rule for `kinds`, and a JSON path, cannot use `**`; rules for `resources` can",
            ),
        );
        check(
            "rules: [{name: a, detectors: [echoed-json]}]",
            Some("rules[0].detectors: `echoed-…` works on whole strings only: give `paths`"),
        );
        check(
            "rules: [{name: a, paths: ['a.*'], where: {sibling: n, matches: [x]}}]",
            Some("rules[0].paths[0]: with `where`, a path must end in a name"),
        );
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(serde_yaml::from_str::<MaskConfig>("rules: [{name: a, path: [a]}]").is_err());
        assert!(serde_yaml::from_str::<MaskConfig>("rule: []").is_err());
    }

    #[test]
    fn resources_are_matched_with_group_and_subresource() {
        let info = |group: &str, resource: &str, subresource: &str| RequestInfo {
            is_resource_request: true,
            api_group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            ..RequestInfo::default()
        };
        for (pattern, group, resource, subresource, expected) in [
            ("secrets", "", "secrets", "", true),
            ("secrets", "", "configmaps", "", false),
            ("pods", "", "pods", "status", true),
            ("pods", "", "pods", "log", false),
            ("pods/log", "", "pods", "log", true),
            ("deployments.apps", "apps", "deployments", "", true),
            ("deployments.apps", "other", "deployments", "", false),
            ("*", "x.io", "widgets", "", true),
            ("*", "", "pods", "proxy", false),
            ("*/proxy", "", "services", "proxy", true),
        ] {
            let found = resource_matches(pattern, &info(group, resource, subresource));
            assert_eq!(found, expected, "{pattern} on {group} {resource}/{subresource}");
        }
    }
}
