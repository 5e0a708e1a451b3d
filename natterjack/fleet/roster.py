"""The roster: what every worker tells of itself and its sessions, each second, in `stt_workers`.

Who takes a session over learns from it what a worker that was killed had used; `natterjack
sessions` shows it to people. Nothing else rests on it.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from natterjack.broker import streams
from natterjack.broker.stored import Stored, StreamStore
from natterjack.events import ProviderUsage, Seconds

from .usage import DayUsage

log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0


class SessionRecord(BaseModel):
    """One session, as its holder has it."""

    model_config = ConfigDict(extra="ignore")

    key: Annotated[str, Field(description="<tenant>.<conversation>.<speaker>")]
    session_id: str
    epoch: int
    holder: Annotated[str, Field(description="of whom it is, as in the checkpoint")]
    state: str
    provider: str | None = None
    opened_at: datetime
    lag_seconds: float = 0
    captured_seconds: Seconds = 0
    final_seconds: Seconds = 0
    sent_until: Annotated[int, Field(description="audio before this position was sent once")] = 0
    providers: dict[str, ProviderUsage] = Field(default_factory=dict)


class WorkerPage(BaseModel):
    """Some of a worker's sessions. Key: `<instance>.<page>`."""

    model_config = ConfigDict(extra="ignore")

    instance: Annotated[str, Field(description="the process: a worker's name may be used again")]
    worker: str
    page: int = 0
    pages: int = 1
    at: datetime
    started_at: datetime
    slots: int
    draining: bool = False
    sessions: list[SessionRecord] = Field(default_factory=list)
    usage: Annotated[
        dict[str, DayUsage], Field(description="not in `stt_usage` yet, by the key there")
    ] = Field(default_factory=dict)


def parse_page(stored: Stored) -> WorkerPage | None:
    """The page in an entry; None when it was deleted or is none."""
    if stored.headers.get("KV-Operation") or not stored.data:
        return None
    try:
        return WorkerPage.model_validate_json(stored.data)
    except ValidationError as error:
        log.warning("%s is no worker's record: %s", stored.subject, error.errors()[0]["msg"])
        return None


async def read_pages(store: StreamStore, instance: str = "*") -> list[WorkerPage]:
    """The pages of one worker, or of all. Pages that a record has no more are left out.
    Raises StoreUnavailable."""
    subject = streams.bucket_subject(streams.WORKERS_BUCKET, f"{instance}.*")
    pages = [parse_page(stored) for stored in await store.read_all(subject)]
    found = [page for page in pages if page is not None]
    first = {page.instance: page for page in found if page.page == 0}
    return [p for p in found if p.instance in first and p.page < first[p.instance].pages]
