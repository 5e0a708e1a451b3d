"""Emulator of Speechmatics' Agent STT for tone words.

Follows the vendor's specification (specs/speechmatics-agent-stt.yaml) and documentation; what it
shares with the realtime API is in realtime.py. Undocumented behavior is marked "our choice".
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, cast

from natterjack.audio import Encoding

from ..faults import Faults
from ..session import Outgoing
from .agent_engine import SegmentEngine
from .emulator import SpeechmaticsEmulator
from .engine import AnyEngine
from .faults import AgentFaults
from .realtime import RecognitionSession
from .spec import AGENT, Specification


class AgentSession(RecognitionSession):
    """One session of Agent STT."""

    specification: ClassVar[Specification] = AGENT
    final_kind: ClassVar[str] = "AddSegment"

    @property
    def _own(self) -> AgentFaults:
        return cast(AgentFaults, self.faults)

    def engine(self, content: dict[str, Any], encoding: Encoding) -> AnyEngine:
        mode = content.get("turn_config", {}).get("turn_detection_mode", "vad")
        config = content["transcription_config"]
        return SegmentEngine(config, mode, self.recognizer(self._rate, encoding), self.words)

    def switch_engine(self, engine: AnyEngine) -> None:
        assert isinstance(engine, SegmentEngine)
        engine.cap_seconds = self._own.segment_cap_seconds

    def usage_info(self, quota: int) -> dict[str, Any]:
        realtime = super().usage_info(quota)
        return {name: realtime[name] for name in ("message", "type", "reason")}

    def error(self, kind: str, reason: str) -> dict[str, Any]:
        return {"message": "Error", "type": kind, "reason": reason}

    def garble(self, final: dict[str, Any]) -> None:
        final["segment"] = None

    def greeting(self) -> list[Outgoing]:
        greeting = super().greeting()
        if self._own.untyped_warning:
            greeting.insert(0, {"message": "Warning", "reason": "A warning without a type"})
        return greeting

    def before(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        if not (self._own.word_messages and message["message"] == "AddSegment"):
            return []
        span, text = message["metadata"], message["segment"]["transcript"]
        return [
            {
                "message": "AddTranscript",
                "metadata": {**span, "transcript": text},
                "results": [
                    {
                        "type": "word",
                        "start_time": span["start_time"],
                        "end_time": span["end_time"],
                        "alternatives": [{"content": word, "confidence": 1.0}],
                    }
                    for word in text.split()
                ],
            },
            {"message": "LanguageInfo", "language": "en", "word_delimiter": " "},
        ]

    def final_text(self, message: dict[str, Any]) -> str:
        if message["message"] != "AddSegment" or not message.get("segment"):
            return ""
        return str(message["segment"]["transcript"])

    def garbage(self) -> dict[str, str | bytes]:
        realtime = super().garbage()
        for name in ("no_metadata", "backwards", "translation"):
            del realtime[name]
        partial = {"message": "AddPartialSegment", "metadata": {"start_time": 0, "end_time": 0}}
        return {
            **realtime,
            "no_segment": json.dumps(partial),
            "not_a_number": json.dumps({**partial, "segment": {"transcript": float("nan")}}),
            "speakers": '{"message": "SpeakersResult", "speakers": []}',
            "no_text": json.dumps({**partial, "segment": {}}),
        }


class SpeechmaticsAgentEmulator(SpeechmaticsEmulator):
    """Server at `ws://127.0.0.1:<port>/v2/agent`, with temporary keys at `/v1/api_keys` over
    HTTP."""

    name: ClassVar[str] = "speechmatics-agent"
    path: ClassVar[str] = "/v2/agent"
    faults_model: ClassVar[type[Faults]] = AgentFaults
    session_type: ClassVar[type[RecognitionSession]] = AgentSession
