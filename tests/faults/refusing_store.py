"""A store that speaks S3 and refuses some calls: moto's, behind a door."""

import io
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Start = Callable[..., Any]


class RefusingStore:
    """S3 on the loopback interface, which refuses a share of all calls once it is told to."""

    def __init__(self, seed: int) -> None:
        self.share = 0.0
        self.never = ""
        """A part of the paths that are never answered."""
        self.refused: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.endpoint = f"127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        never = bool(self.never) and self.never in environ["PATH_INFO"]
        if not never and self._random.random() >= self.share:
            return self._moto(environ, start)
        # What is left of a body would be taken for the connection's next call.
        chunked = bool(environ.get("wsgi.input_terminated"))
        length = -1 if chunked else int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        environ["wsgi.input"] = io.BytesIO(body)
        if never:
            return self._refuse(start, "500 Internal Server Error", "InternalError")
        how = self._random.choice(("error", "busy", "dropped", "lost"))
        self.refused[how] += 1
        if how == "error":
            return self._refuse(start, "500 Internal Server Error", "InternalError")
        if how == "busy":
            return self._refuse(start, "503 Slow Down", "SlowDown")
        if how == "lost":
            # It is done, but nobody hears of it.
            b"".join(self._moto(environ, lambda *_: None))
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionError(how)

    @staticmethod
    def _refuse(start: Start, status: str, code: str) -> Iterable[bytes]:
        body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code></Error>".encode()
        start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]
