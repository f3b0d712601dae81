"""What browser tests share: a headless Chromium, Jupyter servers without the user's settings.

`lab` serves notebooks to be run and `server` any Jupyter program. `opened` opens a page, and says
what it showed where a wait takes too long. `answers` moves the controls of a figure as a reader
does.
"""

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
]  # the last four: 3D without a GPU
PATIENCE = 900_000  # milliseconds; a state is waited for, so only a fault takes so long
# All that a box of figures shows, as text; typed arrays and buffers as lists of numbers.
STATE = """box => {
    const plain = (key, value) => {
        if (value instanceof ArrayBuffer) return [...new Uint8Array(value)];
        if (value instanceof DataView)
            return [...new Uint8Array(value.buffer, value.byteOffset, value.byteLength)];
        return ArrayBuffer.isView(value) ? [...value].map(String) : value;
    };
    const figures = [...box.querySelectorAll('.js-plotly-plot')];
    return JSON.stringify(figures.map(figure => [
        figure.data, figure.layout.title, figure.layout.shapes, figure.layout.annotations
    ]), plain);
}"""


def free_port():
    "A free port, below the range that the system hands to programs without a fixed port."
    for port in range(20000 + os.getpid() % 10000, 32768):
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
                return port
            except OSError:  # taken
                continue
    raise OSError("no free port")


def is_open(port):
    "Whether a server listens there."
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def server(module, folder, own, *arguments, **variables):
    "Address of a Jupyter program, a module or a script with its arguments, that serves `folder`."
    own.mkdir(parents=True, exist_ok=True)
    port = free_port()
    program = ["-m", module] if isinstance(module, str) else module
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
            [sys.executable, *program, "--no-browser", f"--port={port}", *arguments],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while not is_open(port):
                assert running.poll() is None, (own / "server.log").read_text()
                time.sleep(0.3)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(running.pid, signal.SIGTERM)
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)


@contextmanager
def lab(folder, own, **plugins):
    "Address of a JupyterLab that renders cells outside the view too; settings of its plugins."
    own.mkdir(parents=True, exist_ok=True)
    overrides = {
        "@jupyterlab/apputils-extension:notification": {
            "fetchNews": "false",
            "checkForUpdates": False,
        },
        "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
        **plugins,
    }
    (own / "overrides.json").write_text(json.dumps(overrides))
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


# What a reader sees first: a dialog, the kernel's state, the cells that still run, the last lines.
SHOWN = """() => {
    const texts = selector => [...document.querySelectorAll(selector)].map(e => e.innerText.trim());
    const waiting = texts('.jp-InputPrompt').filter(prompt => prompt.includes('*')).length;
    return [
        document.title, location.href,
        ...texts('.jp-Dialog'), ...texts('#jp-main-statusbar'),
        waiting ? `${waiting} cells still run or wait` : '',
        document.body ? document.body.innerText.slice(-1500) : '',
    ].filter(Boolean).join('\\n');
}"""


def shown(page):
    "What a page shows, in words."
    from playwright.sync_api import Error

    try:
        return page.evaluate(SHOWN)
    except Error as error:
        return f"nothing that can be read: {error}"


@contextmanager
def opened(browser, **options):
    "A new page. Where a wait takes too long the error says for what, and what the page showed."
    from playwright.sync_api import TimeoutError

    page = browser.new_page(**options)
    page.set_default_timeout(PATIENCE)
    try:
        yield page
    except TimeoutError as error:
        raise AssertionError(f"{error.message}\nThe page showed:\n{shown(page)}") from None
    finally:
        page.close()


def stop_kernels(address):
    "Frees the memory of notebooks that are done with."
    with urllib.request.urlopen(address + "/api/kernels", timeout=30) as listed:
        kernels = [kernel["id"] for kernel in json.load(listed)]
    for kernel in kernels:
        request = urllib.request.Request(f"{address}/api/kernels/{kernel}", method="DELETE")
        urllib.request.urlopen(request, timeout=30).close()


def drag(page, slider):
    "Moves the handle of a slider into its other half."
    handle, track = slider.locator(".noUi-handle").first, slider.locator(".noUi-base").first
    handle.scroll_into_view_if_needed()
    h, t = handle.bounding_box(), track.bounding_box()
    x, y = h["x"] + h["width"] / 2, h["y"] + h["height"] / 2
    in_right_half = x > t["x"] + t["width"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(t["x"] + t["width"] * (0.25 if in_right_half else 0.75), y, steps=4)
    page.mouse.up()


def moves(page, box):
    "Moves the controls of a box one after the other; yields after each."
    for slider in box.locator(".widget-slider").all():
        drag(page, slider)
        yield
    for menu in box.locator(".widget-dropdown select").all():
        menu.select_option(index=1 if menu.evaluate("m => m.selectedIndex") == 0 else 0)
        yield


def is_busy(page):
    "Whether JupyterLab shows that a kernel computes; other pages do not tell."
    return "Busy" in " ".join(page.locator("#jp-main-statusbar").all_inner_texts())


def wait_until_at_rest(page, box):
    "What a box shows once no kernel computes and that no longer changes."
    before, now = None, box.evaluate(STATE)
    while now != before or is_busy(page):
        page.wait_for_timeout(500)
        before, now = now, box.evaluate(STATE)
    return now


def has_changed(page, box, before):
    "Whether a box comes to show something else; gives up after a minute without a busy kernel."
    idle = 0
    while idle < 240:
        page.wait_for_timeout(250)
        if box.evaluate(STATE) != before:
            return True
        idle = 0 if is_busy(page) else idle + 1
    return False


def answers(page, box):
    "Whether a control of the box changes its figure without an error below it."
    before = wait_until_at_rest(page, box)
    for _ in moves(page, box):
        if has_changed(page, box, before):
            return not re.search(r"\w+Error: ", box.inner_text())
    return False
