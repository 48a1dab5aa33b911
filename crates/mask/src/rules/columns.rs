//! Which columns of a Table show what rules mask.
//!
//! A Table's cells have no paths, only columns, and a column's name is all that tells what it shows. So a rule speaks of the
//! columns that are called what its paths end in, or what its keys are called, and of those that it names.

use super::{
    Rule, RuleBits, RuleId,
    glob::Globs,
    path::{Step, parse},
};
use crate::ConfigError;

/// What may happen to the cells of one column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ColumnRules {
    /// These mask them, or search them.
    pub(crate) mask: RuleBits,
    /// For these they are strings that hold JSON.
    pub(crate) json: RuleBits,
}

impl ColumnRules {
    /// Whether nothing happens by these that does not happen by the others.
    pub(crate) fn within(self, others: Self) -> bool {
        self.mask & !others.mask == 0 && self.json & !(others.mask | others.json) == 0
    }

    pub(crate) fn union(self, others: Self) -> Self {
        Self { mask: self.mask | others.mask, json: self.json | others.json }
    }

    pub(super) fn of(self, rules: RuleBits) -> Self {
        Self { mask: self.mask & rules, json: self.json & rules }
    }

    fn add(&mut self, owner: Owner) {
        let bits = if owner.json { &mut self.json } else { &mut self.mask };
        *bits |= 1 << owner.rule;
    }
}

/// The names of columns that rules speak of, each with its rule.
#[derive(Default)]
pub(super) struct ColumnNames(Vec<(String, Owner)>);

#[derive(Clone, Copy)]
struct Owner {
    rule: RuleId,
    json: bool,
    /// Another field's name that an object's own name is no value of.
    spares_names: bool,
}

impl ColumnNames {
    /// Adds those of a rule, whose paths have been read before.
    pub(super) fn add(&mut self, place: &str, rule: &Rule, id: RuleId) -> Result<(), ConfigError> {
        let owner = Owner { rule: id, json: false, spares_names: false };
        for (number, column) in rule.columns.iter().enumerate() {
            let name = plain(column);
            if name.is_empty() {
                return Err(ConfigError::new(format!("{place}.columns[{number}]"), "names no column"));
            }
            self.0.push((name, owner));
        }
        let keys = rule.keys.iter().map(|key| plain(key)).filter(|key| !key.is_empty());
        self.0.extend(keys.map(|key| (key, owner)));
        // What stands beside a value is not in the row: whether such a rule masks it cannot be told.
        if rule.clause.is_none() {
            for path in rule.paths.iter().chain(&rule.base64_paths) {
                self.add_path(path, owner);
            }
        }
        for path in &rule.json_paths {
            self.add_path(path, Owner { json: true, ..owner });
        }
        Ok(())
    }

    fn add_path(&mut self, path: &str, owner: Owner) {
        let Ok(steps) = parse(path) else { return };
        let named = steps.iter().rev().find(|step| **step != Step::AnyIndex);
        // (A key such as an annotation's, `example.com/x`, is no name that people give a column.)
        if let Some(Step::Key(name)) = named
            && !name.contains(['.', '/'])
        {
            let spares_names = !selects(&steps, &["metadata", "name"]);
            self.0.push((plain(name), Owner { spares_names, ..owner }));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn compile(self) -> Result<Columns, ConfigError> {
        let (names, owners): (Vec<_>, Vec<_>) = self.0.into_iter().unzip();
        let mut all = ColumnRules::default();
        owners.iter().for_each(|owner| all.add(*owner));
        Ok(Columns { globs: Globs::new("columns", &names)?, owners, all })
    }
}

/// [`ColumnNames`], compiled.
pub(super) struct Columns {
    globs: Globs,
    owners: Vec<Owner>,
    /// What may happen to a cell of which nothing is known.
    pub(super) all: ColumnRules,
}

impl Columns {
    /// What may happen to the cells of the column of this number and name.
    pub(super) fn rules(&self, number: usize, name: &[u8]) -> ColumnRules {
        let name: Vec<u8> = name.iter().copied().filter(|byte| !is_separator(*byte)).collect();
        // The first column is the object's name, in every Table that the API server makes.
        let is_own_name = number == 0 && name.eq_ignore_ascii_case(b"name");
        let mut rules = ColumnRules::default();
        for owner in self.globs.which(&name).map(|glob| self.owners[glob]) {
            if !(is_own_name && owner.spares_names) {
                rules.add(owner);
            }
        }
        rules
    }
}

/// A name without what people put between words.
fn plain(name: &str) -> String {
    name.replace([' ', '-', '_'], "")
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'-' | b'_')
}

/// Whether a path selects the member that these keys lead to.
fn selects(steps: &[Step], keys: &[&str]) -> bool {
    match (steps.split_first(), keys.split_first()) {
        (None, None) => true,
        (Some((Step::AnyDepth, rest)), key) => {
            selects(rest, keys) || key.is_some_and(|(_, after)| selects(steps, after))
        }
        (Some((Step::AnyKey, rest)), Some((_, after))) => selects(rest, after),
        (Some((Step::Key(name), rest)), Some((key, after))) => name == key && selects(rest, after),
        _ => false,
    }
}

/// The resource that objects of this kind most likely are, as the API machinery itself guesses it (`UnsafeGuessKindToResource` in
/// `k8s.io/apimachinery`). For all kinds that the API server serves itself it is right.
pub(super) fn resource_of(kind: &str) -> String {
    let kind = kind.to_ascii_lowercase();
    match kind.as_bytes().last() {
        _ if kind == "endpoints" => kind,
        Some(b's') => format!("{kind}es"),
        Some(b'y') => format!("{}ies", &kind[..kind.len() - 1]),
        _ => format!("{kind}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: &str, columns: &[(usize, &str, bool)]) {
        let rule: Rule = serde_yaml::from_str(rule).unwrap();
        let mut names = ColumnNames::default();
        names.add("rules[0]", &rule, 3).unwrap();
        if names.is_empty() {
            assert!(columns.iter().all(|(.., expected)| !expected), "{rule:?}");
            return;
        }
        let compiled = names.compile().unwrap();
        for (number, name, expected) in columns {
            let rules = compiled.rules(*number, name.as_bytes());
            assert_eq!(rules.mask | rules.json != 0, *expected, "{name} by {rule:?}");
        }
    }

    #[test]
    fn columns_are_called_what_paths_end_in() {
        let checks =
            [(1, "Api Token", true), (1, "API-TOKEN", true), (1, "api_token", true), (1, "Tokens", false)];
        check("{paths: [spec.apiToken]}", &checks);
        check("{base64Paths: ['spec.apiToken[*]']}", &checks);
        check("{jsonPaths: ['**.api_token']}", &checks);
        check(
            "{paths: ['data.*', 'a[*].*'], jsonPaths: ['x[\"a.b/c\"]']}",
            &[(1, "Data", false), (1, "a.b/c", false)],
        );
        check("{paths: ['env[*].value'], where: {sibling: name, matches: ['*']}}", &[(1, "Value", false)]);
    }

    #[test]
    fn columns_are_called_what_keys_are_called_or_a_rule_says() {
        check("{keys: ['*pass_word*']}", &[(1, "Old Passwords", true), (1, "Pass", false)]);
        let checks = [(1, "Login", true), (1, "DB  1", true), (1, "Data", false), (1, "Value", false)];
        check(
            "{paths: ['env[*].value'], where: {sibling: name, matches: ['*']}, columns: [login, 'd-b*']}",
            &checks,
        );
        let mut names = ColumnNames::default();
        let rule = Rule { columns: vec!["-".into()], ..Rule::default() };
        assert_eq!(names.add("rules[0]", &rule, 0).unwrap_err().place(), "rules[0].columns[0]");
    }

    #[test]
    fn the_name_of_the_object_is_masked_only_by_what_masks_it_in_the_object() {
        for rule in ["{paths: [spec.name]}", "{paths: ['spec.**.name']}"] {
            check(rule, &[(0, "Name", false), (0, "NAME", false), (1, "Name", true)]);
        }
        for rule in
            ["{paths: [metadata.name]}", "{paths: ['**.name']}", "{paths: ['*.name']}", "{keys: [name]}"]
        {
            check(rule, &[(0, "Name", true), (1, "Name", true)]);
        }
    }

    #[test]
    fn kinds_are_resources() {
        for (kind, resource) in [
            ("Widget", "widgets"),
            ("NetworkPolicy", "networkpolicies"),
            ("Ingress", "ingresses"),
            ("Endpoints", "endpoints"),
        ] {
            assert_eq!(resource_of(kind), resource);
        }
    }
}
