"""Every error that Facedex raises on purpose.

FacedexError
├── InvalidRequest              the request cannot be understood
│   ├── InvalidName             a domain or person name that cannot be kept
│   │   └── UnsafePath          a file of an import whose name leads elsewhere, or to nobody
│   ├── EmptyUpload             no picture where one is needed
│   ├── UploadTooLarge          more bytes than MAX_UPLOAD_BYTES
│   │   └── ImportTooLarge      more files than MAX_IMPORT_FILES, or bytes than MAX_IMPORT_BYTES
│   ├── InvalidArchive          an upload that is no zip, or a damaged one
│   ├── InvalidVector           vectors that cannot be compared
│   ├── InvalidValidity         a window of validity that never opens
│   ├── InvalidMetadata         metadata that cannot be kept
│   │   └── MetadataTooLarge    more bytes than a person's metadata may have
│   ├── MergeWithItself         a person to be merged with themselves
│   ├── SamePerson              a face said not to be a person's, and to be that person's
│   ├── UpgradeRequired         a WebSocket is asked for as if it were a page
│   ├── BenchmarkImpossible     there is nothing to measure with
│   └── ClientGone              the client hung up before it was answered
├── ImageError
│   ├── InvalidImage            the bytes are no picture, or a damaged one
│   ├── UnreadableFile          a file of a zip that cannot be taken out: encrypted, damaged, a link
│   ├── UnsupportedImage        a picture, but of a format that is not accepted
│   ├── ImageTooLarge           more pixels than MAX_IMAGE_PIXELS
│   ├── ImageQuarantined        workers have died of it
│   └── FileNotFound            no file at that path, or one that cannot be read
├── RecognitionError
│   ├── NoFaceFound             the detector found no face
│   ├── SeveralFaces            several faces, none clearly the main one
│   ├── FaceTooSmall            the main face is below the enrolment minimum
│   ├── FaceBlurred             the main face is not sharp enough to enrol
│   ├── InvalidEmbedding        the model makes nothing of the face that can be compared with: not finite, or of no length
│   └── DuplicateFace           this picture, or one just like it, is enrolled already
├── NotFound
│   ├── DomainNotFound
│   ├── PersonNotFound
│   ├── PersonErased            what an answer of before told of was erased since
│   ├── FaceNotFound
│   ├── RejectionNotFound
│   ├── ReferencePhotoNotFound
│   ├── SessionNotFound         no such session of frames, or none within reach
│   ├── JobNotFound
│   └── KeyNotFound
├── Conflict
│   ├── DomainExists
│   ├── DatasetExists           a dataset goes by the name that a new domain is to have
│   ├── PersonExists
│   ├── IdempotencyKeyReused    an idempotency key that was used for another request
│   ├── FaceEnrolled            a face said not to be a person's is enrolled as theirs
│   ├── TooManyRejections       a person for whom no more faces can be rejected
│   ├── TooManyReferencePhotos  a person who would have more old photos than are kept of one
│   ├── ContractMismatch        embeddings of two different models would meet
│   ├── MigrationRunning        another migration into the domain is under way
│   ├── MigrationUnfinished     a migration into the domain has to be finished first
│   ├── NothingToResume         no migration of the dataset has been left unfinished
│   ├── NoTemplates             a person without faces to compare with
│   ├── SessionEnded            a session that is decided, or was cancelled
│   ├── SessionExpired          a session whose time is over
│   ├── SessionTakenOver        another connection goes on with the session
│   ├── TooManySessions         a domain has as many open sessions as it may
│   ├── JobEnded                a job that has ended is to be cancelled
│   ├── JobNotEnded             a job that waits, runs or succeeded is to be tried again
│   ├── FilesFailed             a job left files for another attempt
│   ├── KeyEnded                a revoked or expired key is to be rotated
│   └── TooManyKeys             a domain, or the installation, has as many keys as it may
├── AccessError
│   ├── Unauthenticated         no key, or a wrong one
│   ├── ScopeMissing            a key that is not for this
│   ├── KeyNotAllowed           a key that may more than the one that asks for it
│   ├── KeysUnavailable         nobody can say now whose a key is
│   │   └── SnapshotBusy        another process is writing the snapshot of the keys
│   ├── RateLimited             more requests than the key, or the address, has in a minute
│   ├── TooManyRequests         more requests at once than a key has
│   ├── WrongSessionToken       a session's frames without its token
│   ├── NotTheSessionsKey       a session's frames with another key than the one that made it
│   ├── SessionKeyEnded         the key that made a session was revoked, or has expired
│   ├── TooManyStreams          more open streams than one client has
│   ├── OriginNotAllowed        a page of another origin opens a stream, or acts with a browser's session
│   ├── CsrfTokenWrong          a browser's session acts without the token of its pages
│   └── VectorsNotAllowed       a key that may not see embeddings asks for them
├── ModelError
│   ├── UnknownModel            no pack of that name is installed, or loaded
│   ├── InvalidPack             a pack whose manifest or files are wrong
│   ├── LicenseNotAccepted      a pack whose licence must be accepted first
│   └── DownloadFailed          a pack that could not be fetched
├── EmbedderError
│   ├── PoolBusy                the queue of the worker pool is full
│   ├── WorkerCrashed           the worker died, and so did the one that tried again
│   ├── WorkerTimeout           no answer before the deadline
│   ├── ModelUnavailable        the pool is there but has no model loaded
│   └── EmbedderUnavailable     the pool does not answer at all
├── DatabaseError
│   ├── DatabaseUnavailable     it cannot be reached
│   │   └── DatabaseBusy        no connection was free in time
│   ├── DatabaseTimeout         a statement ran past its limit
│   ├── DatabaseDisabled        VECTOR_DB_ENABLED is false
│   └── DomainNotMigrated       the domain's first migration has not finished, and no dataset takes its place
├── StreamError
│   ├── StreamsFull             as many streams are open as the process serves
│   └── StreamsUnavailable      this web process opens no streams: it is about to end, or is no Gunicorn
├── StorageError                the storage folder refuses
│   ├── PictureNotStored        an enrolled picture cannot be kept
│   └── CacheUnavailable        Redis does not delete what it has of somebody who is erased
└── DatasetError                a file of another system's templates
    ├── DatasetNotFound         no such file, or a folder without one
    ├── AmbiguousDataset        a folder with several
    ├── InvalidDataset          truncated, damaged, or something else altogether
    ├── UnsafeDataset           a pickle that would run code
    ├── DatasetUnavailable      a domain's dataset cannot be used now: still being prepared, or broken
    ├── DatasetTooLarge         more bytes, rows, memory or time than the reader is allowed
    └── DatasetNotWritten       the disk is full, or the folder refuses

`code` is stable and part of the API; `app/api/problems.py` maps each class to an HTTP answer.
"""

from typing import ClassVar


class FacedexError(Exception):
    """Base class. `str(error)` is safe to show to a client: no paths, no secrets, no traceback."""

    code: ClassVar[str] = "error"


class InvalidRequest(FacedexError):
    """The request is malformed; the message names the field."""

    code = "invalid_request"


class InvalidName(InvalidRequest):
    """A domain or person name is empty, too long, or holds control characters."""

    code = "invalid_name"


class EmptyUpload(InvalidRequest):
    """The request carries no picture."""

    code = "empty_upload"


class UploadTooLarge(InvalidRequest):
    """The body is longer than MAX_UPLOAD_BYTES."""

    code = "upload_too_large"


class UnsafePath(InvalidName):
    """The name of a file in an import climbs out, is absolute, or says of nobody whose the picture is."""

    code = "unsafe_path"


class ImportTooLarge(UploadTooLarge):
    """An import has more files than MAX_IMPORT_FILES, or more bytes than MAX_IMPORT_BYTES, packed or not."""

    code = "import_too_large"


class InvalidArchive(InvalidRequest):
    """The upload is no zip, or its directory is damaged."""

    code = "invalid_archive"


class InvalidVector(InvalidRequest):
    """Two vectors cannot be compared: not of one length, zero, or not finite."""

    code = "invalid_vector"


class InvalidValidity(InvalidRequest):
    """`valid_from` is not before `valid_until`."""

    code = "invalid_validity"


class InvalidMetadata(InvalidRequest):
    """The metadata of a person is nested too deeply, or holds what JSON in the database cannot: NUL, half a character."""

    code = "invalid_metadata"


class MetadataTooLarge(InvalidMetadata):
    """The metadata of a person has more bytes than are kept."""

    code = "metadata_too_large"


class MergeWithItself(InvalidRequest):
    """Both persons of a merge are one already."""

    code = "merge_with_itself"


class SamePerson(InvalidRequest):
    """A face is said not to be a person's, and to be that very person's."""

    code = "same_person"


class UpgradeRequired(InvalidRequest):
    """The path is a WebSocket's, and the request does not ask for one."""

    code = "upgrade_required"


class BenchmarkImpossible(InvalidRequest):
    """The client has no face, the photo has none, or what is to be measured does not work."""

    code = "benchmark_impossible"


class ClientGone(InvalidRequest):
    """The client closed its connection before it was answered; nobody reads this."""

    code = "client_gone"


class ImageError(FacedexError):
    """The uploaded bytes cannot be used as a picture."""

    code = "image_error"


class InvalidImage(ImageError):
    """The bytes are not a picture, or are damaged or truncated."""

    code = "invalid_image"


class UnreadableFile(ImageError):
    """A file of a zip cannot be taken out: encrypted, damaged, packed in a way that is not known, or no ordinary file."""

    code = "unreadable_file"


class UnsupportedImage(ImageError):
    """A picture of a format other than JPEG, PNG, WebP and BMP."""

    code = "unsupported_image"


class ImageTooLarge(ImageError):
    """The header announces more pixels than MAX_IMAGE_PIXELS; nothing was decoded."""

    code = "image_too_large"


class ImageQuarantined(ImageError):
    """Workers have died of this very picture: no other is risked."""

    code = "image_quarantined"


class FileNotFound(ImageError):
    """There is no ordinary file at that path, or it cannot be read."""

    code = "file_not_found"


class RecognitionError(FacedexError):
    """The picture was read, but its faces cannot be used as asked."""

    code = "recognition_error"


class NoFaceFound(RecognitionError):
    """The detector found no face above its score threshold."""

    code = "no_face"


class SeveralFaces(RecognitionError):
    """Several faces, none clearly the main one."""

    code = "several_faces"


class FaceTooSmall(RecognitionError):
    """The main face is smaller than the enrolment minimum."""

    code = "face_too_small"


class FaceBlurred(RecognitionError):
    """The main face is less sharp than the enrolment minimum."""

    code = "face_blurred"


class InvalidEmbedding(RecognitionError):
    """An embedding is not finite, or not of unit length."""

    code = "invalid_embedding"


class DuplicateFace(RecognitionError):
    """The same picture, or one with a practically identical embedding, is enrolled already."""

    code = "duplicate"


class NotFound(FacedexError):
    """The thing named does not exist."""

    code = "not_found"


class DomainNotFound(NotFound):
    """No such domain."""

    code = "domain_not_found"


class PersonNotFound(NotFound):
    """No such person in this domain."""

    code = "person_not_found"


class PersonErased(NotFound):
    """A kept answer was about a person who has been erased since."""

    code = "person_erased"


class FaceNotFound(NotFound):
    """No such enrolled face of this person."""

    code = "face_not_found"


class KeyNotFound(NotFound):
    """No such API key, or none within reach."""

    code = "key_not_found"


class RejectionNotFound(NotFound):
    """No face of that id was rejected for this person."""

    code = "rejection_not_found"


class ReferencePhotoNotFound(NotFound):
    """The person has no reference photo of that id."""

    code = "reference_photo_not_found"


class SessionNotFound(NotFound):
    """No such session of frames, or none within reach; also one whose person was erased."""

    code = "session_not_found"


class JobNotFound(NotFound):
    """No such job, or none within reach."""

    code = "job_not_found"


class Conflict(FacedexError):
    """The request contradicts what is stored."""

    code = "conflict"


class DomainExists(Conflict):
    """A domain of that name exists already."""

    code = "domain_exists"


class DatasetExists(Conflict):
    """A dataset goes by the name that a new domain is to have: it would be answered with in the domain's place."""

    code = "dataset_exists"


class PersonExists(Conflict):
    """The label or external id is another person's label, external id or id in this domain."""

    code = "person_exists"


class IdempotencyKeyReused(Conflict):
    """The client used this idempotency key for another request."""

    code = "idempotency_key_reused"


class FaceEnrolled(Conflict):
    """A face that is said not to be a person's is enrolled as theirs: that template has to be deleted instead."""

    code = "face_enrolled"


class TooManyRejections(Conflict):
    """As many faces as are kept were rejected for this person."""

    code = "too_many_rejections"


class TooManyReferencePhotos(Conflict):
    """A person has as many reference photos as may be kept of one."""

    code = "too_many_reference_photos"


class ContractMismatch(Conflict):
    """The domain's templates come from another embedding contract than the loaded model's."""

    code = "contract_mismatch"


class MigrationRunning(Conflict):
    """Another process moves a dataset into the domain."""

    code = "migration_running"


class MigrationUnfinished(Conflict):
    """A migration into the domain was broken off, and has to be finished first."""

    code = "migration_unfinished"


class NothingToResume(Conflict):
    """No migration of this dataset into the domain was broken off."""

    code = "nothing_to_resume"


class JobEnded(Conflict):
    """The job has ended: there is nothing to cancel."""

    code = "job_ended"


class JobNotEnded(Conflict):
    """The job waits, runs, or has succeeded: there is nothing to try again."""

    code = "job_not_ended"


class FilesFailed(Conflict):
    """Files of the job failed for reasons that may pass; another attempt takes them up again."""

    code = "files_failed"


class KeyEnded(Conflict):
    """The API key was revoked, or has expired: it gets no new secret."""

    code = "key_ended"


class TooManyKeys(Conflict):
    """A domain of the key, or the installation, has as many usable keys as it may."""

    code = "too_many_keys"


class NoTemplates(Conflict):
    """The person has no enrolled face that a picture could be compared with."""

    code = "no_templates"


class SessionEnded(Conflict):
    """The session is decided, or was cancelled: it takes no more frames."""

    code = "session_ended"


class SessionExpired(Conflict):
    """The session's time was over before it was decided."""

    code = "session_expired"


class SessionTakenOver(Conflict):
    """A newer connection goes on with the session; what this one has not stored is void."""

    code = "session_taken_over"


class TooManySessions(Conflict):
    """The domain has as many open sessions as it may have."""

    code = "too_many_sessions"


class AccessError(FacedexError):
    """The caller may not do this."""

    code = "access_denied"


class Unauthenticated(AccessError):
    """No API key, or one that is not known."""

    code = "unauthenticated"


class ScopeMissing(AccessError):
    """The key is valid, and not for this; the message says what is."""

    code = "scope_missing"


class KeyNotAllowed(AccessError):
    """A key would get more than the one that asks for it has."""

    code = "key_not_allowed"


class KeysUnavailable(AccessError):
    """The database is away, and the snapshot of the keys is missing, too old, or not this installation's."""

    code = "keys_unavailable"


class SnapshotBusy(KeysUnavailable):
    """Another process has been writing the snapshot of the keys for too long."""

    code = "snapshot_busy"


class RateLimited(AccessError):
    """More requests in a minute than the key, or the address of those without one, has."""

    code = "rate_limited"


class TooManyRequests(AccessError):
    """More requests at once than a key has in one process of the web."""

    code = "too_many_requests"


class TooManyStreams(AccessError):
    """One client has as many streams open in one process of the web as it may."""

    code = "too_many_streams"


class OriginNotAllowed(AccessError):
    """A browser's page of another origin opens a stream (ALLOWED_ORIGINS are let through), or acts with a session's cookie."""

    code = "origin_not_allowed"


class CsrfTokenWrong(AccessError):
    """A request that changes something shows a browser's session, and not the token that its pages were given."""

    code = "csrf_token_wrong"


class VectorsNotAllowed(AccessError):
    """The caller's key does not let it see embeddings."""

    code = "vectors_not_allowed"


class WrongSessionToken(AccessError):
    """The token is missing, or is not this session's."""

    code = "wrong_session_token"


class NotTheSessionsKey(AccessError):
    """The key is not the one that has made the session."""

    code = "not_the_sessions_key"


class SessionKeyEnded(AccessError):
    """The key that has made the session was revoked, or has expired."""

    code = "session_key_ended"


class ModelError(FacedexError):
    """A model pack cannot be used."""

    code = "model_error"


class UnknownModel(ModelError):
    """No pack of that name is installed, or the pool has it not loaded; the message names those that are."""

    code = "unknown_model"


class InvalidPack(ModelError):
    """The pack's manifest is malformed, or a file is missing or has another digest."""

    code = "invalid_pack"


class LicenseNotAccepted(ModelError):
    """The pack's licence has to be accepted before it is installed."""

    code = "license_not_accepted"


class DownloadFailed(ModelError):
    """The pack could not be fetched, or is not what was announced."""

    code = "download_failed"


class EmbedderError(FacedexError):
    """The worker pool gave no result."""

    code = "embedder_error"


class PoolBusy(EmbedderError):
    """All workers are busy and the queue is full."""

    code = "pool_busy"


class WorkerCrashed(EmbedderError):
    """A worker died on this picture, and so did the worker that tried again."""

    code = "worker_crashed"


class WorkerTimeout(EmbedderError):
    """No worker answered before the deadline."""

    code = "worker_timeout"


class ModelUnavailable(EmbedderError):
    """The worker that took the request has no model loaded."""

    code = "model_unavailable"


class EmbedderUnavailable(EmbedderError):
    """Nothing listens at the pool's address."""

    code = "embedder_unavailable"


class DatabaseError(FacedexError):
    """The database gave no result."""

    code = "database_error"


class DatabaseUnavailable(DatabaseError):
    """The database cannot be reached."""

    code = "database_unavailable"


class DatabaseBusy(DatabaseUnavailable):
    """No connection to the database became free in time; it may well be there."""

    code = "database_busy"


class DatabaseTimeout(DatabaseError):
    """A statement ran longer than DB_STATEMENT_TIMEOUT_S."""

    code = "database_timeout"


class DatabaseDisabled(DatabaseError):
    """The service runs without a database: VECTOR_DB_ENABLED is false."""

    code = "database_disabled"


class DomainNotMigrated(DatabaseError):
    """The domain's first migration into the database has not finished."""

    code = "domain_not_migrated"


class StreamError(FacedexError):
    """A stream of a session cannot be opened now."""

    code = "stream_error"


class StreamsFull(StreamError):
    """As many streams are open as one process of the web serves."""

    code = "streams_full"


class StreamsUnavailable(StreamError):
    """This process of the web opens no streams: it is about to end, or runs below another server than Gunicorn."""

    code = "streams_unavailable"


class StorageError(FacedexError):
    """The storage folder cannot be read or written."""

    code = "storage_error"


class PictureNotStored(StorageError):
    """STORE_IMAGES is set, and the picture cannot be written; its face was not enrolled."""

    code = "picture_not_stored"


class CacheUnavailable(StorageError):
    """Redis, which has extracted faces, does not delete them now."""

    code = "cache_unavailable"


class DatasetError(FacedexError):
    """A dataset cannot be used."""

    code = "dataset_error"


class DatasetNotFound(DatasetError):
    """There is no such file, or the folder holds no dataset."""

    code = "dataset_not_found"


class AmbiguousDataset(DatasetError):
    """The folder holds several datasets; the message names them."""

    code = "ambiguous_dataset"


class InvalidDataset(DatasetError):
    """The file is truncated, damaged, or no dataset at all."""

    code = "invalid_dataset"


class UnsafeDataset(DatasetError):
    """The file is a pickle that asks for code to be run. Nothing was."""

    code = "unsafe_dataset"


class DatasetUnavailable(DatasetError):
    """The dataset of a domain is still being prepared, or cannot be used; the message says which."""

    code = "dataset_unavailable"


class DatasetTooLarge(DatasetError):
    """The file has more bytes or rows, or takes more memory or time, than the reader is allowed."""

    code = "dataset_too_large"


class DatasetNotWritten(DatasetError):
    """The file could not be written; what was there before is unchanged."""

    code = "dataset_not_written"
