//! Create, read, update, patch, delete.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Core, admission,
    authn::UserInfo,
    controllers,
    kinds::{self, Kind},
    object::{items, meta, meta_mut, rfc3339, text},
    patch::{self, Patch},
    rbac::{self, Attributes},
    selector::Selection,
    status::ApiError,
    store::Transaction,
    target::{Query, ResourceTarget},
};

/// One request for a resource: where, how, by whom.
pub(crate) struct Call<'a> {
    pub(crate) core: &'a Core,
    pub(crate) kind: &'static Kind,
    pub(crate) target: &'a ResourceTarget,
    pub(crate) query: &'a Query,
    pub(crate) user: &'a UserInfo,
    /// Sent as `Warning` headers.
    pub(crate) warnings: Vec<String>,
}

type Written = Result<Arc<Value>, ApiError>;

impl Call<'_> {
    fn namespace(&self) -> &str {
        if self.kind.namespaced { &self.target.namespace } else { "" }
    }

    pub(crate) fn get(&self) -> Written {
        self.check_version()?;
        let name = &self.target.name;
        self.core
            .store
            .get(self.kind, self.namespace(), name)
            .ok_or_else(|| ApiError::not_found(self.kind, name))
    }

    /// The objects meant, and the version the list is of.
    pub(crate) fn list(&self) -> Result<(Vec<Arc<Value>>, u64), ApiError> {
        self.check_version()?;
        if self.query.get("continue").is_some_and(|token| !token.is_empty()) {
            return Err(ApiError::expired(
                "this server sends lists as a whole and hands out no continue tokens",
            ));
        }
        let selection = Selection::of(self.query, self.kind)?;
        let (mut list, version) = self.core.store.list(self.kind, self.namespace());
        list.retain(|object| selection.admits(object));
        Ok((list, version))
    }

    /// Reads may name a version to be not older than; here all reads are of the newest.
    fn check_version(&self) -> Result<(), ApiError> {
        let current = self.core.store.version();
        match self.query.number("resourceVersion")? {
            Some(asked) if asked > current => Err(ApiError::version_too_large(asked, current)),
            Some(asked) if self.query.get("resourceVersionMatch") == Some("Exact") && asked < current => Err(
                ApiError::expired(format!("The provided resource version {asked} is no longer available")),
            ),
            _ => Ok(()),
        }
    }

    pub(crate) fn create(&mut self, object: Value) -> Written {
        let kind = self.kind;
        let mut object = kind.read(object, self.query, &mut self.warnings)?;
        self.place(&mut object)?;
        if meta(&object, "name").is_empty() && !meta(&object, "generateName").is_empty() {
            let name = format!("{}{}", meta(&object, "generateName"), controllers::random_suffix(5));
            meta_mut(&mut object).insert("name".into(), json!(name));
        }
        if !meta(&object, "resourceVersion").is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        for field in
            ["uid", "creationTimestamp", "generation", "deletionTimestamp", "managedFields", "selfLink"]
        {
            meta_mut(&mut object).remove(field);
        }
        if !kind.is("events")
            && let Some(object) = object.as_object_mut()
        {
            object.remove("status");
        }
        admission::default(kind, &mut object);
        admission::validate(kind, &object)?;
        let dry_run = self.query.dry_run()?;
        let name = meta(&object, "name").to_owned();
        self.core.store.write(dry_run, |tx| {
            self.admit(tx, &object)?;
            if tx.get(kind, self.namespace(), &name).is_some() {
                return Err(ApiError::already_exists(kind, &name));
            }
            controllers::stamp(tx, kind, &mut object);
            let created = tx.put(kind, object);
            Ok(self.settled(tx, created, dry_run.then_some("")))
        })
    }

    /// The object belongs where the request says.
    fn place(&self, object: &mut Value) -> Result<(), ApiError> {
        if !self.kind.namespaced {
            meta_mut(object).remove("namespace");
            return Ok(());
        }
        let namespace = self.namespace();
        if namespace.is_empty() {
            return Err(ApiError::bad_request("an empty namespace may not be set during creation"));
        }
        let given = meta(object, "namespace");
        if !given.is_empty() && given != namespace {
            let message =
                "the namespace of the provided object does not match the namespace sent on the request";
            return Err(ApiError::bad_request(message));
        }
        meta_mut(object).insert("namespace".into(), json!(namespace));
        Ok(())
    }

    /// Admission of a new object: its namespace is there and stays, its service account exists, nobody escalates.
    fn admit(&self, tx: &Transaction<'_>, object: &Value) -> Result<(), ApiError> {
        let name = meta(object, "name");
        if self.kind.namespaced {
            let namespaces = kinds::find("", "namespaces").ok_or_else(ApiError::path_not_found)?;
            let namespace = self.namespace();
            let found = tx
                .get(namespaces, "", namespace)
                .ok_or_else(|| ApiError::not_found(namespaces, namespace))?;
            if !found["metadata"]["deletionTimestamp"].is_null() {
                let why = format!(
                    "unable to create new content in namespace {namespace} because it is being terminated"
                );
                return Err(ApiError::forbidden_object(self.kind, name, &why));
            }
        }
        if self.kind.is("pods") {
            let account = object["spec"]["serviceAccountName"].as_str().unwrap_or("default");
            let accounts = kinds::find("", "serviceaccounts").ok_or_else(ApiError::path_not_found)?;
            if tx.get(accounts, self.namespace(), account).is_none() {
                let account = format!("{}/{account}", self.namespace());
                let why = format!("error looking up service account {account}: serviceaccount not found");
                return Err(ApiError::forbidden_object(self.kind, name, &why));
            }
        }
        self.no_escalation(tx, object)
    }

    /// Nobody grants what they do not have, unless they may `escalate` the role or `bind` it.
    fn no_escalation(&self, tx: &Transaction<'_>, object: &Value) -> Result<(), ApiError> {
        if rbac::is_master(self.user) || !self.kind.group.starts_with("rbac") {
            return Ok(());
        }
        let name = meta(object, "name");
        let (verb, resource, namespace, role_name, rules) = match self.kind.plural {
            "roles" | "clusterroles" => {
                ("escalate", self.kind, self.namespace(), name, items(&object["rules"]).to_vec())
            }
            _ => {
                let reference = &object["roleRef"];
                let plural = if reference["kind"] == "Role" { "roles" } else { "clusterroles" };
                let roles = kinds::find(self.kind.group, plural).ok_or_else(ApiError::path_not_found)?;
                let within = if roles.namespaced { self.namespace() } else { "" };
                let rules = tx
                    .get(roles, within, text(&reference["name"]))
                    .map(|role| items(&role["rules"]).to_vec());
                let bind = ("bind", roles, self.namespace(), text(&reference["name"]));
                match rules {
                    Some(rules) => (bind.0, bind.1, bind.2, bind.3, rules),
                    None if self.may(tx, bind.0, bind.1, bind.2, bind.3) => return Ok(()),
                    None => return Err(ApiError::not_found(roles, bind.3)),
                }
            }
        };
        let held = rbac::rules_of(tx, self.user, namespace);
        let Some(rule) = rbac::beyond(&held, &rules) else { return Ok(()) };
        if self.may(tx, verb, resource, namespace, role_name) {
            return Ok(());
        }
        let UserInfo { username, groups, .. } = self.user;
        let why = format!(
            "user {username:?} (groups={groups:?}) is attempting to grant RBAC permissions not currently held: {rule}"
        );
        Err(ApiError::forbidden_object(self.kind, name, &why))
    }

    fn may(&self, tx: &Transaction<'_>, verb: &str, kind: &Kind, namespace: &str, name: &str) -> bool {
        rbac::authorize(tx, self.user, &Attributes::resource(verb, kind.group, kind.plural, namespace, name))
    }

    pub(crate) fn update(&mut self, object: Value) -> Written {
        let mut object = self.kind.read(object, self.query, &mut self.warnings)?;
        self.place(&mut object)?;
        if meta(&object, "name") != self.target.name {
            let (given, wanted) = (meta(&object, "name"), &self.target.name);
            let message =
                format!("the name of the object ({given}) does not match the name on the URL ({wanted})");
            return Err(ApiError::bad_request(message));
        }
        self.rewrite(|_| Ok(object))
    }

    pub(crate) fn patch(&mut self, patch: &Patch) -> Written {
        let (kind, query) = (self.kind, self.query);
        let mut warnings = Vec::new();
        let patched = self.rewrite(|current| {
            let patched = patch::apply(patch, kind, current)?;
            kind.read(patched, query, &mut warnings)
        });
        self.warnings.append(&mut warnings);
        patched
    }

    /// Replaces the object by what `change` makes of it.
    fn rewrite(&self, change: impl FnOnce(&Value) -> Result<Value, ApiError>) -> Written {
        let (kind, name) = (self.kind, &self.target.name);
        let dry_run = self.query.dry_run()?;
        self.core.store.write(dry_run, |tx| {
            let old = tx.get(kind, self.namespace(), name).ok_or_else(|| ApiError::not_found(kind, name))?;
            let mut new = change(&old)?;
            self.carry_over(&old, &mut new)?;
            admission::default(kind, &mut new);
            admission::prune_nulls(&mut new);
            admission::validate(kind, &new)?;
            admission::validate_update(kind, &old, &new)?;
            if old["rules"] != new["rules"] || old["subjects"] != new["subjects"] {
                self.no_escalation(tx, &new)?;
            }
            if *old == new {
                return Ok(old);
            }
            if controllers::has_generation(kind) && old["spec"] != new["spec"] {
                let generation = old["metadata"]["generation"].as_u64().unwrap_or(0) + 1;
                meta_mut(&mut new).insert("generation".into(), json!(generation));
            }
            let ended = is_deleting(&new) && items(&new["metadata"]["finalizers"]).is_empty();
            let stored = tx.put(kind, new);
            if ended && !kind.is("namespaces") {
                tx.remove(kind, self.namespace(), name);
            }
            Ok(self.settled(tx, stored, dry_run.then_some(meta(&old, "resourceVersion"))))
        })
    }

    /// What a write cannot change: identity, times, and `status` (or, for `/status`, everything else).
    fn carry_over(&self, old: &Value, new: &mut Value) -> Result<(), ApiError> {
        let (kind, name) = (self.kind, meta(old, "name"));
        let differs = |field: &str| !meta(new, field).is_empty() && meta(new, field) != meta(old, field);
        if differs("uid") {
            let why = format!(
                "Precondition failed: UID in precondition: {}, UID in object meta: {}",
                meta(new, "uid"),
                meta(old, "uid")
            );
            return Err(ApiError::conflict(kind, name, &why));
        }
        if differs("resourceVersion") {
            let why =
                "the object has been modified; please apply your changes to the latest version and try again";
            return Err(ApiError::conflict(kind, name, why));
        }
        if meta(new, "name") != name || (kind.namespaced && meta(new, "namespace") != meta(old, "namespace"))
        {
            let why = "Invalid value: field is immutable".to_owned();
            return Err(ApiError::invalid(kind, name, &[("metadata.name".into(), why)]));
        }
        if self.target.subresource == "status" {
            let status = new["status"].take();
            *new = old.clone();
            new["status"] = status;
            return Ok(());
        }
        let kept = [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generateName",
        ];
        meta_mut(new).remove("managedFields");
        for field in kept {
            new["metadata"][field] = old["metadata"][field].clone();
        }
        if !kind.is("events") {
            new["status"] = old["status"].clone();
        }
        Ok(())
    }

    /// Lets the controllers work, and returns the object as it is then. After a dry run nothing has a new version: the
    /// object shows the one given.
    fn settled(&self, tx: &mut Transaction<'_>, object: Arc<Value>, dry_run: Option<&str>) -> Arc<Value> {
        if let Some(version) = dry_run {
            let mut shown = Value::clone(&object);
            meta_mut(&mut shown).remove("resourceVersion");
            if !version.is_empty() {
                meta_mut(&mut shown).insert("resourceVersion".into(), json!(version));
            }
            return Arc::new(shown);
        }
        let name = meta(&object, "name");
        let namespace = if self.kind.is("namespaces") { name } else { self.namespace() };
        controllers::settle(tx, namespace);
        tx.get(self.kind, self.namespace(), name).unwrap_or(object)
    }

    /// Deletes the object, and says whether it is still there (a finalizer holds it).
    pub(crate) fn delete(&self, options: &DeleteOptions) -> Result<(Arc<Value>, bool), ApiError> {
        let (kind, name) = (self.kind, &self.target.name);
        self.core.store.write(options.dry_run, |tx| {
            let object =
                tx.get(kind, self.namespace(), name).ok_or_else(|| ApiError::not_found(kind, name))?;
            options.check(kind, &object)?;
            if kind.is("namespaces") && ["default", "kube-system", "kube-public"].contains(&name.as_str()) {
                return Err(ApiError::forbidden_object(kind, name, "this namespace may not be deleted"));
            }
            Ok(self.remove(tx, object, options))
        })
    }

    pub(crate) fn delete_collection(&self, options: &DeleteOptions) -> Result<Vec<Arc<Value>>, ApiError> {
        let (list, _) = self.list()?;
        if self.kind.is("namespaces") || self.kind.is("services") {
            return Err(ApiError::method_not_allowed(self.target));
        }
        self.core.store.write(options.dry_run, |tx| {
            Ok(list.into_iter().map(|object| self.remove(tx, object, options).0).collect())
        })
    }

    /// Removes one object, or marks it where a finalizer holds it; whether it is still there.
    fn remove(
        &self,
        tx: &mut Transaction<'_>,
        object: Arc<Value>,
        options: &DeleteOptions,
    ) -> (Arc<Value>, bool) {
        let (kind, namespace, name) = (self.kind, self.namespace(), meta(&object, "name"));
        if options.orphan {
            controllers::orphan(tx, &object);
        }
        let held = !items(&object["metadata"]["finalizers"]).is_empty() || kind.is("namespaces");
        let mut shown = object.clone();
        if held && !is_deleting(&object) {
            let mut ending = Value::clone(&object);
            meta_mut(&mut ending).insert("deletionTimestamp".into(), json!(rfc3339(tx.now)));
            meta_mut(&mut ending).insert("deletionGracePeriodSeconds".into(), json!(0));
            if kind.is("namespaces") {
                ending["status"]["phase"] = json!("Terminating");
            }
            shown = tx.put(kind, ending);
        } else if !held {
            shown = tx.remove(kind, namespace, name).unwrap_or(object);
        }
        if !options.dry_run {
            controllers::settle(tx, namespace);
        }
        (shown, held)
    }
}

fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// `DeleteOptions`: from the body if there is one, and then only from it; else from the query.
pub(crate) struct DeleteOptions {
    dry_run: bool,
    orphan: bool,
    uid: Option<String>,
    version: Option<String>,
}

impl DeleteOptions {
    pub(crate) fn of(query: &Query, body: Option<&Value>) -> Result<Self, ApiError> {
        let (dry_run, policy, preconditions) = match body {
            None => (query.dry_run()?, query.get("propagationPolicy").unwrap_or_default(), &Value::Null),
            Some(options) => {
                if options["kind"] != "DeleteOptions" && !options["kind"].is_null() {
                    return Err(ApiError::bad_request("the body of a delete must be DeleteOptions"));
                }
                let dry_run = match items(&options["dryRun"]) {
                    [] => false,
                    all if all.iter().all(|value| value == "All") => true,
                    other => {
                        return Err(ApiError::bad_request(format!("dryRun: Unsupported value: {other:?}")));
                    }
                };
                (dry_run, text(&options["propagationPolicy"]), &options["preconditions"])
            }
        };
        if !["", "Background", "Foreground", "Orphan"].contains(&policy) {
            let message = format!("propagationPolicy: Unsupported value: {policy:?}");
            return Err(ApiError::bad_request(message));
        }
        Ok(Self {
            dry_run,
            orphan: policy == "Orphan",
            uid: preconditions["uid"].as_str().map(str::to_owned),
            version: preconditions["resourceVersion"].as_str().map(str::to_owned),
        })
    }

    fn check(&self, kind: &Kind, object: &Value) -> Result<(), ApiError> {
        for (what, wanted, field) in
            [("UID", &self.uid, "uid"), ("ResourceVersion", &self.version, "resourceVersion")]
        {
            let is = meta(object, field);
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != is) {
                let why = format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {is}"
                );
                return Err(ApiError::conflict(kind, meta(object, "name"), &why));
            }
        }
        Ok(())
    }
}
