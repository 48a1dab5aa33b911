//! Whom, and which objects, a rule is for.

use portcullis_core::{Grant, Identity, RequestInfo};

use super::{Subjects, glob::Globs};
use crate::ConfigError;

/// [`Subjects`], compiled.
pub(crate) struct Subject {
    users: Vec<String>,
    groups: Vec<String>,
    grants: Vec<String>,
    namespaces: Option<Globs>,
    names: Option<Globs>,
    /// Bits of [`Labels`].
    labels: u64,
    types: Option<Globs>,
}

/// All labels that rules ask for: each is a bit.
#[derive(Default)]
pub(crate) struct Labels(Vec<(String, Globs)>);

/// What a request says about whether a rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Yes,
    No,
    /// It depends on the object.
    Depends,
}

/// What an object has said of itself.
pub(crate) struct Object<'a> {
    pub(crate) namespace: &'a [u8],
    pub(crate) name: &'a [u8],
    /// Bits of [`Labels`].
    pub(crate) labels: u64,
    /// Whether those are all there is to its metadata.
    pub(crate) metadata_done: bool,
    pub(crate) kind_of: Option<&'a [u8]>,
    /// Whether nothing more will come.
    pub(crate) closed: bool,
}

impl Subject {
    pub(crate) fn new(place: &str, subjects: &Subjects, labels: &mut Labels) -> Result<Self, ConfigError> {
        let globs = |what: &str, patterns: &Vec<String>| match patterns.is_empty() {
            true => Ok(None),
            false => Globs::exact(&format!("{place}.{what}"), patterns).map(Some),
        };
        let mut bits = 0;
        for (label, value) in &subjects.labels {
            let place = format!("{place}.labels");
            let bit = 1u64.checked_shl(labels.0.len() as u32);
            bits |= bit.ok_or_else(|| ConfigError::new(&place, "more than 64 labels in all rules"))?;
            labels.0.push((label.clone(), Globs::exact(&place, [value])?));
        }
        Ok(Self {
            users: subjects.users.clone(),
            groups: subjects.groups.clone(),
            grants: subjects.grants.clone(),
            namespaces: globs("namespaces", &subjects.namespaces)?,
            names: globs("names", &subjects.names)?,
            labels: bits,
            types: globs("types", &subjects.types)?,
        })
    }

    /// Whether objects' types are looked at.
    pub(crate) fn has_types(&self) -> bool {
        self.types.is_some()
    }

    /// As far as the request says. Who asks is settled here: where that is not known, `unknown` says.
    pub(crate) fn covers(
        &self,
        info: &RequestInfo,
        identity: Option<&Identity>,
        grant: Option<&Grant>,
        unknown: bool,
    ) -> Said {
        let anybody = self.users.is_empty() && self.groups.is_empty() && self.grants.is_empty();
        let granted = grant.is_some_and(|grant| self.grants.contains(&grant.profile));
        let who = match identity {
            _ if anybody || granted => true,
            None => unknown,
            Some(identity) => {
                self.users.contains(&identity.user)
                    || identity.groups.iter().any(|group| self.groups.contains(group))
            }
        };
        let said = |globs: &Option<Globs>, value: &str| match globs {
            None => Said::Yes,
            Some(_) if value.is_empty() => Said::Depends,
            Some(globs) if globs.matches(value.as_bytes()) => Said::Yes,
            Some(_) => Said::No,
        };
        let parts = [
            if who { Said::Yes } else { Said::No },
            said(&self.namespaces, &info.namespace),
            said(&self.names, &info.name),
            if self.labels == 0 && self.types.is_none() { Said::Yes } else { Said::Depends },
        ];
        match all(parts) {
            // Only Kubernetes' objects can be asked.
            Said::Depends if !info.is_resource_request => {
                if unknown {
                    Said::Yes
                } else {
                    Said::No
                }
            }
            said => said,
        }
    }

    /// As far as the object says, of what the request left open.
    pub(crate) fn covers_object(&self, object: &Object<'_>) -> Said {
        let metadata = object.metadata_done || object.closed;
        let known = |holds: bool| if holds { Said::Yes } else { Said::No };
        let named = |globs: &Option<Globs>, value: &[u8]| match globs {
            None => Said::Yes,
            Some(_) if !metadata => Said::Depends,
            Some(globs) => known(globs.matches(value)),
        };
        all([
            named(&self.namespaces, object.namespace),
            named(&self.names, object.name),
            match metadata {
                _ if self.labels == 0 => Said::Yes,
                false => Said::Depends,
                true => known(object.labels & self.labels == self.labels),
            },
            match (&self.types, object.kind_of) {
                (None, _) => Said::Yes,
                (Some(types), Some(kind_of)) => known(types.matches(kind_of)),
                (Some(_), None) if object.closed => Said::No,
                (Some(_), None) => Said::Depends,
            },
        ])
    }
}

fn all<const N: usize>(parts: [Said; N]) -> Said {
    match () {
        () if parts.contains(&Said::No) => Said::No,
        () if parts.contains(&Said::Depends) => Said::Depends,
        () => Said::Yes,
    }
}

impl Labels {
    /// The labels' names, with their numbers.
    pub(crate) fn names(&self) -> impl Iterator<Item = (u8, &str)> {
        self.0.iter().enumerate().map(|(number, (name, _))| (number as u8, name.as_str()))
    }

    /// Whether the label of this number has a value that is asked for.
    pub(crate) fn matches(&self, number: u8, value: &[u8]) -> bool {
        self.0[usize::from(number)].1.matches(value)
    }
}
