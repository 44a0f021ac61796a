"""The kinds of jobs, and what does each. A handler is idempotent: it may be broken off anywhere, and is begun again."""

from collections.abc import Mapping
from typing import Final

from app.enrolment.imports import IMPORT
from app.enrolment.photo_rows import JOB_KIND
from app.jobs.context import Handler
from app.jobs.imports import enrol_files
from app.jobs.reference_photos import extract_reference_photos

KINDS: Final[Mapping[str, Handler]] = {IMPORT: enrol_files, JOB_KIND: extract_reference_photos}
