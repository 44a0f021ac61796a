"""Has DeepFace make its own table and index in pgvector, and says what the table is called."""

import json
import sys

from deepface.modules.database.pgvector import PGVectorClient


def main() -> None:
    """The names of its columns stand in `deepface/modules/database/pgvector.py`."""
    client = PGVectorClient(connection_details=json.loads(sys.argv[1])["url"])
    client.initialize_database(model_name="Dlib", detector_backend="dlib", aligned=True, l2_normalized=True)
    client.close()
    print(json.dumps({"table": "embeddings_dlib_dlib_aligned_norm"}))


main()
