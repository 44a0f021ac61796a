"""Moves a dataset into a domain: read, planned, loaded with a checkpoint, indexed, and then switched to in one step."""

from app.datasets.attempt import Order
from app.datasets.compiled import Source
from app.datasets.deepface import describe, find_dataset
from app.datasets.loading import Loading
from app.datasets.plan import Target, choose
from app.datasets.reembedding import require_pool
from app.datasets.rehearsal import Rehearsal
from app.datasets.report import MigrationReport, Progress, Stopwatch
from app.db.domains import find_domain
from app.db.session import Database
from app.errors import DomainNotFound
from app.vision.packs import PackManifest


def migrate(order: Order, database: Database, progress: Progress) -> MigrationReport:
    """Move a dataset into a domain, or go on with a migration that was broken off; the same set comes of it in any case.

    Rows and checkpoint are stored in the same transactions. A new domain is not `complete` until the last of them.

    Raises:
        DatasetError: the dataset cannot be used. A domain that was made for it is gone again; one that was there keeps what
            came before the damage.
        ContractMismatch, InvalidRequest: the plan cannot be followed; nothing was written.
        MigrationRunning, MigrationUnfinished, NothingToResume: as their names say.
        DomainNotFound: the domain was deleted meanwhile.
        EmbedderError, DatabaseError: the migration was broken off, and can be gone on with.
    """
    watch = Stopwatch()
    # First, since a large file takes a while to be looked at.
    target = find_target(database, order.domain, order.pack)
    with watch.timing("read"):
        path = find_dataset(order.path)
        source = Source.of(path)
        info = describe(path)
    plan = choose(info, target, order.pack, order.mode, order.pictures.images if order.pictures else None)
    if plan.mode == "reembed" and order.pictures is not None:
        require_pool(order.pictures.embedder, target.contract)
    attempt: type[Rehearsal | Loading] = Rehearsal if order.dry_run else Loading
    return attempt(order, plan, source, database, progress, watch).run()


def find_target(database: Database, domain: str, pack: PackManifest) -> Target:
    """The domain of that name or id; what it would be, where it does not exist.

    Raises:
        DatabaseError: as `Database.transaction`.
    """
    try:
        with database.transaction() as session:
            found = find_domain(session, domain)
    except DomainNotFound:
        return Target(domain, pack.name, pack.contract.id, pack.contract.dimension, exists=False)
    return Target(found.name, found.model, found.contract, found.dimension, exists=True)
