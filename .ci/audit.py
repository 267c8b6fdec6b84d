"""Look up every locked version in PyPI's advisories; fail where a fixed version is known.

`python .ci/audit.py LOCK…`, with pip-audit in the same environment. Where the advisories cannot be
had, it says so and ends well: a release with known flaws is asked for first, as a control.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_CONTROL = "jinja2==2.10\n"
_LIMIT_S = 60


def main() -> int:
    """Return 1 where a locked version has a known vulnerability and a fix."""
    with tempfile.TemporaryDirectory() as folder:
        control = Path(folder, "control.txt")
        control.write_text(_CONTROL)
        found = _audited([control], "--no-deps")
        if found is None or not any(package.get("vulns") for package in found):
            print("No advisories can be had from here: NOTHING was audited.")
            return 0
    found = _audited([Path(lock) for lock in sys.argv[1:]], "--require-hashes")
    if found is None:
        print("The advisories were there, and then were not in time: NOTHING was audited.")
        return 0
    skipped = [package["name"] for package in found if "skip_reason" in package]
    if skipped:
        print(f"without an answer: {', '.join(skipped)}")
    must_change = False
    for package in found:
        for flaw in package.get("vulns", []):
            fixes = ", ".join(flaw["fix_versions"])
            must_change |= bool(fixes)
            names = " ".join([flaw["id"], *flaw["aliases"]])
            print(
                f"{package['name']} {package['version']}: {names}, fixed in: {fixes or 'none yet'}"
            )
    if must_change:
        print("Bring the locks up to date with `make lock`, and the ranges in pyproject.toml.")
    else:
        print(f"{len(found) - len(skipped)} packages audited: none has a known flaw with a fix.")
    return int(must_change)


def _audited(files: list[Path], how: str) -> list[dict[str, Any]] | None:
    """Return what is known of each package, or None where there was no whole answer."""
    named = [part for file in files for part in ("--requirement", str(file))]
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", how, "--format", "json"]
    command += ["--progress-spinner", "off", "--timeout", "5", *named]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_LIMIT_S)
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError):
        return None
    return packages


if __name__ == "__main__":
    sys.exit(main())
