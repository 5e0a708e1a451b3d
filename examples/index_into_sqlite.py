"""Index what was said, and count each speaker's words, in SQLite: each final exactly once.

    python examples/index_into_sqlite.py acme words.db

Run it as often as you like, also several times at once: the processes share the work. Any of them
may be killed at any time. An event that comes again is known by its id, which is stored in the same
transaction as everything that is made of the event.
"""

import asyncio
import sqlite3
import sys

import natterjack

TABLES = """
    create table if not exists final (
        id text primary key, conversation text, speaker text, start real, text text
    );
    create table if not exists words (
        conversation text, speaker text, count integer, primary key (conversation, speaker)
    );
"""
NEW = "insert into final values (?, ?, ?, ?, ?) on conflict do nothing"
COUNT = (
    "insert into words values (?, ?, ?) on conflict do update set count = count + excluded.count"
)


async def main(tenant: str, path: str) -> None:
    database = sqlite3.connect(path, timeout=60)
    database.executescript(TABLES)
    async with natterjack.durable("index", tenant, kinds=["final"], start="start") as deliveries:
        async for batch in deliveries.batches(100, seconds=0.5):
            with database:  # a transaction
                for event in (delivery.event for delivery in batch):
                    row = (event.id, event.conversation, event.speaker, event.start, event.text)
                    if database.execute(NEW, row).rowcount:
                        words = (event.conversation, event.speaker, len(event.text.split()))
                        database.execute(COUNT, words)
            for delivery in batch:
                await delivery.ack()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:3]))
