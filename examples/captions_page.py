"""Live captions of one conversation in a browser.

    python examples/captions_page.py acme townhall        # then open http://127.0.0.1:8090/

It needs `pip install natterjack aiohttp`. All viewers share one reader of the transcript. A page
that loses its connection asks again by itself, and then shows all that was said meanwhile.
"""

import asyncio
import json
import sys

from aiohttp import web

import natterjack

PAGE = """<!doctype html><meta charset="utf-8"><title>Captions</title>
<style>body { font: 2rem sans-serif; margin: 2rem } i { opacity: .6 }</style>
<main></main>
<script>
const main = document.querySelector("main");
new EventSource("captions").onmessage = ({ data }) => main.replaceChildren(
  ...JSON.parse(data).map(([speaker, text, final]) => {
    const line = document.createElement("p");
    line.append(speaker + ": ", Object.assign(document.createElement(final ? "span" : "i"),
                                              { textContent: text }));
    return line;
  }));
</script>"""


class Captions:
    """The newest captions, for any number of viewers; a slow one skips to the newest."""

    def __init__(self) -> None:
        self.text = "[]"
        self.changed = asyncio.Event()

    async def run(self, tenant: str, conversation: str) -> None:
        async for transcript in natterjack.follow(tenant, conversation):
            final = [(line.name, line.text, True) for line in transcript.lines[-20:]]
            interim = [(line.name, line.text, False) for line in transcript.interims]
            self.text = json.dumps(final + interim)
            self.changed.set()
            self.changed = asyncio.Event()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            changed = self.changed
            await response.write(f"data: {self.text}\n\n".encode())
            await changed.wait()


async def page(_: web.Request) -> web.Response:
    return web.Response(text=PAGE, content_type="text/html")


async def main(tenant: str, conversation: str, port: int) -> None:
    captions = Captions()
    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/captions", captions.stream)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        await captions.run(tenant, conversation)
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1], sys.argv[2], int([*sys.argv, "8090"][3])))
