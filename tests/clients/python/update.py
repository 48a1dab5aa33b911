"""What a script does that works on Secrets with the official Python client: reads one, sets a label, writes it back.

    python update.py KUBECONFIG NAMESPACE WAY NAME

Prints what it read and what the server says it is now, as lines of JSON.
"""

import json
import sys

from kubernetes import client, config

STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"


def main(kubeconfig, namespace, way, name):
    config.load_kube_config(kubeconfig)
    core = client.CoreV1Api()

    def patch(body, content_type):
        return core.patch_namespaced_secret(name, namespace, body, _content_type=content_type)

    secret = core.read_namespaced_secret(name, namespace)
    print(json.dumps({"what": "read", "data": secret.data}, sort_keys=True))
    secret.metadata.labels = {"tier": "back"}
    token = {"metadata": {"labels": {"tier": "back"}}, "data": {"password": secret.data["password"]}}
    ways = {
        "replace": lambda: core.replace_namespaced_secret(name, namespace, secret),
        "patch-label": lambda: patch({"metadata": {"labels": {"tier": "back"}}}, STRATEGIC),
        "patch-token": lambda: patch(token, STRATEGIC),
        "patch-whole": lambda: patch(secret, STRATEGIC),
        "merge-whole": lambda: patch(secret, MERGE),
    }
    written = ways[way]()
    print(json.dumps({"what": "written", "data": written.data}, sort_keys=True))


main(*sys.argv[1:])
