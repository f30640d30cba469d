"""nginx in front of the server here, when it is on the path: it keeps each page as a file once it
was asked for, and sends the file from then on."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr crit;
{user}
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type application/json;
    sendfile on;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream pages {{ server 127.0.0.1:{behind}; keepalive 16; }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        root {folder}/pages;
        location / {{ try_files $uri$arg_page-$arg_page_size.json @pages; }}
        location @pages {{
            proxy_pass http://pages;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Accept-Encoding "";
            proxy_buffers 64 64k;
            proxy_store {folder}/pages$uri$arg_page-$arg_page_size.json;
        }}
    }}
}}
"""


@contextmanager
def fronted(behind: int) -> Iterator[tuple[int, str]]:
    """The port to read from, and what answers there."""
    command = shutil.which("nginx")
    if command is None:
        yield behind, "the server in benchmarks/server.py (no nginx on the path)"
        return
    memory = "/dev/shm"  # for 40,000 small files
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        port = _free_port()
        config = Path(folder, "conf")
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(CONFIG.format(folder=folder, behind=behind, port=port, user=user))
        with subprocess.Popen([command, "-c", str(config), "-p", folder]) as process:
            try:
                _wait(port)
                yield port, "nginx for W1 to W3, benchmarks/server.py for the rest"
            finally:
                process.terminate()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _wait(port: int) -> None:
    """Until it listens."""
    for _ in range(100):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise RuntimeError("nginx did not start")
