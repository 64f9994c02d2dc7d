"""`make check` beyond style: `python tests/hygiene.py audit` asks for known vulnerabilities of the pinned packages, and
`python tests/hygiene.py secrets` looks for passwords and keys in the files of the repository.

The audit needs a vulnerability service (PyPI's). Where none can be reached it says so and is no failure: a machine
without a network can still check its work. What a service reports is a failure.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BASELINE = ".secrets.baseline"  # which detectors look, and what they found that is none
AUDIT = ("-m", "pip_audit", "--requirement", "constraints.txt", "--no-deps", "--disable-pip")
SECONDS = 300
# Megabytes that models and scripts wrote and nobody typed: detect-secrets takes two minutes, our own patterns none.
RECORDED = re.compile(r"assets/.*\.(jsonl|safetensors|png|csv)|assets/(traces|runs|decode)/.*\.json")
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b")
HUB_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")  # detect-secrets does not know the one that people here have


def audit() -> tuple[bool, str]:
    """Whether the pinned packages are free of known vulnerabilities, in words."""
    command = [sys.executable, *AUDIT, "--progress-spinner", "off", "--format", "json"]
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return True, "pip-audit: NOT DONE, the vulnerability service did not answer in time."
    return judged(run.stdout, run.stderr)


def judged(out: str, err: str) -> tuple[bool, str]:
    """What pip-audit's answer means."""
    try:
        packages: list[dict[str, Any]] = json.loads(out)["dependencies"]
    except (ValueError, KeyError, TypeError):
        lines = err.strip().splitlines()
        if any(word in err for word in ("onnection", "ServiceError", "service", "imed out", "resolve")):
            return True, "pip-audit: NOT DONE, the vulnerability service cannot be reached from here."
        return False, f"pip-audit: failed: {lines[-1] if lines else 'it said nothing'}"
    asked = [package for package in packages if "skip_reason" not in package]
    found = [f"{p['name']} {p['version']}: {v['id']}" for p in asked for v in p.get("vulns", ())]
    if found:
        return False, "\n".join(["pip-audit: known vulnerabilities, raise these pins in constraints.txt:", *found])
    if not asked:
        return True, "pip-audit: NOT DONE, the service here knows none of the packages."
    return True, f"pip-audit: {len(asked)} of {len(packages)} pinned packages looked up, no known vulnerability."


def listed() -> list[str]:
    """The repository's files, also new ones that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:  # an unpacked archive
        skipped = {".venv", "__pycache__", "build", "dist"}
        paths = (path for path in ROOT.rglob("*") if path.is_file())
        names = [path.relative_to(ROOT) for path in paths]
        return [name.as_posix() for name in names if not any(p in skipped or p.startswith(".") for p in name.parts)]
    return sorted(name for name in run.stdout.split("\0") if name and (ROOT / name).is_file())


def secrets(names: list[str] | None = None, root: Path = ROOT) -> tuple[bool, str]:
    """Whether the files hold no secret that the baseline does not know, in words."""
    names = listed() if names is None else names
    names = [name for name in names if name != BASELINE]
    command = [sys.executable, "-m", "detect_secrets.pre_commit_hook", "--no-verify", "--baseline", ROOT / BASELINE]
    contents = {name: (root / name).read_bytes() for name in names}
    tokens = [name for name, content in contents.items() if HUB_TOKEN.search(content)]
    if tokens:
        return False, f"A token of the Hub stands in {', '.join(tokens)}: revoke it on the Hub, then take it out."
    keys = [name for name, content in contents.items() if RECORDED.fullmatch(name) and PRIVATE_KEY.search(content)]
    if keys:
        return False, f"A key stands in {', '.join(keys)}: revoke it where it belongs to, then take it out."
    typed = [name for name in names if not RECORDED.fullmatch(name)]
    run = subprocess.run([*command, *typed], cwd=root, capture_output=True, text=True, timeout=SECONDS)
    if run.returncode == 0:
        return True, f"detect-secrets: {len(names)} files, no secret."
    return (
        False,
        f"{run.stdout.strip() or run.stderr.strip()}\nA line that only looks like one: pragma: allowlist secret",
    )


if __name__ == "__main__":
    good, words = {"audit": audit, "secrets": secrets}[sys.argv[1]]()
    print(words)
    sys.exit(0 if good else 1)
