"""Servers on this machine for tests of fetching: any file, any fault, as much of a hub as its client asks for."""

import contextlib
import http.server
import json
import socket
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def serve(answer, sent: list | None = None):
    """Serve `answer(path, attempt) -> (status, headers, body)` on loopback; yields (address, list of paths asked).

    sent: gets the body of every request.
    """
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if sent is not None:
                sent.append(body)
            path = self.path.split("?")[0]
            asked.append(path)
            status, headers, body = answer(path, asked.count(path))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_POST = do_GET

        def log_message(self, *arguments):
            pass  # a test's output is no place for an access log

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hub(name: str, contents: dict[str, bytes], licence: str):
    """The answers of a hub that holds one repository."""

    def answer(path: str, attempt: int):
        if f"/resolve/{COMMIT}/" in path:
            file = path.split(f"/resolve/{COMMIT}/", 1)[1]
            return 200, {"ETag": f'"{abs(hash(file))}"', "X-Repo-Commit": COMMIT}, contents[file]
        if not path.startswith((f"/api/models/{name}", f"/api/datasets/{name}")):
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if path.endswith("/revision/nosuch"):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if "/tree/" in path:
            tree = [{"type": "file", "path": n, "size": len(c), "oid": "a" * 40} for n, c in contents.items()]
            return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
        info = {"id": name, "sha": COMMIT, "private": False, "downloads": 0, "likes": 0, "tags": []}
        info |= {"cardData": {"license": licence}, "siblings": [{"rfilename": n} for n in contents]}
        return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()

    return answer


def closed_port() -> int:
    """A port of this machine at which nothing answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
