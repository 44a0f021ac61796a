"""Pictures to faces: decode, detect, align, embed. Pure: knows nothing of Flask, HTTP or the database."""
