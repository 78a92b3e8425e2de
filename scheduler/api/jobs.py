"""Batch jobs: submit, look, cancel, report progress.

Why answers carry the reason: the first question about deferred work is why it waits.
"""

from __future__ import annotations

import structlog
from fastapi import APIRouter

from scheduler.api.auth import Reader, Writer
from scheduler.api.encode import Json, clean
from scheduler.api.models import JobBody, Name, ProgressBody, SoldBody
from scheduler.service import Service

log = structlog.get_logger("gridpace.api")


def routes(service: Service) -> APIRouter:
    """Routes under /api/v1/jobs."""
    router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])

    @router.get("", summary="Every job that is not forgotten, newest first")
    def listing(_: Reader) -> Json:
        return Json({"jobs": service.jobs()})

    @router.get("/grants", summary="GPUs of every job that has some now, and where jobs should run that may move")
    def grants(_: Reader) -> Json:
        return Json({"grants": service.grants(), "homes": service.coordination.homes()})

    @router.get("/{job_id}", summary="One job")
    def one(job_id: str, _: Reader) -> Json:
        return Json(service.job(job_id))

    @router.post("", summary="Submit a job; it is durably queued when this answers", status_code=201)
    def submit(body: JobBody, name: Writer) -> Json:
        job = service.submit_job(body.request())
        log.info("job.submitted", job_id=clean(job.id), by=clean(name))
        return Json(job, 201)

    @router.delete("/{job_id}", summary="Cancel a job")
    def cancel(job_id: str, name: Writer) -> Json:
        job = service.cancel_job(job_id, name)
        log.info("job.cancelled", job_id=clean(job.id), by=clean(name))
        return Json(job)

    @router.post("/{job_id}/progress", summary="A worker's report of the work done so far")
    def progress(job_id: str, body: ProgressBody, _: Writer) -> Json:
        sold = body.sold.told() if body.sold is not None else None
        return Json(service.report_progress(job_id, body.done_gpu_h, body.finished, sold, body.place()))

    @router.put("/{job_id}/sold", summary="What was sold of a job that is over")
    def sold(job_id: Name, body: SoldBody, _: Writer) -> Json:
        service.report_sold(job_id, body.told())
        return Json({"ok": True})

    return router
