"""Lets containers reach servers on this machine's own 127.0.0.1, and nothing else of it.

    python -m tests.containers.loopback LABEL PORT…      as root

The embedded AWS listens on 127.0.0.1 only, and the SAM CLI cannot run a function in this machine's
network. So when a container with the label starts, sockets are opened on 127.0.0.1 inside its
network, and what arrives there is passed on to the same port here. Prints "ready", and works until
it is killed.
"""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

_CHUNK = 65536


async def main(label: str, ports: Sequence[int]) -> None:
    """Open the ports in each container that starts, until the daemon ends."""
    events = await _docker(
        *("events", "--filter", f"label={label}", "--filter", "type=container"),
        *("--filter", "event=start", "--filter", "event=die", "--format", "{{json .}}"),
    )
    assert events.stdout is not None
    servers: dict[str, list[asyncio.Server]] = {}
    print("ready", flush=True)  # noqa: T201 - to whoever started this
    while line := await events.stdout.readline():
        event = json.loads(line)
        if event["status"] == "die":
            for server in servers.pop(event["id"], []):
                server.close()
            continue
        inspected = await _docker("inspect", "--format", "{{.State.Pid}}", event["id"])
        said, _ = await inspected.communicate()
        # 0, or nothing, where it has ended meanwhile.
        if pid := int(said or 0):
            servers[event["id"]] = [
                await asyncio.start_server(_pass_on, sock=listener)
                for listener in _listeners_inside(pid, ports)
            ]


async def _docker(*words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec("docker", *words, stdout=asyncio.subprocess.PIPE)


def _listeners_inside(pid: int, ports: Sequence[int]) -> list[socket.socket]:
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        os.setns(there, os.CLONE_NEWNET)
        try:
            return [socket.create_server(("127.0.0.1", port)) for port in ports]
        finally:
            os.setns(here, os.CLONE_NEWNET)
    finally:
        os.close(here)
        os.close(there)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    port = writer.get_extra_info("sockname")[1]
    try:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        # The container sees what it would see here: a connection that is closed.
        writer.close()
        return
    await asyncio.gather(_pump(reader, up_writer), _pump(up_reader, writer))
    up_writer.close()
    writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # Either side may hang up; the other one is told by the end of its stream.
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], [int(port) for port in sys.argv[2:]]))
