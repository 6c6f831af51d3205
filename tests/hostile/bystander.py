"""Another tenant, who asks for a little all the while: `python -P tests/hostile/bystander.py HOST:PORT MODEL`.

The key comes first on standard input; it ends when that is closed. Each answer is a line of JSON on standard output:
when it was asked for (seconds of the monotonic clock), how long it took, and its status. It is a process of its own,
so that whoever sends hostile bodies does not hold it up.
"""

from __future__ import annotations

import http.client
import json
import select
import sys
import time

PAUSE_S = 0.01
TIMEOUT_S = 60


def main() -> None:
    address, model = sys.argv[1:]
    headers = {"authorization": f"Bearer {sys.stdin.readline().strip()}", "content-type": "application/json"}
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 1})
    while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        begin_s = time.monotonic()
        connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        response.read()
        connection.close()
        sys.stdout.write(json.dumps([begin_s, time.monotonic() - begin_s, response.status]) + "\n")


if __name__ == "__main__":
    main()
