"""Dashboard and alert rules name only what the engine counts."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "grafana"
# Prometheus gives these to every sample; `le` is of a histogram's buckets.
GIVEN = {"job", "instance"}


def documented() -> dict[str, set[str]]:
    """Return every series by name with its labels; another test holds the page to the engine."""
    found = {}
    page = (ROOT / "docs/reference/metrics.md").read_text()
    for name, kind, labels in re.findall(
        r"^\| `(wattstream_\w+)` \| (\w+) \|([^|]*)\|", page, re.M
    ):
        own = set(re.findall(r"`(\w+)`", labels)) | GIVEN
        if kind == "histogram":
            found |= {f"{name}_sum": own, f"{name}_count": own, f"{name}_bucket": own | {"le"}}
        else:
            found[name] = own
    return found


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return found


def dashboard_expressions() -> list[str]:
    return [
        target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())
    ]


def rule_expressions() -> list[str]:
    text = (FOLDER / "alerts.yml").read_text()
    return re.findall(r"expr: (.*?)\n +(?:for|labels):", text, re.S)


def assert_known(expression: str, series: dict[str, set[str]]) -> None:
    """Check the names of series and labels in an expression."""
    named = re.findall(r"(wattstream_\w+)(?:\{(.*?)\})?", expression)
    for name, selector in named:
        assert name in series, f"{name} in {expression}"
        assert set(re.findall(r"(\w+)=", selector)) <= series[name], expression
    common = set.intersection(*(series[name] for name, _ in named))
    for grouping in re.findall(r"\bby ?\(([^)]*)\)", expression):
        assert set(re.findall(r"\w+", grouping)) <= common, expression


@pytest.mark.parametrize("expression", dashboard_expressions())
def test_a_panel_shows_what_is_counted(expression: str) -> None:
    assert_known(expression, documented())


@pytest.mark.parametrize("expression", rule_expressions())
def test_a_rule_judges_what_is_counted(expression: str) -> None:
    if expression.startswith("up{"):
        return  # Prometheus's own
    assert_known(expression, documented())


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(dashboard_expressions())
    families = {re.sub(r"_(sum|count|bucket)$", "", name) for name in documented()}
    assert {name for name in families if name not in shown} == set()


def test_panels_have_units_and_words_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    done = subprocess.run(
        [program, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_rules_and_they_fire_when_they_should() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")


def test_promtool_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {
            "record": f"panel:{number}",
            "expr": expression.replace("$__rate_interval", "5m"),
        }
        for number, expression in enumerate(dashboard_expressions())
    ]
    file = tmp_path / "rules.yml"
    # JSON is YAML.
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(file))
