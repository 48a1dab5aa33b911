//! What there is to read in a pretend pod: a few files every Linux has, and what its volumes mount. Read-only.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::server::{
    Core, kinds,
    object::{entries, items, meta, text},
};

/// A tree of files, by absolute path. A directory is what files are in.
pub(super) struct Files(BTreeMap<String, Vec<u8>>);

/// Directories that are there without a file in them.
const EMPTY: [&str; 3] = ["/root/.", "/tmp/.", "/app/."];

impl Files {
    /// The files of a container: the usual ones, and what its Secrets, ConfigMaps and service account mount.
    pub(super) fn of(core: &Core, pod: &Value, container: &Value) -> Self {
        let name = meta(pod, "name");
        let address = text(&pod["status"]["podIP"]);
        let namespace = meta(pod, "namespace");
        let mut files: BTreeMap<String, Vec<u8>> = EMPTY.map(|path| (path.to_owned(), Vec::new())).into();
        let usual = [
            ("/etc/hostname", format!("{name}\n")),
            ("/etc/hosts", format!("127.0.0.1\tlocalhost\n{address}\t{name}\n")),
            (
                "/etc/os-release",
                "NAME=\"Pretend Linux\"\nID=pretend\nPRETTY_NAME=\"Pretend Linux 1\"\n".into(),
            ),
            (
                "/etc/passwd",
                "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n".into(),
            ),
            ("/etc/group", "root:x:0:\nnogroup:x:65534:\n".into()),
            (
                "/etc/resolv.conf",
                format!("search {namespace}.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\n"),
            ),
            ("/bin/sh", String::new()),
            ("/app/server", String::new()),
        ];
        files.extend(usual.map(|(path, contents)| (path.to_owned(), contents.into_bytes())));
        for mount in items(&container["volumeMounts"]) {
            let volume = items(&pod["spec"]["volumes"]).iter().find(|volume| volume["name"] == mount["name"]);
            let path = text(&mount["mountPath"]).trim_end_matches('/');
            for (file, contents) in volume.map(|volume| mounted(core, namespace, volume)).unwrap_or_default()
            {
                files.insert(format!("{path}/{file}"), contents);
            }
        }
        for (file, contents) in service_account(core, pod) {
            files.insert(format!("/var/run/secrets/kubernetes.io/serviceaccount/{file}"), contents);
        }
        Self(files)
    }

    /// The contents of a file; `None` if there is none of that path.
    pub(super) fn read(&self, path: &str) -> Option<&[u8]> {
        self.0.get(path).filter(|_| !path.ends_with("/.")).map(Vec::as_slice)
    }

    pub(super) fn is_directory(&self, path: &str) -> bool {
        let prefix = within(path);
        self.0.range(prefix.clone()..).next().is_some_and(|(file, _)| file.starts_with(&prefix))
    }

    /// The names in a directory; those of directories end with a slash.
    pub(super) fn list(&self, path: &str) -> Option<BTreeSet<String>> {
        if !self.is_directory(path) {
            return None;
        }
        let prefix = within(path);
        let inside = self.0.keys().filter_map(|file| file.strip_prefix(&prefix)).filter(|rest| *rest != ".");
        Some(inside.map(|rest| rest.split_inclusive('/').next().unwrap_or_default().to_owned()).collect())
    }
}

fn within(path: &str) -> String {
    format!("{}/", path.trim_end_matches('/'))
}

fn mounted(core: &Core, namespace: &str, volume: &Value) -> Vec<(String, Vec<u8>)> {
    let sources = [
        ("secrets", text(&volume["secret"]["secretName"])),
        ("configmaps", text(&volume["configMap"]["name"])),
    ];
    let Some((plural, name)) = sources.into_iter().find(|(_, name)| !name.is_empty()) else {
        return Vec::new();
    };
    let object =
        kinds::find("", plural).and_then(|kind| core.store.get(kind, namespace, name)).unwrap_or_default();
    let decode = |value: &Value| match plural {
        "secrets" => BASE64_STANDARD.decode(text(value)).unwrap_or_default(),
        _ => text(value).as_bytes().to_vec(),
    };
    entries(&object["data"]).map(|(key, value)| (key.clone(), decode(value))).collect()
}

/// What the kubelet mounts for a service account: a live token among it, bound to the pod.
fn service_account(core: &Core, pod: &Value) -> Vec<(String, Vec<u8>)> {
    let namespace = meta(pod, "namespace");
    let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
        "expirationSeconds": 3607, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta(pod, "name")}}});
    match core.tokens.request(&core.store, namespace, account, request) {
        Ok(answer) => vec![
            ("namespace".into(), namespace.into()),
            ("token".into(), text(&answer["status"]["token"]).into()),
            ("ca.crt".into(), core.ca_pem.clone().into_bytes()),
        ],
        Err(_) => Vec::new(),
    }
}

/// An absolute path without `.` and `..`.
pub(super) fn absolute(directory: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{directory}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_walked_without_leaving_the_root() {
        for (directory, path, expected) in [
            ("/etc", "hosts", "/etc/hosts"),
            ("/etc", "../tmp/./x", "/tmp/x"),
            ("/", "../../etc", "/etc"),
            ("/a", "/", "/"),
        ] {
            assert_eq!(absolute(directory, path), expected);
        }
    }

    #[test]
    fn a_directory_is_what_files_are_in() {
        let paths = ["/etc/hosts", "/etc/web/a", "/etcetera", "/tmp/."];
        let files = Files(paths.map(|path| (path.to_owned(), b"x".to_vec())).into());
        assert_eq!(files.list("/").unwrap(), ["etc/", "etcetera", "tmp/"].map(String::from).into());
        assert_eq!(files.list("/etc").unwrap(), ["hosts", "web/"].map(String::from).into());
        assert_eq!(files.list("/tmp/").unwrap(), BTreeSet::new());
        assert!(files.list("/etc/hosts").is_none() && files.read("/tmp/.").is_none());
    }
}
