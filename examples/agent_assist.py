"""Help an agent on the phone: when the caller's turn ends, look up what may answer it.

    python examples/agent_assist.py acme support-17 caller

Each turn is printed as one line of JSON. Replace `suggest` with a search in your own articles. It
runs in a thread, so that a slow search delays its own answer and nothing else.
"""

import asyncio
import json
import sys

import natterjack

ARTICLES = {"invoice": "How to read an invoice", "password": "How to set a new password"}


def suggest(question: str) -> list[str]:
    return [title for word, title in ARTICLES.items() if word in question.lower()]


async def assist(question: str, position: str) -> None:
    found = await asyncio.to_thread(suggest, question)
    print(json.dumps({"at": position, "question": question, "articles": found}), flush=True)


async def main(tenant: str, conversation: str, speaker: str) -> None:
    said: list[str] = []
    async with asyncio.TaskGroup() as lookups:
        async for event in natterjack.listen(
            tenant, conversation, speaker, kinds={"final", "turn"}, since="start", until="closed"
        ):
            if event.type == "final":
                said.append(event.text)
            elif event.type == "turn" and event.event == "ended" and said:
                lookups.create_task(assist(" ".join(said), event.position))
                said = []


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:4]))
