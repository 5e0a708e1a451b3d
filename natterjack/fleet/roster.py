"""The roster: what each worker reports about itself and its sessions once a second.

It is stored in the bucket `stt_workers`. A worker that takes over a session reads from it what a
killed worker had used, and `natterjack sessions` shows it. Nothing else depends on it.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from natterjack.broker import streams
from natterjack.broker.stored import Stored, StreamStore
from natterjack.errors import first_problem
from natterjack.settings import Kind
from natterjack.values import ProviderUsage, Seconds

from .usage import DayUsage

log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0


class SessionRecord(BaseModel):
    """One session, as reported by its holder."""

    model_config = ConfigDict(extra="ignore")

    key: Annotated[str, Field(description="<tenant>.<conversation>.<speaker>")]
    kind: Kind = "transcribe"
    session_id: str
    epoch: int
    holder: Annotated[str, Field(description="the session's holder, as in the checkpoint")]
    state: str
    reason: Annotated[str | None, Field(description="why a queued session is held")] = None
    provider: str | None = None
    opened_at: datetime
    repeats: Annotated[str | None, Field(description="as in the session's events")] = None
    continues: Annotated[str | None, Field(description="as in the session's events")] = None
    lag_seconds: float = 0
    captured_seconds: Seconds = 0
    final_seconds: Seconds = 0
    sent_until: Annotated[
        int, Field(description="audio before this position was sent at least once")
    ] = 0
    providers: dict[str, ProviderUsage] = Field(default_factory=dict)


class WorkerPage(BaseModel):
    """A part of a worker's record, stored under `<instance>.<page>`."""

    model_config = ConfigDict(extra="ignore")

    instance: Annotated[
        str, Field(description="unique name of the process; a worker's name may be reused")
    ]
    worker: str
    page: int = 0
    pages: int = 1
    at: datetime
    started_at: datetime
    slots: int
    draining: bool = False
    sessions: list[SessionRecord] = Field(default_factory=list)
    usage: Annotated[
        dict[str, DayUsage], Field(description="usage not yet in `stt_usage`, by its key there")
    ] = Field(default_factory=dict)


def parse_page(stored: Stored) -> WorkerPage | None:
    """Parse an entry of the roster; None if it was deleted or is invalid."""
    if stored.headers.get("KV-Operation") or not stored.data:
        return None
    try:
        return WorkerPage.model_validate_json(stored.data)
    except ValidationError as error:
        log.warning("%s is not a worker's record: %s", stored.subject, first_problem(error))
        return None


async def read_pages(store: StreamStore, instance: str = "*") -> list[WorkerPage]:
    """Read the current pages of one worker or of all. Raises StoreUnavailable.

    Pages left over from when the worker's record was longer are skipped.
    """
    subject = streams.bucket_subject(streams.WORKERS_BUCKET, f"{instance}.*")
    pages = [parse_page(stored) for stored in await store.read_all(subject)]
    found = [page for page in pages if page is not None]
    first = {page.instance: page for page in found if page.page == 0}
    return [p for p in found if p.instance in first and p.page < first[p.instance].pages]
