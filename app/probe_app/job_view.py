"""Jobs on a page: how far each is, what it gave, and a way to end it."""

import dash_mantine_components as dmc
from dash import dcc

from probe_app.address import write
from probe_app.jobs import Job, Jobs

_COLORS = {
    "waiting": "gray",
    "running": "blue",
    "done": "green",
    "failed": "red",
    "cancelled": "yellow",
    "crashed": "red",
}
_SHOWN = 12


def job_list(jobs: Jobs, work: str) -> object:
    """The newest jobs of one kind."""
    found = (jobs.job(name) for name in jobs.names())
    boxes = [job_box(job) for job in found if job.request.get("work") == work][:_SHOWN]
    return dmc.Stack(boxes, gap="xs") if boxes else dmc.Text("None yet.", c="dimmed")


def job_box(job: Job) -> object:
    """One job: its state, its progress, and what can be done."""
    about = job.request
    metrics = about.get("metrics") or about.get("interventions") or []
    head = dmc.Group(
        [
            dmc.Badge(job.state, color=_COLORS[job.state], variant="light"),
            dmc.Text(f"{about.get('model', '?')}: {', '.join(map(str, metrics))}", size="sm"),
        ],
        gap="xs",
    )
    return dmc.Paper(
        [head, *_inside(job)], withBorder=True, p="xs", className="job", **{"data-state": job.state}
    )


def _inside(job: Job) -> list[object]:
    status = job.status
    if job.state == "done" and "report" in status:
        return [dcc.Link(f"Open {status['report']}", href="/" + write({"report": status["report"]}))]
    if job.state == "failed":
        return [dmc.Alert(str(status.get("message", "")), color="red", title="It failed")]
    if job.state == "crashed":
        said = [
            dmc.Text("Its process ended without a word. The last that it printed:"),
            dmc.Code(job.log or "nothing", block=True),
        ]
        return [dmc.Alert(said, color="red", title="It crashed")]
    if job.ended:
        return []
    done, total = int(status.get("done") or 0), int(status.get("total") or 0)
    return [
        dmc.Text(f"{status.get('what', '')}" + (f" · {done} of {total}" if total else ""), size="xs"),
        dmc.Progress(value=100 * done / total if total else 100, animated=True, striped=not total),
        dmc.Button("Cancel", id={"cancel": job.name}, size="compact-xs", variant="default", n_clicks=0),
    ]
