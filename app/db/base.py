"""What all tables have in common."""

from datetime import datetime
from typing import Any, Final

import numpy as np
from pgvector import Bit
from pgvector.sqlalchemy import BIT, VECTOR
from sqlalchemy import CheckConstraint, DateTime, LargeBinary, MetaData, Text
from sqlalchemy.dialects.postgresql import REAL
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator

from app.db.codes import BITS
from app.vision.faces import Float32Array, UInt8Array

UNIT_TOLERANCE: Final = 1e-3
"""An embedding that is farther from unit length was not normalised."""


def unit_embedding() -> CheckConstraint:
    """The constraint that the table's `embedding` has unit length; `vector` itself refuses what is not finite."""
    return CheckConstraint(f"abs(vector_norm(embedding) - 1) <= {UNIT_TOLERANCE}", name="embedding")


class Embedding(TypeDecorator[Float32Array]):
    """A `vector` without a fixed length in SQL; float32, (D,) in Python. Each partition fixes D by a constraint."""

    impl = VECTOR
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> Float32Array | None:
        """The driver's list as an array."""
        return None if value is None else np.asarray(value, dtype=np.float32)


class Code(TypeDecorator[UInt8Array]):
    """A code of `app.db.codes`: `bit(1024)` in SQL; uint8, (128,) in Python."""

    impl = BIT(BITS)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Bit | None:
        """The array as the driver takes it."""
        return None if value is None else Bit(value.tobytes())

    def process_result_value(self, value: Any, dialect: Any) -> UInt8Array | None:
        """The driver's text as an array."""
        return None if value is None else np.packbits(np.frombuffer(value.encode(), np.uint8) == ord("1"))


class Base(DeclarativeBase):
    """Constraint names are fixed by a rule, so that migrations can name what they change."""

    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map = {str: Text, datetime: DateTime(timezone=True), bytes: LargeBinary, float: REAL}  # noqa: RUF012
