"""The KubeRay manifests: each fits its schema, names what exists, and asks for a token."""

import copy
import re
import shlex
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.definitions import (
    CLUSTER,
    IMAGE,
    REFUSED,
    ROOT,
    Tree,
    check,
    containers,
    manifest,
    manifests,
    ray_containers,
    walk,
)

OWN = [d for d in manifests() if d["apiVersion"].startswith("ray.io/")]


def label(document: Tree) -> str:
    metadata = document["metadata"]
    return f"{document['kind']} {metadata.get('name') or metadata['generateName']}"


def strict(schema: Tree) -> Tree:
    """A structural schema of Kubernetes as JSON Schema, where an unknown field is an error.

    Kubernetes would drop the field without a word. Rules in CEL are left out.
    """
    known = ("type", "enum", "required", "pattern", "minimum", "maximum", "minItems", "minLength")
    made = {key: schema[key] for key in known if key in schema}
    if schema.get("x-kubernetes-int-or-string"):
        return {**made, "type": ["integer", "string"]}
    if schema.get("nullable"):
        made["type"] = [schema["type"], "null"]
    if "properties" in schema:
        made["properties"] = {name: strict(part) for name, part in schema["properties"].items()}
    if "items" in schema:
        made["items"] = strict(schema["items"])
    if "additionalProperties" in schema:
        others = schema["additionalProperties"]
        made["additionalProperties"] = strict(others) if isinstance(others, dict) else others
    elif schema.get("type") == "object":
        made["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return made


@pytest.fixture(scope="session")
def schemas(shared_data: Path) -> dict[str, Tree]:
    """Of KubeRay's kinds in ray.io/v1."""
    folder = shared_data / "kuberay_crds"
    if not folder.is_dir():
        pytest.skip("no CRD schemas beside the checkout")
    found = {}
    for path in folder.glob("*.yaml"):
        crd = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]
        (v1,) = (v for v in crd["versions"] if v["name"] == "v1")
        schema = strict(v1["schema"]["openAPIV3Schema"])
        # Kubernetes knows every object's metadata itself.
        names = ("name", "generateName", "namespace", "labels", "annotations")
        schema["properties"]["metadata"] = {
            "type": "object",
            "properties": dict.fromkeys(names, True),
            "additionalProperties": False,
        }
        schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
        found[crd["names"]["kind"]] = schema
    return found


def faults(document: Any, schema: Tree) -> list[str]:
    errors = jsonschema.Draft202012Validator(schema).iter_errors(document)
    return [f"{'.'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in errors]


def at(schema: Tree, path: str) -> Tree:
    for name in path.split("."):
        schema = schema["items"] if name == "[]" else schema["properties"][name]
    return schema


def test_there_are_the_manifests_that_are_promised() -> None:
    assert [d["apiVersion"] for d in OWN] == ["ray.io/v1"] * 5
    assert [d["kind"] for d in OWN] == ["RayCluster", "RayCronJob", *["RayJob"] * 3]
    others = {d["kind"] for d in manifests()} - {d["kind"] for d in OWN}
    roles = {"Role", "RoleBinding", "ServiceAccount"}
    assert others == {"CronJob", "Namespace", "NetworkPolicy", *roles}


@pytest.mark.parametrize("document", OWN, ids=label)
def test_kuberay_manifests_fit_the_crds(document: Tree, schemas: dict[str, Tree]) -> None:
    assert faults(document, schemas[document["kind"]]) == []


_GONE = object()
_GROUP = "spec.rayClusterSpec.workerGroupSpecs.0"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec", _GONE),
        ("spec.entryPoint", "python jobs/score.py"),
        ("spec.backoffLimit", "2"),
        ("spec.rayClusterSpec.authOptions.mode", "perhaps"),
        ("spec.rayClusterSpec.authOptions.enabled", True),
        ("spec.rayClusterSpec.headGroupSpec.template", _GONE),
        ("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0),
        (f"{_GROUP}.maxReplicas", "4"),
        (f"{_GROUP}.template.spec.containers.0.env", [{"value": "x"}]),
        (f"{_GROUP}.template.spec.containers.0.resources.limits.memory", ["1Gi"]),
        (f"{_GROUP}.template.spec.securityContext.runasuser", 1),
        ("metadata.generatedName", "x"),
    ],
)
def test_a_broken_manifest_is_refused(path: str, value: Any, schemas: dict[str, Tree]) -> None:
    broken = copy.deepcopy(manifest("RayJob", "score"))
    *way, last = path.split(".")
    place: Any = broken
    for name in way:
        place = place[int(name)] if name.isdigit() else place[name]
    if value is _GONE:
        del place[last]
    else:
        place[last] = value
    assert faults(broken, schemas["RayJob"]) != []


def test_kubernetes_own_objects_fit_what_the_crds_hold_of_them(schemas: dict[str, Tree]) -> None:
    spec = at(schemas["RayCluster"], "spec")
    cron = manifest("CronJob")["spec"]
    pod = cron["jobTemplate"]["spec"]["template"]
    assert faults(pod, at(spec, "headGroupSpec.template")) == []
    assert set(cron) <= {
        *("schedule", "timeZone", "concurrencyPolicy", "startingDeadlineSeconds", "jobTemplate"),
        *("successfulJobsHistoryLimit", "failedJobsHistoryLimit"),
    }
    rule = at(spec, "networkPolicy.head.ingressRules.[]")
    for policy in manifests("NetworkPolicy"):
        assert set(policy["spec"]) <= {"podSelector", "policyTypes", "ingress"}
        for ingress in policy["spec"].get("ingress", []):
            assert faults(ingress, rule) == []
    assert faults({"from": [{"podselector": {}}]}, rule) != []


def specs() -> list[Tree]:
    """The specification of each Ray cluster."""
    return [tree for d in manifests() for tree in walk(d) if "headGroupSpec" in tree]


def asks_for_a_token(spec: Tree) -> bool:
    return spec.get("authOptions", {}).get("mode") == "token"


def test_every_cluster_asks_for_a_token() -> None:
    assert len(specs()) == 5
    assert all(asks_for_a_token(spec) for spec in specs())
    assert not asks_for_a_token({"headGroupSpec": {}})
    assert not asks_for_a_token({"authOptions": {"mode": "disabled"}})


def test_both_schedules_run_the_same_job_at_the_same_time() -> None:
    nightly, fallback = manifest("RayCronJob")["spec"], manifest("CronJob")["spec"]
    assert nightly["jobTemplate"] == manifest("RayJob", "nightly")["spec"]
    assert nightly["jobTemplate"]["activeDeadlineSeconds"] < 24 * 3600
    by_hand = manifest("RayJob", "score")["spec"]
    assert nightly["jobTemplate"]["rayClusterSpec"] == by_hand["rayClusterSpec"]
    command = "--from-file=rayjob.yaml=cluster/kuberay/rayjob-nightly.yaml"
    assert command in (CLUSTER / "README.md").read_text()
    assert [fallback[k] for k in ("schedule", "timeZone")] == [
        nightly[k] for k in ("schedule", "timeZone")
    ]


def test_versions_and_images_agree_with_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {spec["rayVersion"] for spec in specs()} == {version("ray")}
    own = [c for c in containers() if "kubectl" not in c["image"]]
    assert own
    for container in own:
        gpu = "nvidia.com/gpu" in container["resources"]["limits"]
        assert container["image"] == f"REGISTRY/ray-asd:{project}-{'gpu' if gpu else 'cpu'}"


def test_every_container_is_bounded_and_has_no_privileges() -> None:
    for container in containers():
        for amount in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][amount]), container["name"]
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
    for pod in (tree for d in manifests() for tree in walk(d) if "containers" in tree):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_secrets_stand_there_by_reference_only() -> None:
    assert len(ray_containers()) == 11
    for container in ray_containers():
        assert container["envFrom"] == [{"secretRef": {"name": "ray-asd-store", "optional": True}}]
    assert not any("env" in container for container in containers())
    secret = re.compile(r"(SECRET|TOKEN|PASSWORD|KEY)\w*\s*[=:]\s*[\w+/]{16,}")
    for path in (p for p in CLUSTER.rglob("*") if p.is_file()):
        assert not secret.search(path.read_text()), path.name


def test_only_operator_submitter_and_monitoring_are_let_in() -> None:
    closed = manifest("NetworkPolicy", "nobody")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress"]}
    nodes = manifest("NetworkPolicy", "ray-nodes")["spec"]
    assert nodes["podSelector"]["matchLabels"] == {"ray.io/is-ray-node": "yes"}
    each_other, to_submit, to_watch = nodes["ingress"]
    assert each_other == {"from": [{"podSelector": nodes["podSelector"]}]}
    assert [p["port"] for p in to_submit["ports"] + to_watch["ports"]] == [8265, 8080]
    assert all("podSelector" in peer for peer in to_submit["from"] + to_watch["from"])
    submitter = to_submit["from"][1]["podSelector"]["matchLabels"]
    for job in (tree for d in OWN for tree in walk(d) if "submitterPodTemplate" in tree):
        labels = job["submitterPodTemplate"]["metadata"]["labels"]
        assert submitter.items() <= labels.items()


def test_the_fallback_schedule_may_create_ray_jobs_and_nothing_else() -> None:
    (rule,) = manifest("Role")["rules"]
    assert rule == {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}
    binding, job = manifest("RoleBinding"), manifest("CronJob")["spec"]["jobTemplate"]["spec"]
    assert binding["roleRef"]["name"] == manifest("Role")["metadata"]["name"]
    (subject,) = binding["subjects"]
    assert subject["name"] == job["template"]["spec"]["serviceAccountName"]
    accounts = {d["metadata"]["name"] for d in manifests("ServiceAccount")}
    pods = [tree for d in manifests() for tree in walk(d) if "containers" in tree]
    assert {pod["serviceAccountName"] for pod in pods} == accounts


def test_a_finished_job_leaves_no_cluster() -> None:
    for job in manifests("RayJob"):
        rules = job["spec"]["deletionStrategy"]["deletionRules"]
        for end in ({"jobStatus": "SUCCEEDED"}, {"jobStatus": "FAILED"}):
            of_end = [rule for rule in rules if end.items() <= rule["condition"].items()]
            assert [rule["policy"] for rule in of_end] == ["DeleteCluster", "DeleteSelf"]
            first, then = (rule["condition"]["ttlSeconds"] for rule in of_end)
            assert first <= then  # KubeRay demands it
        assert "shutdownAfterJobFinishes" not in job["spec"]  # which excludes the rules


@pytest.mark.parametrize("document", manifests("RayJob", "RayCronJob"), ids=label)
def test_entrypoints_run_what_the_image_holds(document: Tree) -> None:
    spec = document["spec"].get("jobTemplate", document["spec"])
    assert shlex.split(spec["entrypoint"])[1].startswith(IMAGE)
    check(spec["entrypoint"])


@pytest.mark.parametrize(
    "line",
    [
        "python /opt/ray-asd/jobs/gone.py a --bundle b --out c",
        "python jobs/score.py a --bundle b --out c --fast",
        "python jobs/score.py a --out c",
        "python -c 'from ray_asd import gone'",
        "ray-asd fit m --upstream u",
        "ray job submit --patience 3 -- python jobs/score.py a --bundle b --out c",
        "ray job submit -- ray-asd gone",
        "bash jobs/score.py",
    ],
)
def test_a_command_that_cannot_run_is_refused(line: str) -> None:
    with pytest.raises(REFUSED):
        check(line)


def test_commands_of_the_readme_work() -> None:
    text = (CLUSTER / "README.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).splitlines()
    subprocess.run(["/bin/bash", "-n"], input="\n".join(lines), text=True, check=True)
    ours = [line.removesuffix("&") for line in lines if line.startswith(".venv/bin/")]
    assert len(ours) > 15
    for line in ours:
        check(line)


def test_paths_that_texts_name_exist() -> None:
    for path in (ROOT / "SECURITY.md", *(p for p in CLUSTER.rglob("*") if p.is_file())):
        text = path.read_text()
        for name in re.findall(r"(?<![\w./:-])(?:cluster|jobs|ray_asd)/[\w.*/-]*[\w*]", text):
            assert list(ROOT.glob(name)), f"{path.name}: {name}"
        if path.suffix == ".md":
            for link in re.findall(r"\]\(([^)#]+)\)", text):
                assert (path.parent / link).exists(), f"{path.name}: {link}"
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
    rows = re.findall(r"^\| (`.*?) \|", (CLUSTER / "README.md").read_text(), re.MULTILINE)
    for name in re.findall(r"`([\w./-]+\.\w+)`", " ".join(rows)):
        assert list(CLUSTER.rglob(Path(name).name)), name
