"""Other systems: file handles of Windows, encodings, `~`, places without access, killed workers."""

import ast
import csv
import errno
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ENVIRONMENT, ROOT, TINY, command, run, train

from lgermt.bench.timing import peak_rss
from lgermt.data.io import read_h5, write_image_like
from lgermt.doctor import device_memory
from lgermt.utils.environment import cpu_name

STEPS = ["--iterations", 2]
ASCII = {**ENVIRONMENT, "LC_ALL": "C", "PYTHONUTF8": "0"}


def fsync_of_windows(descriptor):
    "Refuses a handle that may not write."
    import fcntl

    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")


def write_source(scans, folder, ids, times=1):
    "Scans as NIfTI files, each shifted by a voxel, and their table; sides repeated `times`."
    volume = read_h5(scans / "phantom_000" / "mri_norm2.h5")
    image, label = (np.tile(array, (times,) * 3) for array in (volume.image, volume.label))
    rows = ["id,image,label"]
    for number, case in enumerate(ids):
        write_image_like(folder / f"{number}.nii.gz", np.roll(image, number, 0), volume)
        write_image_like(folder / f"{number}_seg.nii.gz", np.roll(label, number, 0), volume)
        rows.append(f"{case},{number}.nii.gz,{number}_seg.nii.gz")
    (folder / "scans.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder / "scans.csv"


def test_every_command_writes_where_fsync_needs_a_handle_to_write(scans, tmp_path, monkeypatch):
    if os.name == "posix":
        monkeypatch.setattr(os, "fsync", fsync_of_windows)
    source = write_source(scans, tmp_path / "source", ["a", "b"])
    data, out = tmp_path / "data", tmp_path / "run"
    run("prepare", source, "--out", data, "--workers", 1, "--test", 1)
    train(data, out, *STEPS, "--labeled", 1, "--method", "vnet")
    checkpoint = ["--checkpoint", out / "last.pt"]
    run("evaluate", *checkpoint, "--data", data, "--out", tmp_path / "scores.json")
    run("predict", *checkpoint, "--out", tmp_path / "masks", tmp_path / "source" / "0.nii.gz")
    assert (tmp_path / "scores.csv").exists()
    assert (tmp_path / "masks" / "predictions.csv").exists()


# What Windows has not, and where it is used behind a guard that a test below goes through.
POSIX_MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = {
    "os": "chown fork getegid geteuid getgid getloadavg getpgid getuid kill killpg mkfifo nice"
    " pread pwrite sched_getaffinity setsid statvfs sysconf uname wait waitid",
    "signal": "SIGALRM SIGCHLD SIGHUP SIGKILL SIGQUIT SIGUSR1 SIGUSR2 alarm pause setitimer",
    "ctypes": "CDLL(None)",
}
GUARDED = {
    "bench/timing.py": {"resource", "/proc"},
    "doctor.py": {"os.sysconf"},
    "training/distributed.py": {"os.kill", "signal.SIGKILL", "/proc"},  # no rank without /proc
    "utils/environment.py": {"signal.SIGKILL", "ctypes.CDLL(None)", "/proc"},  # sys.platform
}


def posix_only(text):
    "What a module uses that only POSIX systems have."
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & POSIX_MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} & POSIX_MODULES
        elif isinstance(node, ast.Constant) and str(node.value).startswith(("/proc", "/dev")):
            found.add("/" + node.value.split("/")[1])
        elif isinstance(node, (ast.Attribute, ast.Call)):
            module, _, name = ast.unparse(node).partition(".")
            if name in POSIX_NAMES.get(module, "").split():
                found.add(f"{module}.{name}")
    return found


def test_what_only_posix_has_is_known_and_guarded():
    assert posix_only("import fcntl\nos.fork()\nopen('/dev/null')") == {"fcntl", "os.fork", "/dev"}
    found = {}
    for path in (ROOT / "lgermt").rglob("*.py"):
        names = posix_only(path.read_text(encoding="utf-8"))
        if names:
            found[path.relative_to(ROOT / "lgermt").as_posix()] = names
    assert found == GUARDED


def test_what_asks_the_system_goes_on_where_it_does_not_tell(monkeypatch):
    read_text = Path.read_text

    def without_proc(path, *arguments, **keywords):
        if path.as_posix().startswith("/proc"):
            raise FileNotFoundError(path)
        return read_text(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "read_text", without_proc)
    assert isinstance(cpu_name(), str)
    if os.name == "posix":
        assert peak_rss() > 0  # getrusage: bytes on macOS, which has no /proc
    monkeypatch.setitem(sys.modules, "resource", None)
    assert math.isnan(peak_rss())
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert device_memory(torch.device("cpu")) is None
    run("doctor", "--device", "cpu")


def command_in_ascii(module, *arguments):
    done = subprocess.run(command(module, *arguments), env=ASCII, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode("utf-8", errors="replace")


@pytest.mark.slow
def test_ids_in_any_script_where_the_system_knows_ascii_alone(scans, tmp_path):
    ids = ["Müller", "左心房", "c"]
    source = write_source(scans, tmp_path / "source", ids)
    data, out = tmp_path / "data", tmp_path / "run"
    command_in_ascii("prepare", source, "--out", data, "--workers", 1)
    names = (data / "train.list").read_text(encoding="utf-8").split()
    assert sorted(names) == sorted(ids)
    (data / "test.list").write_text("左心房\n", encoding="utf-8")
    (data / "train.list").write_text("Müller\nc\n", encoding="utf-8")
    command_in_ascii("train", "--data", data, "--out", out, *TINY, *STEPS, "--method", "vnet")
    scan = data / "左心房" / "mri_norm2.h5"
    checkpoint = ["--checkpoint", out / "last.pt"]
    said = command_in_ascii("predict", *checkpoint, "--out", tmp_path / "masks", scan)
    assert "左心房" in said
    assert (tmp_path / "masks" / "左心房_pred.nii.gz").exists()
    command_in_ascii("evaluate", *checkpoint, "--data", data, "--out", tmp_path / "scores.json")
    with open(tmp_path / "scores.csv", encoding="utf-8", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["左心房"]


@pytest.mark.parametrize("glued", [True, False])
def test_a_tilde_is_the_home_directory(scans, tmp_path, monkeypatch, glued):
    for name in ("HOME", "USERPROFILE"):  # POSIX, Windows
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").symlink_to(scans)
    places = ["--data=~/scans", "--out=~/run"] if glued else ["--data", "~/scans", "--out", "~/run"]
    run("train", *places, *TINY, *STEPS)
    assert (tmp_path / "run" / "last.pt").exists() and not (tmp_path / "~").exists()


def impossible_places(tmp_path):
    "Folders that cannot be made, even by root."
    (tmp_path / "file").touch()
    places = [tmp_path / "file" / "below"]
    if Path("/proc").exists():
        places.append(Path("/proc/not_here"))
    return places


WORK = [  # what a command begins with when its arguments are in order
    "lgermt.train.load_volumes",
    "lgermt.compare.run",
    "lgermt.evaluate.load_model",
    "lgermt.predict.load_models",
    "lgermt.export.load_model",
    "lgermt.prepare.make_plan",
    "lgermt.check.parallel_map",
    "lgermt.benchmark.run_benchmark",
]


def calls_that_write(scans, finished, source, place):
    "Command and arguments whose results would go to `place`."
    checkpoint = ["--checkpoint", finished / "last.pt"]
    scan = scans / "phantom_004" / "mri_norm2.h5"
    return {
        "train": ["--data", scans, "--out", place, *TINY],
        "compare": ["--data", scans, "--out", place, "--methods", "vnet", *TINY],
        "evaluate": [*checkpoint, "--data", scans, "--out", place / "scores.json"],
        "predict": [*checkpoint, "--out", place, scan],
        "export": [*checkpoint, "--out", place],
        "prepare": [source, "--out", place],
        "check": [scans, "--out", place / "page.html"],
        "benchmark": ["--json", place / "times.json"],
    }


def test_a_place_that_cannot_be_written_is_noticed_before_the_work(
    scans, finished, tmp_path, monkeypatch
):
    def no_work(*_, **__):
        raise AssertionError("began to work")

    for name in WORK:
        monkeypatch.setattr(name, no_work)
    source = write_source(scans, tmp_path / "source", ["a", "b"])
    for place in impossible_places(tmp_path):
        for name, arguments in calls_that_write(scans, finished, source, place).items():
            (line,) = run(name, *arguments, code=2).errors
            assert f"cannot write into {place}" in line, line


def workers_of(process):
    "Numbers of the processes that a process has started."
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


def is_running(number):
    "Whether there is a process of that number that has not ended."
    try:
        state = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.fixture
def preparing(scans, tmp_path):
    "`prepare` with two workers, of which the first has done something."
    source = write_source(scans, tmp_path / "source", [f"s{n}" for n in range(12)], times=3)
    arguments = [source, "--out", tmp_path / "data", "--workers", 2]
    process = subprocess.Popen(
        command("prepare", *arguments),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    while process.poll() is None and not list((tmp_path / "data").glob("*/mri_norm2.h5")):
        time.sleep(0.02)
    yield process, arguments
    process.kill()


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="lists a process's children in /proc"
)


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_command(preparing, number):
    process, _ = preparing
    workers = workers_of(process)
    assert process.poll() is None and len(workers) >= 2
    process.send_signal(number)
    process.communicate(timeout=120)  # returns when nobody holds the pipes any more
    assert process.returncode == -number
    deadline = time.monotonic() + 120
    while any(is_running(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(worker) for worker in workers)


@needs_proc
def test_a_killed_worker_is_one_line_and_the_command_goes_on(preparing, tmp_path):
    process, arguments = preparing
    busy = [w for w in workers_of(process) if "spawn_main" in cmdline(w)]
    os.kill(busy[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    line = errors.strip().splitlines()[-1]
    assert process.returncode == 2 and "Traceback" not in errors
    assert line.startswith("lgermt.prepare: a worker process was killed") and "--workers 1" in line
    run("prepare", *arguments)
    assert len(list((tmp_path / "data").glob("*/mri_norm2.h5"))) == 12


def cmdline(number):
    "The command line of a process."
    return Path(f"/proc/{number}/cmdline").read_text()
