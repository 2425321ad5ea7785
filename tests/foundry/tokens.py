"""What gives a hosted agent its tokens: an address on the machine, as the platform's managed identity is one."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

from tests.foundry.stand_in import TOKEN

RESOURCE = "https://ai.azure.com"
_SECRET = "of the machine"


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert self.headers["X-IDENTITY-HEADER"] == _SECRET
        assert parse_qs(urlsplit(self.path).query)["resource"] == [RESOURCE]
        token = {"access_token": TOKEN, "expires_on": "4000000000", "token_type": "Bearer", "resource": RESOURCE}
        body = json.dumps(token).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Tokens:
    """The address, as long as the block lasts. `environment` tells azure-identity of it."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
        self._thread = threading.Thread(target=self._server.serve_forever, name="tokens", daemon=True)
        self.environment = {
            "IDENTITY_ENDPOINT": f"http://127.0.0.1:{self._server.server_address[1]}/msi/token",
            "IDENTITY_HEADER": _SECRET,
        }

    def __enter__(self) -> "Tokens":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
