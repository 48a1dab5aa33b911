#!/usr/bin/env python3
"""Writes schema.txt: how the built-in kinds of all groups and versions are laid out in protobuf.

Reads the Go types of the published API modules (their struct tags are where generated.proto comes from, and unlike it say
what JSON calls a field, whether it is inlined, and whether absence differs from zero):

    ./generate.py "$(go env GOMODCACHE)/k8s.io" v0.37.2 > schema.txt
"""

import pathlib
import re
import sys

root, version = pathlib.Path(sys.argv[1]), sys.argv[2]
api = root / f"api@{version}"
# Where a package's messages are named after another group than its directory says.
GROUPS = {"apiserverinternal": "internal"}
EXTRA = {
    f"apimachinery@{version}/pkg/apis/meta/v1": ("meta", "v1"),
    f"apiextensions-apiserver@{version}/pkg/apis/apiextensions/v1": ("apiextensions", "v1"),
    f"apiextensions-apiserver@{version}/pkg/apis/apiextensions/v1beta1": ("apiextensions", "v1beta1"),
    f"kube-aggregator@{version}/pkg/apis/apiregistration/v1": ("apiregistration", "v1"),
    f"kube-aggregator@{version}/pkg/apis/apiregistration/v1beta1": ("apiregistration", "v1beta1"),
}
# Kinds of meta/v1 that are bodies of any group version. Table is not served in protobuf.
META = "Status DeleteOptions List PartialObjectMetadata PartialObjectMetadataList APIGroup APIGroupList APIResourceList APIVersions".split()
# Types whose JSON is not their structure.
SPECIAL = {"Time", "MicroTime", "Quantity", "IntOrString", "Duration", "RawExtension", "JSON"}
SCALARS = {"string", "bool", "int32", "int64", "float64", "[]byte"}
OMITTED = {"ManagedFieldsEntry"}  # the server's own bookkeeping: names of fields, no values


def prefix(group, version):
    """What the schema calls a package: version v1 goes without saying."""
    return group if version == "v1" else f"{group}.{version}"


packages = {root / path: prefix(*of) for path, of in EXTRA.items()}
for directory in sorted(api.glob("*/v*")):
    if (directory / "types.go").exists():
        group = directory.parent.name
        packages[directory] = prefix(GROUPS.get(group, group), directory.name)
by_import = {}
for directory, name in packages.items():
    module, _, rest = directory.relative_to(root).as_posix().partition("/")
    by_import[f"k8s.io/{module.split('@')[0]}/{rest}"] = name

structs, aliases, imports = {}, {}, {}
for directory, package in packages.items():
    for file in directory.glob("*.go"):
        if file.name.startswith(("generated", "zz_")) or file.name.endswith("_test.go"):
            continue
        text = file.read_text()
        for alias, path in re.findall(r'^\s+(?:(\w+) )?"(k8s\.io/[^"]+)"$', text, re.M):
            imports[package, alias or path.split("/")[-1]] = by_import.get(path)
        for name, body in re.findall(r"^type (\w+) struct \{\n(.*?)^\}", text, re.M | re.S):
            structs[package, name] = body
        for name in re.findall(r"^type (\w+) struct\s*\{\s*\}", text, re.M):
            structs[package, name] = ""
        for name, of in re.findall(r"^type (\w+) (?:= )?((?:\[\]|map\[|\*)?[\w.\[\]]+)$", text, re.M):
            aliases[package, name] = of


def resolve(package, go):
    """The type of a field: (package, type as the schema writes it)."""
    if go in SCALARS:
        return go
    if go.startswith("*"):
        return resolve(package, go[1:]) + "*"
    if go.startswith("[]"):
        of = resolve(package, go[2:])
        # A list of lists is a list of messages around their items.
        return "[]" + ("ExtraValue" if of == "[]string" else of)
    if go.startswith("map["):
        value = resolve(package, go[go.index("]") + 1:])
        # A map's value cannot be repeated: a named list is a message around its items.
        return "map:" + ("ExtraValue" if value == "[]string" else value)
    if "." in go:
        imported, name = go.split(".")
        if name in SPECIAL:
            return name
        if name in ("UID", "NodeName"):
            return "string"
        known = imports.get((package, imported))
        # What stands in packages that are not read here is known by name only.
        return resolve(known, name) if known else "unread"
    if go in SPECIAL:
        return go
    if (package, go) in aliases:
        return resolve(package, aliases[package, go])
    if (package, go) not in structs:
        return "unread"
    wanted.append((package, go))
    return f"{package}.{go}"


def is_kind(package, name, body):
    return name in META if package == "meta" else re.search(r"^\s+(\w+\.)?TypeMeta\s", body, re.M)


wanted, done = [(package, name) for (package, name), body in structs.items() if is_kind(package, name, body)], set()
lines = []
while wanted:
    package, name = wanted.pop(0)
    if (package, name) in done:
        continue
    done.add((package, name))
    fields = []
    for line in structs[package, name].splitlines():
        field = re.match(r"\s*(?:(\w+)\s+)?([*\[\]\w.]+)\s+`(.*)`", line)
        proto = field and re.search(r'protobuf:"([^"]*)"', field[3])
        if not proto:
            continue
        go, json = field[2], re.search(r'json:"([^"]*)"', field[3])
        if go.split(".")[-1].lstrip("*[]") in OMITTED:
            continue
        number, own = proto[1].split(",")[1], re.search(r"name=(\w+)", proto[1])
        kind = resolve(package, go)
        # No name in JSON: the fields stand in the parent. No tag for JSON: somebody writes it by hand, and any name will do.
        called = (json[1].split(",")[0] or "-") if json else own[1]
        fields.append(f"{number} {called} {kind}")
    if fields:
        lines.append(f"{package}.{name}: " + "; ".join(fields))
    else:
        lines.append(f"{package}.{name}:")

print(f"# Made by generate.py from k8s.io/api and its neighbours, {version} (Apache-2.0).")
print("# message: number, name in JSON (- is inlined), type; [] repeated, map: by string, * tells absent from zero.")
print("\n".join(sorted(lines)))
