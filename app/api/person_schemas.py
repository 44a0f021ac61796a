"""What the API takes and answers about persons who are one, and faces that are not theirs."""

from pydantic import BaseModel, Field

from app.api.schemas import CandidatePerson, Input, PageQuery, PersonOut, PersonPath


class Merge(Input):
    """Whom to merge into the person of the path."""

    from_: str = Field(alias="from", description="label, external id or id of the person who is given up")


class MergeAnswer(BaseModel):
    """The person who remains."""

    person: PersonOut
    moved: int = Field(description="faces that are theirs now")
    dropped: int = Field(description="faces of pictures that they had already")


class RejectionPath(PersonPath):
    """A rejection in the path."""

    rejection_id: str = Field(description="the rejection's id")


class RejectionParameters(Input):
    """Parameters of a rejection, from the form, the query or the JSON body."""

    face: int | None = Field(
        None,
        ge=0,
        description="which face, in the order of the answer of /recognize; the main one where it is not given",
    )
    actual: str | None = Field(None, description="label, external id or id of the person whose face it is")


class RejectionOut(BaseModel):
    """A face that is not the person's; the vector itself is never shown."""

    id: str
    face: int
    image_sha256: str
    actual: CandidatePerson | None
    created_by: str = Field(description="the key that said so")
    created_at: str


class RejectionPage(BaseModel):
    """A page of rejections."""

    items: list[RejectionOut]
    next_cursor: str | None


class DuplicatesQuery(PageQuery):
    """How many persons to examine, and how near."""

    threshold: float | None = Field(
        None, gt=0, le=2, description="largest cosine distance of a pair; the model pack's where it is not given"
    )


class PicturedPerson(CandidatePerson):
    """A person, and whether there is a small picture of them."""

    has_image: bool = Field(description="whether a picture of a face was kept: then there is a thumbnail")


class DuplicatePair(BaseModel):
    """Two persons who may be one."""

    persons: list[PicturedPerson] = Field(min_length=2, max_length=2)
    distance: float = Field(description="cosine distance of their nearest templates")


class DuplicatePage(BaseModel):
    """Pairs of the persons who were examined, nearest first."""

    items: list[DuplicatePair]
    examined: int = Field(description="persons who were compared with all others: `limit`, or fewer with many faces")
    truncated: bool = Field(description="more pairs than are listed: choose a smaller threshold")
    threshold: float
    next_cursor: str | None


class Resembled(BaseModel):
    """Who else has a face like it."""

    person: CandidatePerson
    distance: float = Field(description="cosine distance to that person's nearest face")


class OutlierOut(BaseModel):
    """A face that is far from the others of its person."""

    person: CandidatePerson
    face_id: str
    has_image: bool = Field(description="whether its picture was kept: then there is a thumbnail")
    distance: float = Field(
        description="median of the cosine distances to the person's other faces; of an even number the lower one"
    )
    faces: int = Field(description="faces of the person that were compared, this one included; of two, both are listed")
    resembles: Resembled | None = Field(
        description="the nearest other person, where they are within the model pack's threshold"
    )


class OutlierPage(BaseModel):
    """Outliers among the persons who were examined, farthest first."""

    items: list[OutlierOut]
    examined: int = Field(description="persons who were looked at: `limit`, or fewer with many faces")
    truncated: bool = Field(description="more than are listed")
    threshold: float = Field(description="largest distance of a face that is none")
    next_cursor: str | None
