#!/usr/bin/env python3
"""Writes schema.txt: how built-in kinds are laid out in protobuf, for those that clients write.

Reads the Go types of k8s.io/api and k8s.io/apimachinery (their struct tags are where generated.proto comes from, and unlike
it say what JSON calls a field, whether it is inlined, and whether absence differs from zero):

    ./generate.py "$(go env GOMODCACHE)/k8s.io" v0.37.2 > schema.txt
"""

import pathlib
import re
import sys

root, version = pathlib.Path(sys.argv[1]), sys.argv[2]
PACKAGES = {
    "meta": f"apimachinery@{version}/pkg/apis/meta/v1",
    "core": f"api@{version}/core/v1",
    "apps": f"api@{version}/apps/v1",
    "authentication": f"api@{version}/authentication/v1",
    "authorization": f"api@{version}/authorization/v1",
    "autoscaling": f"api@{version}/autoscaling/v1",
    "batch": f"api@{version}/batch/v1",
    "certificates": f"api@{version}/certificates/v1",
    "coordination": f"api@{version}/coordination/v1",
    "networking": f"api@{version}/networking/v1",
    "policy": f"api@{version}/policy/v1",
    "rbac": f"api@{version}/rbac/v1",
    "scheduling": f"api@{version}/scheduling/v1",
    "storage": f"api@{version}/storage/v1",
}
# Kinds of version v1 of their group. Not those that hold objects of any kind (List, ControllerRevision).
ROOTS = {
    "meta": ["DeleteOptions"],
    "core": "Binding ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod PodTemplate "
            "ReplicationController ResourceQuota Secret Service ServiceAccount".split(),
    "apps": "DaemonSet Deployment ReplicaSet StatefulSet".split(),
    "authentication": "SelfSubjectReview TokenRequest TokenReview".split(),
    "authorization": "LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview".split(),
    "autoscaling": "HorizontalPodAutoscaler Scale".split(),
    "batch": "CronJob Job".split(),
    "certificates": ["CertificateSigningRequest"],
    "coordination": ["Lease"],
    "networking": "Ingress IngressClass NetworkPolicy".split(),
    "policy": "Eviction PodDisruptionBudget".split(),
    "rbac": "ClusterRole ClusterRoleBinding Role RoleBinding".split(),
    "scheduling": ["PriorityClass"],
    "storage": "StorageClass VolumeAttachment".split(),
}
IMPORTS = {"metav1": "meta", "v1": "core", "apiv1": "core", "corev1": "core", "api": "core"}
SPECIAL = {"Time", "MicroTime", "Quantity", "IntOrString", "ExtraValue"}
SCALARS = {"string", "bool", "int32", "int64", "float64", "[]byte"}
OMITTED = {"ManagedFieldsEntry"}  # the server drops them: it tracks no field owners

structs, aliases = {}, {}
for package, path in PACKAGES.items():
    for file in (root / path).glob("*.go"):
        if file.name.startswith("generated") or file.name.startswith("zz_") or file.name.endswith("_test.go"):
            continue
        text = file.read_text()
        for name, body in re.findall(r"^type (\w+) struct \{\n(.*?)^\}", text, re.M | re.S):
            structs[package, name] = body
        for name, of in re.findall(r"^type (\w+) ((?:\[\]|map\[|\*)?[\w.\[\]]+)$", text, re.M):
            aliases[package, name] = of


def resolve(package, go):
    """The type of a field: (package, type as the schema writes it)."""
    if go in SCALARS:
        return go
    if go.startswith("*"):
        return resolve(package, go[1:]) + "*"
    if go.startswith("[]"):
        return "[]" + resolve(package, go[2:])
    if go.startswith("map["):
        value = resolve(package, go[go.index("]") + 1:])
        # A map's value cannot be repeated: a named list is a message around its items.
        return "map:" + ("ExtraValue" if value == "[]string" else value)
    if "." in go:
        imported, name = go.split(".")
        if name in SPECIAL:
            return name
        if imported == "types":
            return "string"
        # What stands in packages that are not read here (alpha APIs, objects of any kind) is known by name only.
        return resolve(IMPORTS[imported], name) if imported in IMPORTS else "unread"
    if go in SPECIAL:
        return go
    if (package, go) in aliases:
        return resolve(package, aliases[package, go])
    if (package, go) not in structs:
        return "unread"
    wanted.append((package, go))
    return f"{package}.{go}"


wanted, done = [(package, name) for package, names in ROOTS.items() for name in names], set()
lines = []
while wanted:
    package, name = wanted.pop(0)
    if (package, name) in done:
        continue
    done.add((package, name))
    fields = []
    for line in structs[package, name].splitlines():
        field = re.match(r'\s*(?:(\w+)\s+)?([*\[\]\w.]+)\s+`.*?json:"([^"]*)".*?protobuf:"([^"]*)"', line)
        if not field:
            continue
        _, go, json, proto = field.groups()
        if go.split(".")[-1].lstrip("*[]") in OMITTED:
            continue
        number = proto.split(",")[1]
        kind = resolve(package, go)
        # No name in JSON: the fields stand in the parent.
        fields.append(f"{number} {json.split(',')[0] or '-'} {kind}")
    lines.append(f"{package}.{name}: " + "; ".join(fields))

print(f"# Made by generate.py from k8s.io/api and k8s.io/apimachinery {version} (Apache-2.0).")
print("# message: number, name in JSON (- is inlined), type; [] repeated, map: by string, * tells absent from zero.")
print("\n".join(sorted(lines)))
