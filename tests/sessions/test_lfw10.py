"""What the sessions are for, on photographs: ten persons enrolled from seven frames each, and verified from one."""

from pathlib import Path
from uuid import uuid4

import pytest

from app.db.domains import create_domain
from app.deadline import Deadline
from app.embedder.local import LocalEmbedder
from app.enrolment.images import ImageStore
from app.sessions.service import Kind, SessionService, Wanted
from app.vision.packs import PackStore
from tests.pictures import SHARED
