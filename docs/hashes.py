"""requirements-hashed.txt from settings.ini and constraints.txt; takes `pip install uv`.

The hashes are those of PyPI for Python 3.11 and newer on all systems.
"""

import shlex
import subprocess
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "requirements-hashed.txt"
HEAD = """\
# All packages of `make install` with their hashes; `python docs/hashes.py` writes this file.
# python -m pip install --require-hashes -r requirements-hashed.txt
# python -m pip install --no-deps -e .
"""


def requirements() -> str:  # one per line
    "What `pip install .[dev]` asks for."
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    lines = []
    for group in ("", "report_", "export_", "lab_", "dev_"):
        lines += shlex.split(parser["DEFAULT"][f"{group}requirements"])
    return "\n".join(lines)


if __name__ == "__main__":
    options = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-annotate"]
    command = ["uv", "pip", "compile", *options, "--no-header", "--quiet", "-"]
    command += ["--constraints", str(ROOT / "constraints.txt")]
    done = subprocess.run(
        command, input=requirements(), encoding="utf-8", stdout=subprocess.PIPE, check=True
    )
    TARGET.write_text(HEAD + done.stdout, encoding="utf-8", newline="\n")
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")
