//! What is looked for in plain text, and what stands in the place of what is found.

use bytes::Bytes;

use super::{RuleId, Scope, Value};
use crate::{
    detect::{Detector, DetectorSet, echoes, finds},
    piece::join,
    text::TextScan,
    token,
};

/// What is looked for in a text, and which rule answers for it.
#[derive(Clone)]
pub(crate) struct TextPlan {
    scope: Scope,
    /// `None` where no rule asks for it: in copies of requests, which are searched for everything.
    rules: Vec<(Detector, Option<RuleId>)>,
    /// The rules whose patterns are looked for.
    patterns: Vec<RuleId>,
    binding: Bytes,
    counts: Vec<(RuleId, u64)>,
}

impl TextPlan {
    /// Whether nothing is looked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.patterns.is_empty()
    }

    /// What is looked for by its format or shape.
    pub(crate) fn detectors(&self) -> DetectorSet {
        self.rules.iter().map(|(detector, _)| *detector).collect()
    }

    /// Whether text is looked at line by line.
    pub(crate) fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Replaces what patterns match.
    pub(crate) fn replace_patterns(&mut self, text: Bytes) -> Bytes {
        let (scope, patterns) = (self.scope.clone(), std::mem::take(&mut self.patterns));
        let masked = replace_patterns(&scope, &patterns, text, |rule, secret| self.value(rule, secret));
        self.patterns = patterns;
        masked
    }

    /// What stands for a line that is too long to be looked at.
    pub(crate) fn overlong(&mut self) -> String {
        let Some(rule) = self.patterns.first().copied() else { return String::new() };
        self.count(rule);
        token::token(self.scope.name(rule), "redacted")
    }

    fn value(&mut self, rule: RuleId, secret: &[u8]) -> String {
        self.count(rule);
        let value = Value::Text(secret);
        let mut token = String::new();
        self.scope.write_replacement(rule, false, &self.binding, b"text", value, &mut token);
        token
    }

    pub(crate) fn looks_for(&self, detector: Detector) -> bool {
        self.owner(detector).is_some()
    }

    /// What a secret is replaced with.
    pub(crate) fn replacement(&mut self, detector: Detector, secret: &[u8]) -> String {
        match self.owner(detector) {
            Some(Some(rule)) => self.value(rule, secret),
            Some(None) => self.scope.copy_token(secret),
            None => String::new(),
        }
    }

    /// What a secret is replaced with that is not read to its end.
    pub(crate) fn redacted(&mut self, detector: Detector) -> String {
        match self.owner(detector) {
            Some(Some(rule)) => {
                self.count(rule);
                token::token(self.scope.name(rule), "redacted")
            }
            Some(None) => token::token(COPY, "redacted"),
            None => String::new(),
        }
    }

    /// How many values each rule replaced since this was last asked.
    pub(crate) fn take_counts(&mut self) -> Vec<(String, u64)> {
        let named = |(rule, count)| (self.scope.name(rule).to_owned(), count);
        std::mem::take(&mut self.counts).into_iter().map(named).collect()
    }

    fn owner(&self, detector: Detector) -> Option<Option<RuleId>> {
        self.rules.iter().find(|(known, _)| *known == detector).map(|(_, rule)| *rule)
    }

    fn count(&mut self, rule: RuleId) {
        match self.counts.iter_mut().find(|(known, _)| *known == rule) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((rule, 1)),
        }
    }
}

/// Replaces what the patterns of these rules match, each match once: where two overlap, all of both goes.
fn replace_patterns(
    scope: &Scope,
    rules: &[RuleId],
    text: Bytes,
    mut replacement: impl FnMut(RuleId, &[u8]) -> String,
) -> Bytes {
    let mut found: Vec<(std::ops::Range<usize>, RuleId)> = Vec::new();
    for rule in rules {
        for pattern in &scope.rules.0.rules[*rule as usize].patterns {
            let matches = pattern.find_iter(&text).filter(|matched| !matched.is_empty());
            found.extend(matches.map(|matched| (matched.range(), *rule)));
        }
    }
    if found.is_empty() {
        return text;
    }
    found.sort_by_key(|(range, _)| range.start);
    let mut masked = Vec::with_capacity(text.len());
    let mut done = 0;
    let mut found = found.into_iter().peekable();
    while let Some((mut range, rule)) = found.next() {
        while let Some((more, _)) = found.next_if(|(more, _)| more.start < range.end) {
            range.end = range.end.max(more.end);
        }
        masked.extend_from_slice(&text[done..range.start]);
        masked.extend_from_slice(replacement(rule, &text[range.clone()]).as_bytes());
        done = range.end;
    }
    masked.extend_from_slice(&text[done..]);
    masked.into()
}

impl Scope {
    /// Replaces what a rule's patterns and detectors find in a string; `None` if nothing was found.
    pub(crate) fn redact_text(&self, rule: RuleId, text: &str, binding: &Bytes) -> Option<(String, u64)> {
        if self.glance(rule).is_some_and(|wanted| !finds(text.as_bytes(), wanted)) {
            return None;
        }
        let plan = self.detectors(rule).iter().map(|detector| (*detector, Some(rule))).collect();
        let patterns = vec![rule];
        let binding = binding.clone();
        let mut plan = TextPlan { scope: self.clone(), rules: plan, patterns, binding, counts: Vec::new() };
        // What people have described themselves goes first: in tokens it is not to be found.
        let text = plan.replace_patterns(Bytes::copy_from_slice(text.as_bytes()));
        plan.patterns.clear();
        // Formats first: they know where a secret ends. What merely looks encoded may be part of one, and would hide the rest.
        let mut scan = TextScan::new(TextPlan { counts: Vec::new(), ..plan.clone() });
        let mut pieces = Vec::new();
        scan.whole(text, &mut pieces);
        let mut redacted = String::from_utf8_lossy(&join(&pieces)).into_owned();
        for detector in self.detectors(rule).iter().copied().filter(|detector| !detector.streams()) {
            for range in echoes(&redacted, detector).into_iter().rev() {
                let token = plan.replacement(detector, &redacted.as_bytes()[range.clone()]);
                redacted.replace_range(range, &token);
            }
        }
        let counts = scan.take_counts().into_iter().chain(plan.take_counts());
        let count = counts.map(|(_, count)| count).sum();
        (count > 0).then_some((redacted, count))
    }

    /// A message of a server, such as a warning, with what it may echo replaced.
    pub(crate) fn redact_message(&self, text: &str) -> (String, Vec<(String, u64)>) {
        let mut redacted = text.to_owned();
        let mut counts = Vec::new();
        for (id, rule) in self.active_rules().filter(|(id, _)| self.searches(*id)) {
            if let Some((better, count)) = self.redact_text(id, &redacted, &self.binding(b"", b"", b"")) {
                redacted = better;
                counts.push((rule.rule.name.clone(), count));
            }
        }
        (redacted, counts)
    }

    /// What is looked for in plain text. With `messages`, also what rules look for in strings.
    pub(crate) fn text_plan(&self, messages: bool) -> TextPlan {
        let mut rules: Vec<(Detector, Option<RuleId>)> = Vec::new();
        let mut patterns = Vec::new();
        for (id, rule) in self.active_rules().filter(|(_, rule)| messages || !rule.rule.is_structural()) {
            if !rule.patterns.is_empty() {
                patterns.push(id);
            }
            for detector in rule.detectors().iter().filter(|detector| detector.streams()) {
                if !rules.iter().any(|(known, _)| known == detector) {
                    rules.push((*detector, Some(id)));
                }
            }
        }
        let binding = self.binding(b"", b"", b"");
        TextPlan { scope: self.clone(), rules, patterns, binding, counts: Vec::new() }
    }
}

/// What stands in tokens for a rule, in copies of requests, where no rule but prudence masks.
const COPY: &str = "request";

impl Scope {
    /// For copies of requests: all that is a credential is looked for.
    pub(crate) fn copy_plan(&self) -> TextPlan {
        let rules = Detector::of_credentials().map(|detector| (detector, None)).collect();
        let (scope, patterns) = (self.clone(), Vec::new());
        TextPlan { scope, rules, patterns, binding: Bytes::new(), counts: Vec::new() }
    }

    /// Replaces, in a copy of a request, what the patterns of any rule match.
    pub(crate) fn replace_patterns_in_copy(&self, text: Bytes) -> Bytes {
        let rules = self.rules.0.rules.iter().enumerate();
        let patterns = rules.filter(|(_, rule)| !rule.patterns.is_empty()).map(|(id, _)| id as RuleId);
        replace_patterns(self, &patterns.collect::<Vec<_>>(), text, |_, secret| self.copy_token(secret))
    }

    /// What stands for a value in a copy of a request.
    pub(crate) fn copy_token(&self, value: &[u8]) -> String {
        let binding = self.binding(b"", b"", b"");
        token::token(COPY, self.rules.key().digits(&[b"copy", &binding, value]).as_str())
    }
}
