"""The page of ``pnp-mlpatch app``: a form, a run in the background, and its report."""

from __future__ import annotations

import html
import threading
from typing import Any

from pnp_mlpatch import denoisers, operators, solvers
from pnp_mlpatch._optional import require
from pnp_mlpatch.cli._app_task import MOST_BYTES, PICTURES, SETTINGS, Task
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.atomic import out_of_memory
from pnp_mlpatch.solvers import State
from pnp_mlpatch.viz._of_result import report_of
from pnp_mlpatch.viz.report import render

POLL = 300  # milliseconds between two looks at a run
RED = "#b3261e"
STYLE = "font-family:system-ui,sans-serif"
WELCOME = "Choose a picture, how it was taken, and a denoiser; then press Run."


class Job:
    """A task that runs in a thread of its own."""

    def __init__(self, task: Task):
        self.task, self.iteration, self.stop = task, 0, False
        self.page: str | None = None
        self.error: str | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _see(self, state: State) -> bool:
        self.iteration = state.iteration
        return self.stop

    def _run(self) -> None:
        try:
            result, given = self.task.solve(self._see)
            self.page = render(report_of(result, **given, **self._about()))
        except Exception as error:  # whatever goes wrong is said on the page
            said = " ".join(str(error).split()) or type(error).__name__
            self.error = f"The memory does not suffice: {said}" if out_of_memory(error) else said

    def _about(self) -> dict[str, Any]:
        task = self.task
        name = task.name if task.picture == "upload" else task.picture
        title = f"{name}: {task.operator}, {task.denoiser}, {task.solver}"
        asked = {
            name: value for name, value in vars(task).items() if name not in ("content", "setting")
        }
        label = SETTINGS.get(task.operator, (None,))[0]
        asked |= {} if label is None else {label: task.setting}
        return {"title": title, "settings": asked, "command": task.code()}


class Form:
    """The widgets of a page, one for each visitor."""

    def __init__(self, pn: Any):
        w = pn.widgets
        self.picture = w.Select(name="Picture", options=list(PICTURES))
        self.upload = w.FileDropper(
            name="Upload",
            multiple=False,
            max_file_size=f"{MOST_BYTES // 2**20}MB",
            visible=False,
            height=90,
        )
        self.measured = w.Checkbox(name="the upload is the data, not the truth", visible=False)
        self.size = w.Select(name="Pixels of a side", options=[128, 256, 512])
        known = [name for name in SETTINGS if name in operators.names()]
        self.operator = w.Select(name="Operator", options=known)
        self.setting = w.FloatInput()
        self.noise = w.FloatInput(name="Noise (0: estimate it)", value=0.05, start=0, step=0.01)
        names = denoisers.names()
        self.denoiser = w.Select(name="Denoiser", options=names, value="mlpatch")
        self.solver = w.Select(name="Solver", options=solvers.names(), value="admm")
        self.sigma = w.FloatInput(name="Sigma (0: from the noise)", value=0.0, start=0, step=0.01)
        self.iterations = w.IntInput(name="Iterations", value=20, start=1, end=500)
        self.run = w.Button(name="Run", button_type="primary")
        self.stop = w.Button(name="Stop", disabled=True)
        self.show = w.Toggle(name="Show the code")
        self.progress = pn.indicators.Progress(value=0, max=20, width=280)
        self.message = pn.pane.HTML(_said(WELCOME), width=290)
        self.code = pn.pane.HTML("", sizing_mode="stretch_width")
        self.page = pn.pane.HTML("", sizing_mode="stretch_width")
        self.job: Job | None = None
        self.picture.param.watch(self._ask_upload, "value")
        self.operator.param.watch(self._ask_setting, "value")
        self.show.param.watch(self._show_code, "value")
        self.run.on_click(self._start)
        self.stop.on_click(self._stop)
        self._ask_setting()

    def task(self) -> Task:
        """Return what the widgets hold."""
        files = self.upload.value or {}
        name, content = next(iter(files.items()), ("", b""))
        content = content.encode() if isinstance(content, str) else content
        fields = ("picture", "size", "operator", "setting", "noise", "denoiser", "solver")
        fields += ("sigma", "iterations")
        values = {field: getattr(self, field).value for field in fields}
        if empty := [field for field, value in values.items() if value is None]:
            raise InputError(f"Fill in: {', '.join(empty)}.")
        return Task(**values, name=name, content=content, measured=self._is_data())

    def _is_data(self) -> bool:
        return self.picture.value == "upload" and bool(self.measured.value)

    def _ask_upload(self, *_: Any) -> None:
        self.upload.visible = self.measured.visible = self.picture.value == "upload"

    def _ask_setting(self, *_: Any) -> None:
        label, low, high, value, step = SETTINGS[self.operator.value]
        self.setting.param.update(start=None, end=None)
        self.setting.param.update(
            name=(label or "").capitalize(), value=value, step=step, visible=label is not None
        )
        self.setting.param.update(start=low, end=high)

    def _show_code(self, *_: Any) -> None:
        try:
            text = html.escape(self.task().code())
        except InputError as error:
            self.message.object = _said(str(error), RED)
            return
        shown = f'<pre id="code" style="white-space:pre-wrap">{text}</pre>'
        self.code.object = shown if self.show.value else ""

    def _start(self, *_: Any) -> None:
        self._show_code()
        try:
            task = self.task()
        except InputError as error:
            self.message.object = _said(str(error), RED)
            return
        self.job = Job(task)
        self.run.disabled, self.stop.disabled = True, False
        self.progress.param.update(value=0, max=task.iterations)
        self.message.object = _said("It runs.")

    def _stop(self, *_: Any) -> None:
        if self.job is not None:
            self.job.stop = True
            self.message.object = _said("It stops after this iteration.")

    def look(self) -> None:
        """Show how far the run is, and its report once it has ended."""
        job = self.job
        if job is None:
            return
        self.progress.value = min(job.iteration, self.progress.max)
        if job.thread.is_alive():
            return
        self.job = None
        self.run.disabled, self.stop.disabled = False, True
        if job.error is not None:
            self.message.object = _said(job.error, RED)
        else:
            self.message.object = _said(f"Finished after {job.iteration} iterations.")
            self.page.object = _framed(job.page or "")


def _said(text: str, colour: str = "#1c2126") -> str:
    return f'<p id="said" style="{STYLE};color:{colour}">{html.escape(text)}</p>'


def _framed(page: str) -> str:
    """Return a report in a frame that can do nothing but run its own script."""
    return (
        '<iframe title="report" sandbox="allow-scripts" style="width:100%;height:85vh;border:0" '
        f'srcdoc="{html.escape(page)}"></iframe>'
    )


def serve(port: int, browser: bool) -> None:
    """Serve the page on this machine only, until Ctrl-C."""
    pn = require("panel", "pnp-mlpatch app")
    require("jinja2", "pnp-mlpatch app")
    pn.extension("filedropper")

    def page() -> Any:
        form = Form(pn)
        pn.state.add_periodic_callback(form.look, POLL)
        left = pn.Column(
            *(form.picture, form.upload, form.measured, form.size, form.operator, form.setting),
            *(form.noise, form.denoiser, form.solver, form.sigma, form.iterations),
            pn.Row(form.run, form.stop, form.show),
            *(form.progress, form.message),
            width=320,
        )
        right = pn.Column(form.code, form.page, styles={"flex": "1 1 400px", "min-width": "0"})
        return pn.FlexBox(left, right, flex_wrap="wrap", sizing_mode="stretch_width")

    pn.serve(
        page,
        address="127.0.0.1",
        port=port,
        websocket_origin=[f"127.0.0.1:{port}", f"localhost:{port}"],
        websocket_max_message_size=2 * MOST_BYTES,
        show=browser,
        title="pnp-mlpatch",
    )


__all__ = ["Form", "Job", "serve"]
