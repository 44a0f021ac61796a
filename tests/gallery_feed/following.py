"""Somebody who keeps a copy of a gallery by its feed."""

from dataclasses import dataclass, field

import numpy as np

from app.gallery_feed.service import GalleryFeed
from app.gallery_pages import Header, PageMember, decode


@dataclass
class Follower:
    """What it has: by key, the member and the templates' bytes."""

    feed: GalleryFeed
    domain: str
    limit: int = 1000
    version: str | None = None
    members: dict[str, tuple[PageMember, bytes]] = field(default_factory=dict)
    headers: list[Header] = field(default_factory=list)

    def next_page(self) -> bool:
        """Take over one page; whether another follows."""
        page = self.feed.page(self.domain, self.version, self.limit, lambda _etag: False)
        header, templates = decode(page.body)
        self.headers.append(header)
        if header.full:
            self.members.clear()
        ends = np.cumsum([member.templates for member in header.members]).astype(int)
        for member, end in zip(header.members, ends, strict=True):
            self.members[member.key] = member, templates[end - member.templates : end].tobytes()
        for key in header.removed:
            self.members.pop(key, None)
        self.version = header.version
        return header.more

    def sync(self) -> "Follower":
        """All pages."""
        while self.next_page():
            pass
        return self

    @property
    def names(self) -> set[str]:
        return {member.name for member, _templates in self.members.values()}

    @property
    def last(self) -> Header:
        return self.headers[-1]


def everything(feed: GalleryFeed, domain: str) -> dict[str, tuple[PageMember, bytes]]:
    """The gallery as somebody reads it who begins now."""
    return Follower(feed, domain).sync().members
