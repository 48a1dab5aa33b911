//! Which rules say something about a value, for people who write rules.

use portcullis_core::RequestInfo;

use super::{
    Action, Automaton, Caller, RuleId, Rules, Scope, Subjects,
    compile::Accept,
    path::{Step, parse_value},
};
use crate::ConfigError;

/// What one rule has to do with a value. Where several apply the first decides.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// The rule's name.
    pub rule: String,
    /// The rule set, or the pack, it belongs to.
    pub set: String,
    /// What it puts in the value's place.
    pub action: Action,
    /// What else must be so: the object's kind, a sibling, what the object is called; or what is looked for in the value.
    pub when: Vec<String>,
    /// Whom and what it is only for. That they hold of who asks is settled; of the object they may have yet to.
    pub only_for: Subjects,
    /// Whom and what it is not for.
    pub except: Subjects,
}

impl Rules {
    /// Which rules say something about the value at `path` of an object that is asked for, in the order in which they decide. The
    /// path is one of a value, such as `data.password` or `spec.containers[0].env[*].value`: rules do not tell elements of a list
    /// apart, so `[0]` is `[*]`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if `path` is none.
    pub fn explain(
        &self,
        info: &RequestInfo,
        caller: Caller<'_>,
        path: &str,
    ) -> Result<Vec<Explanation>, ConfigError> {
        let steps = parse_value(path).map_err(|error| ConfigError::new(path, error.to_string()))?;
        let scope = self.scope(info, caller);
        let mut found: Vec<(RuleId, Vec<String>)> = Vec::new();
        let mut note = |rule: RuleId, when: Vec<String>| {
            if scope.is_active(rule) && !found.iter().any(|(known, _)| *known == rule) {
                found.push((rule, when));
            }
        };
        let mut state = Automaton::<Accept>::ROOT;
        for (depth, step) in steps.iter().enumerate() {
            // What masks a container masks what is in it.
            let within = depth + 1 < steps.len();
            state = match step {
                Step::Key(name) => {
                    let mut rules = Vec::new();
                    scope.key_rules(name.as_bytes(), &mut rules);
                    rules.into_iter().for_each(|rule| note(rule, Vec::new()));
                    scope.automaton().member(state, name.as_bytes())
                }
                Step::AnyIndex => scope.automaton().element(state),
                Step::AnyKey | Step::AnyDepth => {
                    return Err(ConfigError::new(path, "names one value: without `*` as a name, and `**`"));
                }
            };
            for accept in scope.automaton().accepts(state) {
                match *accept {
                    Accept::Mask { rule, kinds, clause, kubernetes, leaf, .. } => {
                        if (kubernetes && !scope.is_kubernetes()) || (leaf && within) {
                            continue;
                        }
                        let mut when = Vec::new();
                        if kinds != 0 && scope.presumed & kinds == 0 {
                            when.push(format!(
                                "it is a {}",
                                self.0.rules[rule as usize].rule.kinds.join(" or ")
                            ));
                        }
                        if let (Some(_), Some(beside)) = (clause, &self.0.rules[rule as usize].rule.clause) {
                            when.push(format!(
                                "`{}` beside it matches {}",
                                beside.sibling,
                                beside.matches.join(", ")
                            ));
                        }
                        note(rule, when);
                    }
                    Accept::Json { rule, .. } if !within => {
                        note(
                            rule,
                            vec!["it is a JSON document: then what is in it, by all rules".to_owned()],
                        );
                    }
                    _ => {}
                }
            }
        }
        found.sort_by_key(|(rule, _)| *rule);
        Ok(found.into_iter().map(|(rule, when)| self.explanation(&scope, rule, when)).collect())
    }

    fn explanation(&self, scope: &Scope, rule: RuleId, mut when: Vec<String>) -> Explanation {
        let compiled = &self.0.rules[rule as usize];
        if scope.depends_on_object(rule) {
            when.push("`for` and `except` say so of the object".to_owned());
        }
        if !compiled.rule.detectors.is_empty() || !compiled.rule.patterns.is_empty() {
            when.push("only what detectors and patterns find in it".to_owned());
        }
        Explanation {
            rule: compiled.rule.name.clone(),
            set: compiled.set.clone(),
            action: compiled.action(),
            when,
            only_for: compiled.rule.only_for.clone(),
            except: compiled.rule.except.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MaskConfig, MaskKey};

    fn check(resource: &str, path: &str, expected: &[(&str, &str)]) {
        let yaml = "rules: [{name: own, resources: [secrets], paths: [data.password], action: redact, except: {labels: {a: b}}}, {name: keys, keys: ['*token*'], resources: [widgets]}]";
        let config: MaskConfig = serde_yaml::from_str(yaml).unwrap();
        let rules = Rules::new(&config, MaskKey::from_bytes(&[7; 32]).unwrap()).unwrap();
        let info = RequestInfo {
            is_resource_request: true,
            verb: "get".into(),
            api_version: "v1".into(),
            resource: resource.into(),
            ..RequestInfo::default()
        };
        let found = rules.explain(&info, Caller::default(), path).unwrap();
        let found: Vec<_> = found.iter().map(|found| (found.rule.as_str(), found.when.join("; "))).collect();
        let found: Vec<_> = found.iter().map(|(rule, when)| (*rule, when.as_str())).collect();
        assert_eq!(found, expected, "{resource} {path}");
    }

    #[test]
    fn rules_are_named_in_the_order_in_which_they_decide() {
        let labels = "`for` and `except` say so of the object";
        check("secrets", "data.password", &[("own", labels), ("secrets", "")]);
        check("secrets", "data.user", &[("secrets", "")]);
        check("secrets", "type", &[]);
        check("configmaps", "data.user", &[("secrets", "it is a Secret")]);
        check("widgets", "spec.my-token.inner", &[("keys", "")]);
        let config: MaskConfig = MaskConfig::default();
        let rules = Rules::new(&config, MaskKey::from_bytes(&[7; 32]).unwrap()).unwrap();
        let info =
            RequestInfo { is_resource_request: true, resource: "pods".into(), ..RequestInfo::default() };
        let env = rules.explain(&info, Caller::default(), "spec.containers[*].env[*].value").unwrap();
        assert!(env[0].rule == "env" && env[0].when[0].starts_with("`name` beside it matches"), "{env:?}");
        assert_eq!(rules.explain(&info, Caller::default(), "spec.containers[1].env[0].value").unwrap(), env);
        let applied = r#"metadata.annotations["kubectl.kubernetes.io/last-applied-configuration"]"#;
        assert_eq!(rules.explain(&info, Caller::default(), applied).unwrap()[0].rule, "last-applied");
        assert!(rules.explain(&info, Caller::default(), "spec.**.value").is_err());
    }

    #[test]
    fn whom_and_what_a_rule_asks_for_is_said() {
        let yaml = "packs: []
rules:
  - { name: own, paths: [a], for: { labels: { tier: 'prod*', app: web }, namespaces: [shop] }, except: { groups: [security], users: [ada], types: [x] } }
  - { name: all, paths: [a] }";
        let config: MaskConfig = serde_yaml::from_str(yaml).unwrap();
        let rules = Rules::new(&config, MaskKey::from_bytes(&[7; 32]).unwrap()).unwrap();
        let info =
            RequestInfo { is_resource_request: true, resource: "pods".into(), ..RequestInfo::default() };
        let found = rules.explain(&info, Caller::default(), "a").unwrap();
        let asked = |subjects: &Subjects| {
            subjects.asked().map(|(what, names)| format!("{what}: {}", names.join(" "))).collect::<Vec<_>>()
        };
        assert_eq!(asked(&found[0].only_for), ["namespaces: shop", "labels: app=web tier=prod*"]);
        assert_eq!(asked(&found[0].except), ["users: ada", "groups: security", "types: x"]);
        assert!(found[1].only_for.is_empty() && asked(&found[1].except).is_empty());
    }
}
