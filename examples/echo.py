"""Answer each turn of a speaker with the speaker's own words, and stop when the speaker goes on.

    python examples/echo.py acme call-7 caller

It needs a worker with a voice (WORKER_VOICE), an edge that captures acme.call-7.caller, and
`natterjack-edge play` for acme.call-7.assistant. Replace `answer` to have a conversation.
"""

import asyncio
import sys

import natterjack


def answer(question: str) -> str:
    return question


async def main(tenant: str, conversation: str, speaker: str) -> None:
    speaking = natterjack.speak(
        tenant, conversation, "assistant", interrupt_on=f"{tenant}.{conversation}.{speaker}"
    )
    async with speaking:
        said: list[str] = []
        async for event in natterjack.listen(tenant, conversation, speaker, interims=None):
            if event.type == "final":
                said.append(event.text)
            elif event.type == "turn" and event.event == "ended" and said:
                await speaking.say(answer(" ".join(said)))
                said.clear()
            elif event.type == "status" and event.closing:
                break


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:4]))
