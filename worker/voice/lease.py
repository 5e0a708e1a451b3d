"""A worker's lease on a voice session, and the checkpoint that proves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from natterjack.values import ProviderUsage
from natterjack.voice.spec import VoiceSpec
from worker.session.cutoff import Cutoff
from worker.session.lease import BaseLease, EndQuery, RosterQuery, Store
from worker.session.states import State
from worker.session.takeover import (
    Claimant,
    Estimate,
    closed_before,
    crashes,
    may_have_used_more,
)

from .checkpoint import VoiceAccount, VoiceCheckpoint
from .progress import Progress


class VoiceLease(BaseLease[VoiceCheckpoint]):
    """The lease on a voice session."""

    __slots__ = ("_tenant", "cutoff", "progress")

    def __init__(
        self,
        store: Store[VoiceCheckpoint],
        claimant: Claimant,
        spec: VoiceSpec,
        progress: Progress,
        cutoff: Cutoff,
    ) -> None:
        super().__init__(store, _started(claimant, spec))
        self._tenant = spec.tenant
        self.progress = progress
        self.cutoff = cutoff
        progress.save = self.write

    async def _start(
        self, before: VoiceCheckpoint | None, claimant: Claimant, end_of: EndQuery
    ) -> None:
        self.checkpoint.closed_before = closed_before(before)

    async def _adopt(
        self, stored: VoiceCheckpoint, claimant: Claimant, last_record: RosterQuery
    ) -> Estimate | None:
        account = stored.account or VoiceAccount()
        rows: Mapping[str, ProviderUsage] = account.providers
        if may_have_used_more(stored):
            record = await last_record(stored.instance, stored.holder, self._tenant)
            if record is not None:
                before = sum(row.characters for row in rows.values())
                rows = {**rows, **_later(record.providers, rows)}
                after = sum(row.characters for row in rows.values())
                self.progress.reported_characters = after - before
        self.progress.ledger.adopt(rows, account.repeated_characters)
        self.progress.published_before = account.audio_seconds
        self.progress.played_before = account.played_seconds
        self.progress.writer.provider = stored.provider
        self.checkpoint = replace(
            stored,
            epoch=claimant.epoch,
            worker=claimant.worker,
            holder=claimant.holder,
            instance=claimant.instance,
            state=State.TAKING_OVER.value,
            request_sequence=claimant.request_sequence,
            crashes=crashes(stored),
            account=None,
        )
        return None

    async def write(self, *, closed: bool = False, handed_over: bool = False) -> None:
        await super().write(closed=closed, handed_over=handed_over)
        self.progress.saved(self.checkpoint)

    async def _fill(self, *, ends: bool) -> str:
        checkpoint, progress = self.checkpoint, self.progress
        if progress.ready:
            before = checkpoint.position, checkpoint.over
            progress.fill(checkpoint)
            if (checkpoint.position, checkpoint.over) > before:
                checkpoint.crashes, checkpoint.failing_since = 0, None
        progress.ledger.count()
        return progress.account().model_dump_json(exclude_defaults=True)

    def _wake(self) -> None:
        self.progress.wake()


def _later(
    reported: Mapping[str, ProviderUsage], stored: Mapping[str, ProviderUsage]
) -> dict[str, ProviderUsage]:
    """The rows of a roster record that are at least as new as the checkpoint's."""
    return {
        name: usage
        for name, usage in reported.items()
        if name not in stored or usage.characters >= stored[name].characters
    }


def _started(claimant: Claimant, spec: VoiceSpec) -> VoiceCheckpoint:
    return VoiceCheckpoint(
        session_id=claimant.session_id,
        epoch=claimant.epoch,
        worker=claimant.worker,
        holder=claimant.holder,
        instance=claimant.instance,
        state=State.TAKING_OVER.value,
        request_sequence=claimant.request_sequence,
        opened_at=spec.opened_at,
    )
