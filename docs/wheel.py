"""`make wheel`: the package as a wheel that lists the tested packages, the same bytes every time.

The list is a CycloneDX SBOM in `.dist-info/sboms` (PEP 770). It names what was tested, not what is
inside: the wheel holds nothing of others.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ("settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
BUILD = "from setuptools import build_meta; build_meta.build_wheel({!r})"
SBOM = [
    *("-m", "cyclonedx_py", "requirements", "--output-reproducible", "--of", "JSON"),
    *("--pyproject", "pyproject.toml", "requirements-hashed.txt"),
]


def commit_time() -> str:  # seconds since 1970
    "Time of the last commit; 1980 in a copy without history."
    command = ["git", "log", "-1", "--format=%ct"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    return done.stdout.strip() or "315532800"


def sbom(
    version: str,  # of this package
    environment: dict,  # with SOURCE_DATE_EPOCH
) -> str:  # JSON
    "The tested packages, as cyclonedx-bom writes them, without their lines of the file."
    command = [sys.executable, "-W", "ignore", *SBOM]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, encoding="utf-8"
    )
    bill = json.loads(done.stdout)
    root = bill["metadata"]["component"]
    root |= {"type": "library", "version": version, "purl": f"pkg:pypi/lgermt@{version}"}
    for component in bill["components"]:
        component.pop("description", None)
    return json.dumps(bill, indent=1) + "\n"


def build(
    folder: Path,  # where the wheel goes
) -> Path:  # the wheel
    "Builds the wheel and puts the list into it."
    environment = {"SOURCE_DATE_EPOCH": commit_time(), **os.environ}

    def python(*arguments):
        command = [sys.executable, "-W", "ignore", *map(str, arguments)]
        subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True)

    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        source = place / "source"  # without what an earlier build has left
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(
            ROOT / "lgermt", source / "lgermt", ignore=ignored, copy_function=shutil.copyfile
        )
        for name in FILES:
            shutil.copyfile(ROOT / name, source / name)
        python("-c", BUILD.format(str(place)))
        (plain,) = place.glob("*.whl")
        python("-m", "wheel", "unpack", "--dest", place / "open", plain)
        (unpacked,) = (place / "open").iterdir()
        (info,) = unpacked.glob("*.dist-info")
        version = info.name.removesuffix(".dist-info").partition("-")[2]
        (info / "sboms").mkdir()
        text = sbom(version, environment)
        (info / "sboms/lgermt.cdx.json").write_text(text, encoding="utf-8", newline="\n")
        folder.mkdir(parents=True, exist_ok=True)
        python("-m", "wheel", "pack", "--dest-dir", folder, unpacked)
        return folder / plain.name


if __name__ == "__main__":
    print(build(Path(*sys.argv[1:] or [ROOT / "dist"]).resolve()))
