"Sections on the package and on the packages it needs."

import hashlib
import importlib.util
import json
import re
import tempfile
import zipfile
from pathlib import Path

from helpers import ROOT

from trust.common import Figures, module_run


def wheel(size, seed):
    "The package, built twice, is the same wheel byte for byte, and lists what it was tested with."
    specification = importlib.util.spec_from_file_location("wheel", ROOT / "docs/wheel.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    contents = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(2):
            path = module.build(Path(folder) / str(number))
            contents.append(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".cdx.json")]
            listed = len(json.loads(archive.read(name))["components"])
    text = (ROOT / "requirements-hashed.txt").read_text(encoding="utf-8")
    tested = len(re.findall(r"^[\w.-]+==", text, re.M))
    same = contents[0] == contents[1]
    return Figures(
        "2 builds, a CycloneDX list of packages in each",
        f"{'the same' if same else 'different'} bytes; {listed} of {tested} packages listed",
        same and listed == tested,
        {"sha256": hashlib.sha256(contents[0]).hexdigest(), "listed": listed, "tested": tested},
    )


def audit(size, seed):
    "No package of `requirements-hashed.txt` has a known vulnerability."
    done = module_run(
        "pip_audit",
        *("--requirement", ROOT / size.pins, "--no-deps", "--disable-pip"),
        *("--format", "json", "--progress-spinner", "off"),
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        said = done.stderr.strip().splitlines()[-1:]
        text = "not checked: the list of vulnerabilities was not reached"
        return Figures(f"{size.pins}, by pip-audit", text, None, {"said": said})
    vulnerable = {
        package["name"]: [known["id"] for known in package["vulns"]]
        for package in packages
        if package.get("vulns")
    }
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    checked = len(packages) - len(unknown)
    found = f"{sum(map(len, vulnerable.values()))} known vulnerabilities in {checked} packages"
    if unknown:
        found += f"; the list of these was not reached for {len(unknown)}"
    return Figures(
        f"{len(packages)} packages, by pip-audit",
        found,
        False if vulnerable else None if unknown else True,
        {"vulnerable": vulnerable, "unknown": unknown},
    )
