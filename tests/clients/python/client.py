"""What the official Python client gets to see: lists, watches, exec, logs and errors, as lines of JSON.

    python client.py KUBECONFIG NAMESPACE

Expects a pod `box` and a ConfigMap `settings` in the namespace; makes and removes what it changes.
"""

import json
import sys

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream
from kubernetes.stream.ws_client import ERROR_CHANNEL


def show(what, value):
    print(json.dumps({"what": what, "value": value}, sort_keys=True), flush=True)


def refused(what, call, *arguments, **options):
    try:
        call(*arguments, **options)
        show(what, "not refused")
    except ApiException as error:
        body = json.loads(error.body)
        show(what, {"status": error.status, "reason": body["reason"], "code": body["code"]})


def read(core, apps, namespace):
    maps = core.list_namespaced_config_map(namespace)
    show("list", [[item.metadata.name, sorted(item.data or {})] for item in maps.items])
    settings = core.read_namespaced_config_map("settings", namespace)
    show("read", [settings.metadata.name, settings.metadata.namespace == namespace, settings.data])
    pages, token = [], None
    while True:
        page = core.list_namespaced_config_map(namespace, limit=1, _continue=token)
        pages.append([item.metadata.name for item in page.items])
        token = page.metadata._continue
        if not token:
            break
    show("pages", pages)
    pods = core.list_namespaced_pod(namespace, label_selector="run=box", field_selector="status.phase=Running")
    show("selected", [pod.metadata.name for pod in pods.items])
    show("deployments", [item.metadata.name for item in apps.list_namespaced_deployment(namespace).items])
    # The Python client sends the colon of such a name as %3A.
    role = client.RbacAuthorizationV1Api(core.api_client).read_cluster_role("system:discovery")
    show("system:discovery", [role.metadata.name, sorted(role.rules[0].verbs)])
    refused("not found", core.read_namespaced_config_map, "nothing", namespace)
    refused("forbidden", core.delete_node, "local")
    refused("invalid", core.create_namespaced_config_map, namespace, {"metadata": {"name": "Not A Name"}})


def write_and_watch(core, namespace):
    version = core.list_namespaced_config_map(namespace).metadata.resource_version
    body = {"metadata": {"name": "watched", "labels": {"by": "python"}}, "data": {"n": "0"}}
    core.create_namespaced_config_map(namespace, body)
    for n in range(1, 4):
        core.patch_namespaced_config_map("watched", namespace, {"data": {"n": str(n)}})
    created = core.read_namespaced_config_map("watched", namespace)
    created.data["n"] = "replaced"
    core.replace_namespaced_config_map("watched", namespace, created)
    core.delete_namespaced_config_map("watched", namespace)

    events, watcher = [], watch.Watch()
    for event in watcher.stream(
        core.list_namespaced_config_map, namespace, label_selector="by=python", resource_version=version
    ):
        events.append([event["type"], event["object"].metadata.name, event["object"].data])
        if event["type"] == "DELETED":
            watcher.stop()
    show("watched", events)


def execute(core, namespace):
    script = "echo out; echo err >&2; exit 3"
    session = stream(
        core.connect_get_namespaced_pod_exec, "box", namespace, command=["sh", "-c", script],
        stdout=True, stderr=True, stdin=False, tty=False, _preload_content=False,
    )
    session.run_forever(timeout=30)
    show("exec", [session.read_stdout(), session.read_stderr(), session.returncode])

    session = stream(
        core.connect_get_namespaced_pod_exec, "box", namespace,
        command=["sh", "-c", "while read line; do test $line = bye && exit 0; echo heard $line; done"],
        stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False,
    )
    heard = []
    for word in ["first", "second", "last"]:
        session.write_stdin(word + "\n")
        heard.append(session.readline_stdout(timeout=30))
    # Only now: the client forgets a line that arrives together with the end.
    session.write_stdin("bye\n")
    session.run_forever(timeout=30)
    show("exec with input", [heard, session.returncode])

    said = stream(
        core.connect_get_namespaced_pod_exec, "box", namespace, command=["sh", "-c", "printf '%s|' \"$@\"", "-", "a b", "c&d", "ä"],
        stdout=True, stderr=True, stdin=False, tty=False,
    )
    show("exec of odd words", said)
    many = stream(
        core.connect_get_namespaced_pod_exec, "box", namespace, command=["sh", "-c", "yes 0123456789abcdef | head -c 2000000"],
        stdout=True, stderr=True, stdin=False, tty=False,
    )
    show("exec with much output", [len(many), many[:16]])
    try:
        stream(core.connect_get_namespaced_pod_exec, "nobody", namespace, command=["true"], stdout=True)
        show("exec nowhere", "not refused")
    except ApiException as error:
        show("exec nowhere", error.status)


def logs(core, namespace):
    show("logs", core.read_namespaced_pod_log("box", namespace))
    lines = []
    for line in watch.Watch().stream(core.read_namespaced_pod_log, "box", namespace, tail_lines=2):
        lines.append(line)
        if len(lines) == 2:
            break
    show("followed", lines)


def main(kubeconfig, namespace):
    config.load_kube_config(kubeconfig)
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    read(core, apps, namespace)
    write_and_watch(core, namespace)
    execute(core, namespace)
    logs(core, namespace)
    show("done", ERROR_CHANNEL)


main(*sys.argv[1:])
