"""Runs a command beside an object store of its own: `python benchmarks/store.py COMMAND …`.

The store is moto's, which speaks S3; the command finds its URL in UNPOD_TEST_STORE. Such are
`python benchmarks/kills.py` and `pytest tests/test_sink_contract.py`.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from urllib.request import Request, urlopen

KEYS = {
    "AWS_ACCESS_KEY_ID": "any",
    "AWS_SECRET_ACCESS_KEY": "any",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def main(command: list[str]) -> int:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        urlopen(Request(f"http://{host}:{port}/calls", method="PUT")).close()  # the bucket
        url = f"s3://calls?endpoint_override={host}:{port}&scheme=http"
        return subprocess.run(
            command, env=os.environ | KEYS | {"UNPOD_TEST_STORE": url}, check=False
        ).returncode
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
