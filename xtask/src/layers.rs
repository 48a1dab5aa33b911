//! Which crate of the workspace may depend on which: the architecture's invariants, checked.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::command;
use crate::{Failure, Result};

/// No layer depends on another, not even in its tests: they meet in core's types.
const LAYERS: [&str; 6] = [
    "portcullis-audit",
    "portcullis-oidc",
    "portcullis-mask",
    "portcullis-hold",
    "portcullis-jit",
    "portcullis-policy",
];

/// (who, what it must not depend on in its normal build, why).
const FORBIDDEN: [(&str, &[&str], &str); 3] = [
    (
        "portcullis-core",
        &["tokio", "hyper", "kube", "k8s-openapi"],
        "core is vocabulary: it has no runtime and knows no Kubernetes client",
    ),
    (
        "portcullis-wire",
        &["tokio", "tokio-util", "futures-util", "hyper", "http", "tower", "kube"],
        "wire is sans-I/O: no async, no HTTP",
    ),
    (
        "portcullis-ledger",
        &["tokio", "tokio-util", "futures-util", "hyper", "http", "tower", "kube"],
        "the ledger is synchronous and knows no HTTP",
    ),
];

/// Crates that stand at the bottom: (who, the only ones of ours that it may use).
const BOTTOM: [(&str, &[&str]); 4] = [
    ("portcullis-core", &[]),
    ("portcullis-wire", &[]),
    ("portcullis-ledger", &[]),
    ("portcullis-kube", &["portcullis-core", "portcullis-wire"]),
];

/// Reads `cargo metadata` and fails with every dependency that must not be.
pub(crate) fn check() -> Result {
    let metadata =
        command::output(command::cargo().args(["metadata", "--format-version=1", "--no-deps", "--locked"]))?;
    let metadata: Metadata = serde_json::from_slice(&metadata)?;
    let wrong = violations(&metadata.packages);
    if wrong.is_empty() {
        command::note(&format!("{} crates keep to their places", metadata.packages.len()));
        return Ok(());
    }
    Err(Failure::new(format!("dependencies that must not be:\n  {}", wrong.join("\n  "))))
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `None` for a normal one, else `dev` or `build`.
    kind: Option<String>,
}

fn violations(packages: &[Package]) -> Vec<String> {
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    // What each of ours needs to be built, of ours.
    let built: BTreeMap<&str, Vec<&str>> =
        packages.iter().map(|package| (package.name.as_str(), normal(package, &ours))).collect();

    let mut wrong = Vec::new();
    for package in packages {
        let name = package.name.as_str();
        if LAYERS.contains(&name) {
            let dev = package.dependencies.iter().map(|dependency| dependency.name.as_str());
            for other in reachable(dev.filter(|name| ours.contains(name)), &built) {
                if other != name && LAYERS.contains(&other) {
                    wrong.push(format!("{name} → {other}: a layer must not know another layer"));
                }
            }
        }
        if let Some((_, allowed)) = BOTTOM.iter().find(|(who, _)| *who == name) {
            for other in built.get(name).into_iter().flatten().filter(|other| !allowed.contains(other)) {
                wrong.push(format!("{name} → {other}: {name} may use {} of ours", words(allowed)));
            }
        }
        if let Some((_, forbidden, why)) = FORBIDDEN.iter().find(|(who, _, _)| *who == name) {
            for dependency in &package.dependencies {
                if dependency.kind.is_none() && forbidden.contains(&dependency.name.as_str()) {
                    wrong.push(format!("{name} → {}: {why}", dependency.name));
                }
            }
        }
    }
    wrong
}

fn normal<'a>(package: &'a Package, ours: &BTreeSet<&str>) -> Vec<&'a str> {
    let built = package.dependencies.iter().filter(|dependency| dependency.kind.as_deref() != Some("dev"));
    built.map(|dependency| dependency.name.as_str()).filter(|name| ours.contains(name)).collect()
}

/// All of ours that the given ones need, and they themselves.
fn reachable<'a>(
    from: impl Iterator<Item = &'a str>,
    built: &BTreeMap<&'a str, Vec<&'a str>>,
) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&str> = from.collect();
    while let Some(name) = next.pop() {
        if seen.insert(name) {
            next.extend(built.get(name).into_iter().flatten());
        }
    }
    seen
}

fn words(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a: b c; b: d(dev)` → packages; returns how many violations there are.
    #[track_caller]
    fn check(workspace: &str, expected: &[&str]) {
        let packages: Vec<Package> = workspace
            .split(';')
            .map(|package| {
                let (name, dependencies) = package.split_once(':').unwrap();
                let dependencies = dependencies.split_whitespace().map(|dependency| {
                    let dev = dependency.strip_suffix("(dev)");
                    Dependency {
                        name: dev.unwrap_or(dependency).into(),
                        kind: dev.is_some().then(|| "dev".into()),
                    }
                });
                Package { name: name.trim().into(), dependencies: dependencies.collect() }
            })
            .collect();
        let found = violations(&packages);
        let pairs: Vec<&str> = found.iter().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(pairs, expected);
    }

    #[test]
    fn layers_stand_apart() {
        check("portcullis-core:; portcullis-hold: portcullis-core tokio", &[]);
        check("portcullis-mask:; portcullis-hold: portcullis-mask", &["portcullis-hold → portcullis-mask"]);
        check(
            "portcullis-mask:; portcullis-hold: portcullis-mask(dev)",
            &["portcullis-hold → portcullis-mask"],
        );
    }

    #[test]
    fn a_detour_is_a_dependency_too() {
        check(
            "portcullis-jit:; portcullis-store: portcullis-jit; portcullis-hold: portcullis-store",
            &["portcullis-hold → portcullis-jit"],
        );
        // What another crate needs for its own tests is not a detour.
        check(
            "portcullis-jit:; portcullis-kit: portcullis-jit(dev); portcullis-hold: portcullis-kit(dev)",
            &[],
        );
    }

    #[test]
    fn the_bottom_has_nothing_below() {
        check("portcullis-wire:; portcullis-core: portcullis-wire", &["portcullis-core → portcullis-wire"]);
        check("portcullis-core: tokio", &["portcullis-core → tokio"]);
        check("portcullis-core: tokio(dev) http", &[]);
        check("portcullis-wire: http", &["portcullis-wire → http"]);
        check(
            "portcullis-core:; portcullis-wire:; portcullis-kube: portcullis-core portcullis-wire hyper",
            &[],
        );
    }
}
