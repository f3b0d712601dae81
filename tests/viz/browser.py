"""What the browser tests share: a JupyterLab or Voila server without the user's settings, and a headless Chromium."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

from helpers import ROOT

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
OPTIONS = [
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]  # 3D without a GPU
STATE = """box => JSON.stringify([...box.querySelectorAll('.js-plotly-plot')].map(g =>
    [g.data, g.layout.title, g.layout.shapes, g.layout.annotations]), (key, value) =>
    value instanceof ArrayBuffer ? [...new Uint8Array(value)]
    : value instanceof DataView ? [...new Uint8Array(value.buffer, value.byteOffset, value.byteLength)]
    : ArrayBuffer.isView(value) ? [...value].map(String) : value)"""


def free_port():
    "A port that nobody listens on, below the range from which the system serves programs that ask for any port."
    for port in range(20000 + os.getpid() % 10000, 32768):
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
                return port
            except OSError:  # taken
                continue
    raise OSError("no free port")


@contextmanager
def server(module, folder, own, *arguments, **variables):
    "Address of a Jupyter program that serves `folder`; its settings and log are in `own`."
    own.mkdir(parents=True, exist_ok=True)
    port = free_port()
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(own),
        "JUPYTERLAB_WORKSPACES_DIR": str(own),
        "JUPYTERLAB_SETTINGS_DIR": str(own),
        "PLOTLY_RENDERER": "plotly_mimetype",
        "OMP_NUM_THREADS": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        **variables,
    }
    with open(own / "server.log", "w") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", module, "--no-browser", f"--port={port}", *arguments],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            end = time.monotonic() + 600
            while True:
                assert running.poll() is None and time.monotonic() < end, (
                    own / "server.log"
                ).read_text()
                with socket.socket() as trial:
                    if trial.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.3)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(running.pid, signal.SIGTERM)
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)


@contextmanager
def lab(folder, own):
    "Address of a JupyterLab that renders cells outside the view too and asks nothing."
    own.mkdir(parents=True, exist_ok=True)
    (own / "overrides.json").write_text(
        json.dumps(
            {
                "@jupyterlab/apputils-extension:notification": {
                    "fetchNews": "false",
                    "checkForUpdates": False,
                },
                "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
            }
        )
    )
    with server(
        "jupyterlab",
        folder,
        own,
        "--allow-root",
        "--ip=127.0.0.1",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=",
        "--ServerApp.disable_check_xsrf=True",
        f"--ServerApp.root_dir={folder}",
        f"--LabApp.app_settings_dir={own}",
        PYTHONPATH=str(ROOT),
    ) as address:
        while True:
            try:
                urllib.request.urlopen(address + "/api", timeout=30)
                break
            except OSError:
                time.sleep(0.3)
        yield address


def stop_kernels(address):
    "Frees the memory of notebooks that are done with."
    with urllib.request.urlopen(address + "/api/kernels", timeout=30) as listed:
        for kernel in json.load(listed):
            urllib.request.urlopen(
                urllib.request.Request(f"{address}/api/kernels/{kernel['id']}", method="DELETE"),
                timeout=30,
            ).close()


def moves(page, box):
    "Moves one control of a box after the other, until one is done that could be moved; yields after each."
    for slider in box.locator(".widget-slider").all():
        handle, track = slider.locator(".noUi-handle").first, slider.locator(".noUi-base").first
        handle.scroll_into_view_if_needed()
        h, t = handle.bounding_box(), track.bounding_box()
        x, y = h["x"] + h["width"] / 2, h["y"] + h["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(
            t["x"] + t["width"] * (0.25 if x > t["x"] + t["width"] / 2 else 0.75), y, steps=4
        )
        page.mouse.up()
        yield
    for menu in box.locator(".widget-dropdown select").all():
        menu.select_option(index=1 if menu.evaluate("m => m.selectedIndex") == 0 else 0)
        yield


def answers(page, box):
    "Whether some control of the box changes its figure, once that has come to rest; no error may stand below it."
    before = None
    while before != (before := box.evaluate(STATE)):
        page.wait_for_timeout(500)
    for _ in moves(page, box):
        for _ in range(240):  # at most a minute; it takes a moment
            page.wait_for_timeout(250)
            if box.evaluate(STATE) != before:
                return not re.search(r"\w+Error: ", box.inner_text())
    return False
