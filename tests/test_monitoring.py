"""Prometheus and Grafana: they look where Ray serves its metrics, for names that it exports."""

import ast
import json
import re
import subprocess
import sys

import yaml

from tests.definitions import CLUSTER, RAY, ROOT, Tree, documents, ray_containers

MONITORING = CLUSTER / "monitoring"

# Ray's own exporter, without a Ray.
EXPORT = """
import sys
from prometheus_client import generate_latest
from ray._private.telemetry.open_telemetry_metric_recorder import OpenTelemetryMetricRecorder
ray = OpenTelemetryMetricRecorder()
for kind, name in (word.split(":") for word in sys.argv[1:]):
    if kind == "Counter":
        ray.register_counter_metric(name, "")
    else:
        ray.register_histogram_metric(name, "", [1.0])
    ray.set_metric_value(name, {"node": "one"}, 0.5)
print(generate_latest().decode())
"""


def registered() -> set[tuple[str, str]]:
    """Kind and name of every metric that the project gives to Ray, as its code says."""
    found = set()
    for path in (ROOT / "ray_asd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="Counter" | "Histogram" as kind),
                    args=[ast.Constant(value=str(name)), *_],
                ):
                    found.add((kind, name))
    return found


def panels() -> list[Tree]:
    return json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]


def test_the_dashboard_asks_for_what_ray_exports() -> None:
    names = sorted(f"{kind}:{name}" for kind, name in registered())
    command = [sys.executable, "-c", EXPORT, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    exported = set(re.findall(r"^(ray_\w+)\{", done.stdout, re.MULTILINE))
    asked = {target["expr"] for panel in panels() for target in panel["targets"]}
    named = {name for expr in asked for name in re.findall(r"\b(ray_\w+)\{", expr)}
    own = {name for name in named if "asd_" in name}
    assert own == exported
    assert len(registered()) == 3
    sources = (RAY / "dashboard" / "modules" / "metrics" / "dashboards").glob("*_panels.py")
    rays = " ".join(path.read_text() for path in sources)
    assert [name for name in named - own if not re.search(rf"\b{name}\b", rays)] == []
    labels = {name for expr in asked for name in re.findall(r"by \(([\w, ]+)\)", expr)}
    assert labels == {"reason", "stage", "stage, le", "instance"}


def test_the_readme_names_the_metrics() -> None:
    text = (CLUSTER / "README.md").read_text()
    named = set(re.findall(r"^\| `(ray_asd_\w+)", text, re.MULTILINE))
    assert {name.removesuffix("_total") for name in named} == {
        f"ray_{name.removesuffix('_total')}" for _, name in registered()
    }


def test_the_dashboards_panels_lie_side_by_side() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels()):
        columns = range(place["x"], place["x"] + place["w"])
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken
        assert max(columns) < 24
        taken |= cells


def test_prometheus_looks_where_the_pods_serve_their_metrics() -> None:
    (scrape,) = yaml.safe_load((MONITORING / "scrape-kubernetes.yml").read_text())
    keeps = {
        rule["source_labels"][0]: rule["regex"]
        for rule in scrape["relabel_configs"]
        if rule.get("action") == "keep"
    }
    assert keeps == {
        "__meta_kubernetes_pod_label_ray_io_is_ray_node": "yes",
        "__meta_kubernetes_pod_container_port_name": "metrics",
    }
    assert scrape["kubernetes_sd_configs"][0]["namespaces"]["names"] == ["ray-asd"]
    metrics = {"name": "metrics", "containerPort": 8080}
    assert all(metrics in container["ports"] for container in ray_containers())


def test_prometheus_looks_where_the_machines_serve_their_metrics() -> None:
    machines = yaml.safe_load((MONITORING / "prometheus-machines.yml").read_text())
    (static,) = machines["scrape_configs"][0]["static_configs"]
    (local,) = documents(CLUSTER / "launcher" / "local.yaml")
    addresses = (local["provider"]["head_ip"], *local["provider"]["worker_ips"])
    assert static["targets"] == [f"{address}:8080" for address in addresses]
    for node in ("head", "worker"):
        assert "--metrics-export-port=8080" in local[f"{node}_start_ray_commands"][1]
