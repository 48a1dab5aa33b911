//! Objects, their versions, and what happened to them lately.
//!
//! One lock, never held across an await; every write is a transaction that either happens as a whole (the object, what
//! controllers make of it, the events) or, on an error or a dry run, not at all.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use portcullis_core::SharedClock;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{kinds::Kind, object};

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeType {
    Added,
    Modified,
    Deleted,
}

/// One event of the history.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) change: ChangeType,
    pub(crate) kind: &'static Kind,
    pub(crate) object: Arc<Value>,
    /// The object before: a selector may have admitted it then, and not now.
    pub(crate) previous: Option<Arc<Value>>,
}

type Key = (&'static str, &'static str, String, String);

fn key(kind: &Kind, namespace: &str, name: &str) -> Key {
    (kind.group, kind.plural, namespace.to_owned(), name.to_owned())
}

#[derive(Debug)]
struct State {
    version: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Arc<Change>>,
    /// Everything that happened after this version is still in the history.
    compacted: u64,
}

pub(crate) struct Store {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    clock: SharedClock,
    history: usize,
}

/// The history no longer reaches back to where a watch wants to start.
#[derive(Debug)]
pub(crate) struct Compacted {
    pub(crate) oldest: u64,
}

impl Store {
    pub(crate) fn new(clock: SharedClock, history: usize) -> Self {
        // Versions start in the hundreds, as they do in a cluster that has booted.
        let version = 100;
        Self {
            state: Mutex::new(State {
                version,
                objects: BTreeMap::new(),
                history: VecDeque::new(),
                compacted: version,
            }),
            changed: watch::Sender::new(version),
            clock,
            history: history.max(1),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes with the newest version after every commit.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.state().objects.get(&key(kind, namespace, name)).cloned()
    }

    /// The objects of a kind, in one namespace or (empty) in all, and the version they are of.
    pub(crate) fn list(&self, kind: &Kind, namespace: &str) -> (Vec<Arc<Value>>, u64) {
        let state = self.state();
        (list(&state.objects, kind, namespace), state.version)
    }

    pub(crate) fn version(&self) -> u64 {
        self.state().version
    }

    /// What happened after `version`, oldest first, and the newest version.
    pub(crate) fn since(&self, version: u64) -> Result<(Vec<Arc<Change>>, u64), Compacted> {
        let state = self.state();
        if version < state.compacted {
            return Err(Compacted { oldest: state.compacted });
        }
        let newer = state.history.iter().rev().take_while(|change| change.version > version);
        let mut newer: Vec<_> = newer.cloned().collect();
        newer.reverse();
        Ok((newer, state.version))
    }

    /// Runs `write`; keeps what it did if it succeeds and `dry_run` is false.
    pub(crate) fn write<T, E>(
        &self,
        dry_run: bool,
        write: impl FnOnce(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let now = self.clock.now();
        let mut state = self.state();
        let before = state.version;
        let mut transaction = Transaction { state: &mut state, undo: Vec::new(), changes: Vec::new(), now };
        let result = write(&mut transaction);
        let Transaction { undo, changes, .. } = transaction;
        if dry_run || result.is_err() {
            for (key, object) in undo.into_iter().rev() {
                match object {
                    Some(object) => drop(state.objects.insert(key, object)),
                    None => drop(state.objects.remove(&key)),
                }
            }
            state.version = before;
            return result;
        }
        state.history.extend(changes.into_iter().map(Arc::new));
        while state.history.len() > self.history {
            if let Some(dropped) = state.history.pop_front() {
                state.compacted = dropped.version;
            }
        }
        let version = state.version;
        drop(state);
        if version != before {
            self.changed.send_replace(version);
        }
        result
    }
}

fn list(objects: &BTreeMap<Key, Arc<Value>>, kind: &Kind, namespace: &str) -> Vec<Arc<Value>> {
    let of_kind = objects.range(key(kind, namespace, "")..);
    let of_kind = of_kind.take_while(|((group, plural, of, _), _)| {
        *group == kind.group && *plural == kind.plural && (namespace.is_empty() || of == namespace)
    });
    of_kind.map(|(_, object)| object.clone()).collect()
}

/// Reading objects: committed ones, or as a transaction sees them.
pub(crate) trait Objects {
    fn object(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Value>>;
    fn list_of(&self, kind: &Kind, namespace: &str) -> Vec<Arc<Value>>;
}

impl Objects for Store {
    fn object(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.get(kind, namespace, name)
    }

    fn list_of(&self, kind: &Kind, namespace: &str) -> Vec<Arc<Value>> {
        self.list(kind, namespace).0
    }
}

impl Objects for Transaction<'_> {
    fn object(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.get(kind, namespace, name)
    }

    fn list_of(&self, kind: &Kind, namespace: &str) -> Vec<Arc<Value>> {
        self.list(kind, namespace)
    }
}

/// A write in the making: sees its own changes.
pub(crate) struct Transaction<'a> {
    state: &'a mut State,
    undo: Vec<(Key, Option<Arc<Value>>)>,
    changes: Vec<Change>,
    pub(crate) now: Timestamp,
}

impl Transaction<'_> {
    pub(crate) fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.state.objects.get(&key(kind, namespace, name)).cloned()
    }

    pub(crate) fn list(&self, kind: &Kind, namespace: &str) -> Vec<Arc<Value>> {
        list(&self.state.objects, kind, namespace)
    }

    /// Every object, of every kind.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, &Arc<Value>)> {
        self.state.objects.iter().map(|((group, plural, ..), object)| (*group, *plural, object))
    }

    /// Stores the object under a new version, which it carries afterwards.
    pub(crate) fn put(&mut self, kind: &'static Kind, mut object: Value) -> Arc<Value> {
        self.state.version += 1;
        object::meta_mut(&mut object).insert("resourceVersion".into(), json!(self.state.version.to_string()));
        let key = key(kind, object::meta(&object, "namespace"), object::meta(&object, "name"));
        let object = Arc::new(object);
        let previous = self.state.objects.insert(key.clone(), object.clone());
        let change = if previous.is_some() { ChangeType::Modified } else { ChangeType::Added };
        self.undo.push((key, previous.clone()));
        let version = self.state.version;
        self.changes.push(Change { version, change, kind, object: object.clone(), previous });
        object
    }

    /// Removes the object; the event carries the version of its removal.
    pub(crate) fn remove(&mut self, kind: &'static Kind, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = key(kind, namespace, name);
        let previous = self.state.objects.remove(&key)?;
        self.undo.push((key, Some(previous.clone())));
        self.state.version += 1;
        let version = self.state.version;
        let mut last = Value::clone(&previous);
        object::meta_mut(&mut last).insert("resourceVersion".into(), json!(version.to_string()));
        let object = Arc::new(last);
        let previous = Some(previous);
        self.changes.push(Change {
            version,
            change: ChangeType::Deleted,
            kind,
            object: object.clone(),
            previous,
        });
        Some(object)
    }
}

#[cfg(test)]
mod tests {
    use portcullis_core::SystemClock;

    use super::{super::kinds, *};

    fn secret(name: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "shop"}})
    }

    #[test]
    fn a_failed_write_and_a_dry_run_leave_nothing() {
        let store = Store::new(Arc::new(SystemClock), 10);
        let kind = kinds::find("", "secrets").unwrap();
        let put = |tx: &mut Transaction<'_>| Ok::<_, ()>(tx.put(kind, secret("a")));
        store.write(false, put).unwrap();
        let before = store.version();
        store.write(true, |tx| put(tx).map(|_| tx.remove(kind, "shop", "a"))).unwrap();
        let failed = store.write(false, |tx| {
            tx.remove(kind, "shop", "a");
            tx.put(kind, secret("b"));
            Err::<(), _>(())
        });
        assert!(failed.is_err());
        assert_eq!(store.version(), before);
        assert_eq!(store.list(kind, "shop").0.len(), 1);
        assert_eq!(store.get(kind, "shop", "a").unwrap()["metadata"]["resourceVersion"], before.to_string());
        assert_eq!(store.since(before - 1).unwrap().0.len(), 1);
    }

    #[test]
    fn a_bounded_history_says_when_it_is_too_short() {
        let store = Store::new(Arc::new(SystemClock), 2);
        let kind = kinds::find("", "secrets").unwrap();
        let start = store.version();
        for name in ["a", "b", "c"] {
            store.write(false, |tx| Ok::<_, ()>(tx.put(kind, secret(name)))).unwrap();
        }
        assert_eq!(store.since(start).unwrap_err().oldest, start + 1);
        assert_eq!(store.since(start + 1).unwrap().0.len(), 2);
    }
}
