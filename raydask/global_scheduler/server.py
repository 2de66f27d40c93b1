import asyncio, os
from raydask.wire.loop_connection import FrameProtocol
from raydask.wire import messages as w
def run_global_scheduler(path, urls, password, window):
    def on(p, m):
        if isinstance(m, w.CreateActor): p.send(w.ActorPlaced(m.actor_id, m.node))
        elif isinstance(m, (w.ClaimName, w.FindActor)): p.send(w.ActorFound(m.number, b"", b""))
    async def main():
        loop=asyncio.get_running_loop()
        await loop.create_unix_server(lambda: FrameProtocol(on, None), path)
        await asyncio.Event().wait()
    asyncio.run(main())
