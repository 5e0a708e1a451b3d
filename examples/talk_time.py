"""Reports how much each speaker talks, from all stored events of a tenant: a line of JSON each.

python examples/talk_time.py acme > talk_time.jsonl
"""

import asyncio
import json
import sys
from collections import defaultdict

import natterjack


async def main(tenant: str) -> None:
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    words: dict[tuple[str, str], int] = defaultdict(int)
    async for event in natterjack.listen(tenant, kinds={"final"}, since="start", until="stored"):
        if event.type == "final":
            who = event.conversation, event.speaker
            seconds[who] += event.end - event.start
            words[who] += len(event.text.split())
    for (conversation, speaker), duration in sorted(seconds.items()):
        count = words[conversation, speaker]
        print(
            json.dumps(
                {
                    "conversation": conversation,
                    "speaker": speaker,
                    "seconds": round(duration, 1),
                    "words": count,
                    "words_per_minute": round(60 * count / duration) if duration else None,
                }
            )
        )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1]))
