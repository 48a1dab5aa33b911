//! What is wrong with the parts of a configuration that belong to a layer, in the layer's own words.

use portcullis_jit::Profile;
use portcullis_mask::{MaskKey, Rules};
use portcullis_policy::Policy;

use super::{Config, Problem};

impl Config {
    pub(super) fn layer_problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        for error in self.authentication.validate() {
            found.push(Problem::at(&format!("authentication.{}", error.field), error.message));
        }
        if self.authentication.jwt.is_empty() {
            found.push(
                Problem::at("authentication.jwt", "nobody is believed").help("name at least one issuer"),
            );
        }
        for error in Profile::check(&self.grants.profiles) {
            found.push(Problem::at(
                &format!("grants.profiles.{}.{}", error.profile, error.field),
                error.message,
            ));
        }
        match Policy::compile(self.policy.clone()) {
            Err(error) => {
                // Of two of one name, the later one is wrong.
                let place = error
                    .rule()
                    .and_then(|name| self.policy.rules.iter().rposition(|rule| rule.name == name))
                    .map_or("policy".to_owned(), |n| format!("policy.rules.{n}"));
                let field = error.field().unwrap_or_default();
                found.push(Problem::at(&format!("{place}.{field}"), error.message()));
            }
            Ok(policy) => self.check_mask(&policy, &mut found),
        }
        found
    }

    fn check_mask(&self, policy: &Policy, found: &mut Vec<Problem>) {
        // Only to see whether the rules compile; the key that is used lies in the state directory.
        let compiled = match MaskKey::generate() {
            Ok(key) => Rules::new(&self.mask, key),
            Err(error) => return found.push(Problem::at("mask", error.to_string())),
        };
        match compiled {
            Err(error) => {
                // It names the place as `rules[2].paths[0]`, and again in its words.
                let place = format!("mask.{}", error.place()).replace('[', ".").replace(']', "");
                let words = error.to_string();
                let message = words.strip_prefix(&format!("{}: ", error.place())).unwrap_or(&words);
                found.push(Problem::at(&place, message));
            }
            Ok(rules) => {
                for set in policy.mask_sets().into_iter().filter(|set| !rules.has_set(set)) {
                    found.push(Problem::at("policy", format!("there is no mask set named `{set}`")));
                }
            }
        }
    }
}
