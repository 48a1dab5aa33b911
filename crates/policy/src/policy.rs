//! A compiled policy: which rule decides about a request.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use portcullis_core::{Approvers, Decision, HoldTerms, Refusal, Verdict};

use crate::{
    config::{ActionName, ApproversConfig, DefaultAction, HoldConfig, MatchConfig, PolicyConfig, RuleConfig},
    error::PolicyError,
    expression::Expression,
    facts::Facts,
    matching::{Applies, applies},
    text::closest,
};

const BASELINE: &str = include_str!("baseline.yaml");
const BASELINE_PREFIX: &str = "baseline/";

/// How long a name in a policy may be; names go into every record and refusal.
const LONGEST_NAME: usize = 100;

/// The rules that decide about requests, checked and ready.
///
/// The policy's own rules come first, in order; the first that matches decides. What they allow, and what none of them
/// matches, the baseline judges; then `default`.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    baseline: Vec<Rule>,
    default: DefaultAction,
}

#[derive(Clone, Debug)]
struct Rule {
    name: String,
    matches: MatchConfig,
    when: Option<Expression>,
    action: ActionName,
    decision: Decision,
    message: Option<String>,
    mask: Vec<String>,
    overrides: Vec<String>,
}

/// Why there is no verdict (yet).
#[derive(Debug)]
#[non_exhaustive]
pub enum Unjudged {
    /// A rule must see the body first.
    NeedsBody,
    /// A rule must see the body, and nobody can read it in one way only.
    Refused(Refusal),
}

impl Policy {
    /// Reads a policy from YAML.
    ///
    /// # Errors
    ///
    /// What is wrong, with line and column.
    pub fn from_yaml(yaml: &str) -> Result<Self, PolicyError> {
        let config = serde_yaml::from_str(yaml).map_err(|error| PolicyError::from_yaml(&error))?;
        Self::compile(config).map_err(|error| error.locate_in(yaml))
    }

    /// Checks and compiles a policy that something else has read.
    ///
    /// # Errors
    ///
    /// What is wrong, and in which rule.
    pub fn compile(config: PolicyConfig) -> Result<Self, PolicyError> {
        let pack: PolicyConfig =
            serde_yaml::from_str(BASELINE).map_err(|error| PolicyError::from_yaml(&error))?;
        let known: Vec<String> = pack.rules.iter().map(|rule| rule.name.clone()).collect();
        for (n, name) in config.baseline.disable.iter().enumerate() {
            let wrong = |error| PolicyError::new(error).at(format!("baseline.disable.{n}"));
            check_baseline_name(name, &known).map_err(wrong)?;
        }
        let mut names = BTreeSet::new();
        let mut rules = Vec::with_capacity(config.rules.len());
        for rule in config.rules {
            let wrong = |field: String, message: String| PolicyError::in_rule(&rule.name, message).at(field);
            if rule.name.starts_with(BASELINE_PREFIX) {
                return Err(wrong("name".into(), "names with baseline/ are the built-in rules'".into()));
            }
            if !names.insert(rule.name.clone()) {
                return Err(wrong("name".into(), "another rule has the same name".into()));
            }
            for (n, name) in rule.overrides.iter().enumerate() {
                check_baseline_name(name, &known).map_err(|error| wrong(format!("overrides.{n}"), error))?;
            }
            rules.push(Rule::compile(rule, &config.approvers)?);
        }
        let baseline = pack
            .rules
            .into_iter()
            .filter(|rule| config.baseline.enabled && !config.baseline.disable.contains(&rule.name))
            .map(|rule| Rule::compile(without_nobody(rule, &config.approvers), &config.approvers))
            .collect::<Result<_, _>>()?;
        Ok(Self { rules, baseline, default: config.default })
    }

    /// Decides about a request.
    ///
    /// # Errors
    ///
    /// [`Unjudged::NeedsBody`] when a rule must see the body, and nobody has read it: read it, and ask again.
    pub fn judge(&self, facts: &Facts<'_>) -> Result<Verdict, Unjudged> {
        let own = first_match(self.rules.iter(), facts)?;
        let allowed = match own {
            Some((rule, unsure)) if rule.action != ActionName::Allow => return Ok(rule.verdict(unsure)),
            own => own.map(|(rule, _)| rule),
        };
        let overridden = allowed.map_or(&[][..], |rule| &rule.overrides[..]);
        let pack = self.baseline.iter().filter(|rule| !overridden.contains(&rule.name));
        if let Some((rule, unsure)) = first_match(pack, facts)? {
            let mut verdict = rule.verdict(unsure);
            verdict.mask_sets = allowed.map(|rule| rule.mask.clone()).unwrap_or_default();
            return Ok(verdict);
        }
        Ok(match (allowed, self.default) {
            (Some(rule), _) => rule.verdict(None),
            (None, DefaultAction::Allow) => Verdict::default(),
            (None, DefaultAction::Deny) => Verdict {
                decision: Decision::Deny,
                rule: None,
                message: Some("no rule of the policy allows it".to_owned()),
                mask_sets: Vec::new(),
            },
        })
    }

    /// The mask rule sets that rules name, for whoever compiles those to check.
    pub fn mask_sets(&self) -> BTreeSet<&str> {
        self.rules.iter().flat_map(|rule| &rule.mask).map(String::as_str).collect()
    }

    /// The names of all rules in force, in the order in which they are asked.
    pub fn rule_names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().chain(&self.baseline).map(|rule| rule.name.as_str())
    }
}

fn check_baseline_name(name: &str, known: &[String]) -> Result<(), String> {
    if known.iter().any(|rule| rule == name) {
        return Ok(());
    }
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let hint = match closest(name, known.iter().copied()) {
        Some(rule) => format!("did you mean {rule:?}?"),
        None => format!("there are {}", known.join(", ")),
    };
    Err(format!("no baseline rule {name:?}: {hint}"))
}

/// A rule of the pack, refusing where it would ask and there is nobody to be asked.
fn without_nobody(mut rule: RuleConfig, approvers: &ApproversConfig) -> RuleConfig {
    if rule.action == ActionName::Hold && approvers.is_empty() {
        rule.action = ActionName::Deny;
        let message = rule.message.unwrap_or_default();
        rule.message = Some(format!("{message}; it needs approval, and the policy names no approvers"));
    }
    rule
}

fn first_match<'a>(
    rules: impl Iterator<Item = &'a Rule>,
    facts: &Facts<'_>,
) -> Result<Option<(&'a Rule, Option<String>)>, Unjudged> {
    for rule in rules {
        match applies(&rule.matches, rule.when.as_ref(), rule.action, facts) {
            Applies::No => {}
            Applies::Yes { unsure } => return Ok(Some((rule, unsure))),
            Applies::NeedsBody => return Err(Unjudged::NeedsBody),
            Applies::Refused(refusal) => {
                return Err(Unjudged::Refused(refusal.detail(format!("rule {}", rule.name))));
            }
        }
    }
    Ok(None)
}

impl Rule {
    fn compile(config: RuleConfig, default_approvers: &ApproversConfig) -> Result<Self, PolicyError> {
        let wrong = |field: &str, message: &str| Err(PolicyError::in_rule(&config.name, message).at(field));
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if config.name.is_empty() || config.name.len() > LONGEST_NAME || !config.name.chars().all(is_name) {
            return wrong("name", "a name has 1 to 100 characters: letters, digits, - _ . /");
        }
        if config.hold.is_some() && config.action != ActionName::Hold {
            return wrong("hold", "`hold` says on what terms to hold, but `action` is not hold");
        }
        if !config.mask.is_empty() && config.action == ActionName::Deny {
            return wrong("mask", "`mask` is for responses, and a rule that denies has none");
        }
        if !config.overrides.is_empty() && config.action != ActionName::Allow {
            return wrong("overrides", "`overrides` is for rules that allow");
        }
        if let Some(n) = config.matches.resources.iter().position(|pattern| !is_resource(pattern)) {
            let field = format!("match.resources.{n}");
            return wrong(&field, "a resource is written pods, pods/exec, */scale or *");
        }
        let decision = match config.action {
            ActionName::Allow => Decision::Allow,
            ActionName::Deny => Decision::Deny,
            ActionName::Hold => match terms(config.hold.as_ref(), default_approvers) {
                Ok(terms) => Decision::Hold(terms),
                Err((field, message)) => return wrong(field, message),
            },
        };
        Ok(Self {
            name: config.name,
            matches: config.matches,
            when: config.when,
            action: config.action,
            decision,
            message: config.message,
            mask: config.mask,
            overrides: config.overrides,
        })
    }

    fn verdict(&self, unsure: Option<String>) -> Verdict {
        if let Some(reason) = &unsure {
            tracing::warn!(rule = %self.name, %reason, "a policy rule counts as matching, since it could not tell");
        }
        let message = match (&self.message, unsure) {
            (Some(message), Some(unsure)) => {
                Some(format!("{message} (the rule counts as matching: {unsure})"))
            }
            (None, Some(unsure)) => Some(format!("the rule counts as matching: {unsure}")),
            (message, None) => message.clone(),
        };
        Verdict {
            decision: self.decision.clone(),
            rule: Some(self.name.clone()),
            message,
            mask_sets: self.mask.clone(),
        }
    }
}

fn is_resource(pattern: &str) -> bool {
    let is_part = |part: &str| {
        part == "*"
            || (!part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c)))
    };
    match pattern.split_once('/') {
        Some((resource, subresource)) => is_part(resource) && is_part(subresource),
        None => is_part(pattern),
    }
}

/// The terms of a hold; or the field that is wrong, and why.
fn terms(
    hold: Option<&HoldConfig>,
    default_approvers: &ApproversConfig,
) -> Result<HoldTerms, (&'static str, &'static str)> {
    let hold = hold.cloned().unwrap_or_default();
    let approvers = match hold.approvers.is_empty() {
        true => default_approvers.clone(),
        false => hold.approvers,
    };
    if approvers.is_empty() {
        return Err((
            "hold",
            "it holds requests, and nobody may approve them: name approvers in the rule's `hold`, or for the whole policy",
        ));
    }
    let quorum = hold.quorum.unwrap_or(1);
    if quorum == 0 {
        return Err(("hold.quorum", "`quorum` is at least 1"));
    }
    if approvers.groups.is_empty() && approvers.users.len() < quorum as usize {
        return Err(("hold.quorum", "`quorum` is more people than there are approvers"));
    }
    let (hold_for, expires_after) = (hold.hold_for.map(|d| d.0), hold.expires_after.map(|d| d.0));
    if expires_after.is_some_and(|expires_after| expires_after == Duration::ZERO) {
        return Err(("hold.expiresAfter", "`expiresAfter` leaves no time to decide"));
    }
    if let (Some(hold_for), Some(expires_after)) = (hold_for, expires_after)
        && hold_for > expires_after
    {
        return Err(("hold.holdFor", "`holdFor` is longer than `expiresAfter`"));
    }
    let approvers = Approvers { users: approvers.users, groups: approvers.groups };
    Ok(HoldTerms { approvers, quorum, hold_for, expires_after })
}

/// The policy in force, which can be exchanged while requests pass. Clones share it.
#[derive(Clone, Debug)]
pub struct PolicyHandle(Arc<ArcSwap<Policy>>);

impl PolicyHandle {
    /// A handle on `policy`.
    pub fn new(policy: Policy) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(policy)))
    }

    /// Puts `policy` in force: for every request that is judged from now on, and for none that already was.
    pub fn swap(&self, policy: Policy) {
        self.0.store(Arc::new(policy));
    }

    /// The policy in force.
    pub fn load(&self) -> Arc<Policy> {
        self.0.load_full()
    }
}

impl From<Policy> for PolicyHandle {
    fn from(policy: Policy) -> Self {
        Self::new(policy)
    }
}

#[cfg(test)]
mod tests;
