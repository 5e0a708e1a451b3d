"""Receive the webhooks of `natterjack webhook`, verify them, and print each final once.

    pip install aiohttp standardwebhooks
    WEBHOOK_SECRET=$(cat secret) python examples/webhook_receiver.py 8080

Replace `print`, and `seen` by a unique column of your database. Answer only when the event is
stored: what is not answered with success comes again.
"""

import os
import sys

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

webhook = Webhook(os.environ["WEBHOOK_SECRET"].strip())
seen: set[str] = set()


async def receive(request: web.Request) -> web.Response:
    try:
        event = webhook.verify(await request.read(), dict(request.headers))
    except WebhookVerificationError:
        return web.Response(status=401)
    webhook_id = request.headers["webhook-id"]
    if event["type"] == "final" and webhook_id not in seen:
        print(event["conversation"], event["speaker"], event["text"], flush=True)
    seen.add(webhook_id)
    return web.Response(status=204)


app = web.Application()
app.router.add_post("/", receive)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
