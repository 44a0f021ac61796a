"""`reference_photo`: the old photos that came with one request become templates of their person."""

from app.jobs.context import JobContext


def extract_reference_photos(context: JobContext) -> None:
    """Extract those that wait still; broken off anywhere, it goes on with the rest.

    Raises:
        EmbedderError, DatabaseError, StorageError: some have to be tried again.
    """
    context.result = dict(
        context.services.references.extract_for_job(
            context.domain_id,
            context.job_id,
            client=context.job.created_by,
            request_id=context.job.request_id or "",
            progress=context.progress,
            cancelled=context.cancelled,
        )
    )
