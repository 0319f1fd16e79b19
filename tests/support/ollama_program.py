"""What `bin/ollama` of the fake archives runs: Ollama's command line and HTTP surface, with nothing behind them.

Written from notes on real runs of Ollama 0.6.2 and its sources; standard library alone. It keeps the store, prunes it,
and refuses what the real one refuses; the text that it "generates" is canned, unless FAKE_OLLAMA_XLLAMACPP names a
Python with xllamacpp, which then runs the model for real. Nothing more is claimed from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

RELEASE = "0.0.0"
BEHAVIOUR: dict[str, str] = {}
PREFIX = Path(sys.argv[0]).resolve().parent.parent
WORDS = [
    "Paris",
    "is",
    "the",
    "capital",
    "of",
    "France",
    "and",
    "lies",
    "on",
    "the",
    "Seine",
    "as",
    "it",
    "always",
    "did",
]
BLOB = re.compile(r"sha256-[0-9a-f]{64}")
DIGEST = re.compile(r"sha256[:-][0-9a-f]{64}")
GRACE = 3600.0


def release() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", RELEASE)[:3])


def knob(name: str) -> str:
    return os.environ.get(f"FAKE_OLLAMA_{name}") or BEHAVIOUR.get(f"FAKE_OLLAMA_{name}", "")


def fail(text: str) -> None:
    sys.stderr.write(f"Error: {text}\n")
    sys.exit(1)


def log(text: str, level: str = "INFO") -> None:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    sys.stderr.write(f'time={moment} level={level} source=routes.go:1 msg="{text}"\n')
    sys.stderr.flush()


def record(kind: str, **values: object) -> None:
    if knob("RECORD"):
        with Path(knob("RECORD")).open("a") as stream:
            stream.write(json.dumps({"kind": kind, **values}) + "\n")


def address() -> tuple[str, int]:
    """Return host and port of OLLAMA_HOST as Ollama reads it: scheme, host and port may each be left out."""
    text = os.environ.get("OLLAMA_HOST", "").strip().strip("\"'")
    scheme, found, rest = text.partition("://")
    port = {"http": 80, "https": 443}.get(scheme if found else "", 11434)
    host, _slash, _path = (rest if found else text).partition("/")
    name, colon, number = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, number = host, ""
    return ("127.0.0.1" if not name and not colon else name.strip("[]")), int(number) if number.isdigit() else port


def models_folder() -> Path:
    if os.environ.get("OLLAMA_MODELS"):
        return Path(os.environ["OLLAMA_MODELS"])
    return Path(home()) / ".ollama" / "models"


def home() -> str:
    if not os.environ.get("HOME"):
        fail("$HOME is not defined")
    return os.environ["HOME"]


# ── the store ────────────────────────────────────────────────────────────────────────────────────────────────────────


def full_name(text: str) -> tuple[str, str, str, str]:
    rest, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:
        rest, tag = text, "latest"
    parts = rest.split("/")
    parts = [*["registry.ollama.ai", "library"][: 3 - len(parts)], *parts]
    return parts[0], parts[1], parts[2], tag


def short_name(parts: tuple[str, ...]) -> str:
    host, namespace, model, tag = parts
    owner = (
        f"{host}/{namespace}/" if host != "registry.ollama.ai" else "" if namespace == "library" else f"{namespace}/"
    )
    return f"{owner}{model}:{tag}"


def manifests() -> dict[str, Path]:
    root = models_folder() / "manifests"
    found = sorted(path for path in root.glob("*/*/*/*") if path.is_file())
    return {short_name(path.relative_to(root).parts): path for path in found}


def manifest_of(text: str) -> Path | None:
    wanted = short_name(full_name(text)).lower()
    return next((path for name, path in manifests().items() if name.lower() == wanted), None)


def blob(digest: str) -> Path:
    return models_folder() / "blobs" / digest.replace(":", "-")


def layers_of(path: Path) -> list[dict]:
    document = json.loads(path.read_bytes())
    return [*document["layers"], document["config"]]


def layer_of(path: Path, kind: str) -> Path | None:
    for layer in layers_of(path):
        if layer["mediaType"].endswith(kind):
            return blob(layer["digest"])
    return None


def prune() -> None:
    """Delete what no manifest names, and every other name too: interrupted pulls, even a README."""
    if os.environ.get("OLLAMA_NOPRUNE"):
        return
    try:
        used = {layer["digest"].replace(":", "-") for path in manifests().values() for layer in layers_of(path)}
    except (ValueError, KeyError):
        log("corrupt manifests detected, skipping prune operation.  Re-pull or delete to clear", "WARN")
        return
    folder = models_folder() / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    doomed = [path for path in folder.iterdir() if path.name not in used]
    if release() >= (0, 21, 0):
        doomed = [path for path in doomed if time.time() - path.lstat().st_mtime > GRACE]
    for path in doomed:
        path.unlink()
    log(f"total unused blobs removed: {len(doomed)}")


def listed(name: str, path: Path) -> dict:
    document = json.loads(path.read_bytes())
    config_file = blob(document["config"]["digest"])
    config = json.loads(config_file.read_bytes()) if config_file.exists() else {}
    details = {
        "parent_model": "",
        "format": config.get("model_format", ""),
        "family": config.get("model_family", ""),
        "families": config.get("model_families"),
        "parameter_size": config.get("model_type", ""),
        "quantization_level": config.get("file_type", ""),
    }
    return {
        "name": name,
        "model": name,
        "modified_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(path.stat().st_mtime)),
        "size": sum(layer["size"] for layer in layers_of(path)),
        "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
        "details": details,
    }


def tags() -> list[dict]:
    return sorted((listed(*item) for item in manifests().items()), key=lambda each: each["modified_at"], reverse=True)


def store_blob(data: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    blob(digest).parent.mkdir(parents=True, exist_ok=True)
    blob(digest).write_bytes(data)
    return digest


def create(wish: dict) -> tuple[int, dict]:
    name, files = wish.get("model") or wish.get("name") or "", wish.get("files") or {}
    if not re.fullmatch(r"[\w][\w./:-]*", name):
        return 400, {"error": "invalid model name"}
    if release() < (0, 5, 5) or not files:
        words = "path or modelfile are required" if release() < (0, 5, 5) else "neither 'from' or 'files' was specified"
        return 400, {"error": words}
    layers = []
    for digest in files.values():
        if not DIGEST.fullmatch(digest):
            return 400, {"error": "invalid digest format"}
        if not blob(digest).exists():
            return 400, {"error": f"open {blob(digest)}: no such file or directory"}
        if blob(digest).read_bytes()[:4] != b"GGUF":
            return 400, {"error": "supplied file was not in GGUF format"}
        size = blob(digest).stat().st_size
        layers.append({"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": size})
    for key, kind in (("template", "template"), ("system", "system"), ("parameters", "params")):
        if wish.get(key):
            data = wish[key].encode() if isinstance(wish[key], str) else json.dumps(wish[key]).encode()
            layer = {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": store_blob(data), "size": len(data)}
            layers.append(layer)
    config = {"model_format": "gguf", "model_family": "read by the fake", "model_type": "", "file_type": "",
              "architecture": "amd64", "os": "linux",
              "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}}  # fmt: skip
    data = json.dumps(config).encode()
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": store_blob(data),
                   "size": len(data)},
        "layers": layers,
    }  # fmt: skip
    path = models_folder().joinpath("manifests", *full_name(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return 200, {"status": "success"}


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Refused(Exception):  # noqa: N818 - what it says
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Runner:
    """What answers: canned words, or a true llama.cpp in a process of its own."""

    loaded: ClassVar[dict[str, dict]] = {}
    process: subprocess.Popen | None = None
    url = ""

    @classmethod
    def load(cls, name: str) -> Path:
        path = manifest_of(name)
        weights = layer_of(path, "image.model") if path else None
        if path is None or weights is None or not weights.exists():
            raise Refused(404, f'model "{name}" not found, try pulling it first')
        if knob("CRASH") == "load" or (release() >= (0, 30, 0) and not list(PREFIX.glob("lib/ollama/llama-server*"))):
            checked = f"{PREFIX}/lib/ollama/llama-server, {PREFIX}/bin/lib/ollama/llama-server"
            log(f"llama-server binary not found (checked: {checked})", "ERROR")
            raise Refused(500, f"llama-server binary not found (checked: {checked})")
        if weights.read_bytes()[:4] != b"GGUF":
            raise Refused(500, "invalid file magic")
        whole = short_name(full_name(name))
        if whole not in cls.loaded:
            vram = weights.stat().st_size if knob("GPU") else 0
            cls.loaded[whole] = {**listed(whole, path), "size_vram": vram, "expires_at": "2318-01-01T00:00:00Z"}
            if knob("XLLAMACPP"):
                cls.start(weights)
        return weights

    @classmethod
    def start(cls, weights: Path) -> None:
        text = (
            "import signal, sys, xllamacpp\n"
            "p = xllamacpp.CommonParams(); p.model.path = sys.argv[1]; p.n_ctx = 512; p.port = 0\n"
            "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); p.port = s.getsockname()[1]; s.close()\n"
            "s = xllamacpp.Server(p); print('AT', s.listening_address, flush=True); signal.pause()\n"
        )
        if cls.process is not None:
            cls.process.kill()
        cls.process = subprocess.Popen(
            [knob("XLLAMACPP"), "-c", text, str(weights)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert cls.process.stdout is not None
        for line in cls.process.stdout:
            if line.startswith("AT "):
                cls.url = line.split()[1]
                return
        raise Refused(500, "llama runner process has terminated: error loading model")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: object) -> None:
        pass

    def reply(self, status: int, body: object = None, kind: str = "application/json; charset=utf-8") -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode() if body is not None else b""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        sys.stderr.write(f"[GIN] {status} | {self.command} {self.path}\n")

    def handle_any(self) -> None:
        path = self.path.partition("?")[0]
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length) if length else b""
        wish: dict = {}
        if raw and not path.startswith("/api/blobs/"):
            with contextlib.suppress(ValueError):
                wish = json.loads(raw)
        record("request", method=self.command, path=path, body=wish)
        if self.strange():
            self.reply(403, "", "text/plain")
            return
        try:
            self.route(path, wish, raw)
        except Refused as refused:
            shape = {"message": str(refused), "type": "api_error", "param": None, "code": None}
            self.reply(refused.status, {"error": shape if path.startswith("/v1/") else str(refused)})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    PAGES: ClassVar[dict] = {
        "/": lambda: "Ollama is running",
        "/api/version": lambda: {"version": RELEASE},
        "/api/tags": lambda: {"models": tags()},
        "/api/ps": lambda: {"models": list(Runner.loaded.values())},
        "/v1/models": lambda: {
            "object": "list",
            "data": [{"id": each["name"], "object": "model", "owned_by": "library"} for each in tags()] or None,
        },
    }

    def strange(self) -> bool:
        """Tell whether the host or the origin is a foreign one; on all interfaces nobody asks."""
        if self.server.server_address[0] not in {"127.0.0.1", "::1"}:
            return False
        names = ("localhost", "127.0.0.1", "[::1]", "0.0.0.0")
        host = re.sub(r":\d+$", "", self.headers.get("Host", ""))
        origin = re.sub(r":\d+$", "", (self.headers.get("Origin") or "http://localhost").partition("://")[2])
        return host not in names or origin not in names

    do_GET = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 - what the base class calls

    def route(self, path: str, wish: dict, raw: bytes) -> None:
        method = "GET" if self.command == "HEAD" and path in {"/", "/api/tags", "/api/version"} else self.command
        if path.startswith("/api/blobs/"):
            self.blobs(path.rpartition("/")[2], raw)
        elif method == "GET" and path in self.PAGES:
            self.reply(200, self.PAGES[path](), "text/plain; charset=utf-8" if path == "/" else "application/json")
        elif (method, path) == ("POST", "/api/show"):
            self.show(wish)
        elif (method, path) == ("POST", "/api/create"):
            self.make(wish)
        elif (method, path) == ("DELETE", "/api/delete"):
            self.delete(wish)
        elif (method, path) == ("POST", "/v1/chat/completions"):
            self.complete(wish)
        elif (method, path) == ("POST", "/api/generate"):
            self.generate(wish)
        else:
            self.reply(404, "404 page not found", "text/plain")

    def make(self, wish: dict) -> None:
        status, document = create(wish)
        if wish.get("stream", True):
            self.reply(status, json.dumps(document) + "\n", "application/x-ndjson")
        else:
            self.reply(status, document)

    def delete(self, wish: dict) -> None:
        found = manifest_of(wish.get("model") or wish.get("name") or "")
        if found is None:
            raise Refused(404, f"model '{wish.get('model')}' not found")
        found.unlink()
        self.reply(200)

    def blobs(self, digest: str, raw: bytes) -> None:
        if not DIGEST.fullmatch(digest):
            self.reply(400, {"error": "invalid digest format"})
        elif self.command == "HEAD":
            self.reply(200 if blob(digest).exists() else 404)
        else:
            got = f"sha256:{hashlib.sha256(raw).hexdigest()}"
            if got != digest.replace("-", ":", 1):
                self.reply(400, {"error": f'digest mismatch, expected "{digest}", got "{got}"'})
                return
            store_blob(raw)
            self.reply(201)

    def show(self, wish: dict) -> None:
        name = wish.get("model") or wish.get("name") or ""
        path = manifest_of(name)
        if path is None:
            raise Refused(404, f"model '{name}' not found")
        texts = {kind: layer_of(path, f"image.{kind}") for kind in ("template", "system", "params")}
        known = {kind: file.read_text() for kind, file in texts.items() if file is not None}
        self.reply(200, {"details": listed(name, path)["details"], "parameters": known.get("params", ""), **known})

    def complete(self, wish: dict) -> None:
        name = wish.get("model", "")
        Runner.load(name)
        if Runner.url:
            self.hand_on(wish)
            return
        most = wish.get("max_tokens") or 64
        words = [f"{word} " for word in WORDS][:most]
        reason = "length" if len(words) == most else "stop"
        usage = {"prompt_tokens": 9, "completion_tokens": len(words), "total_tokens": 9 + len(words)}
        head = {"id": "chatcmpl-1", "created": int(time.time()), "model": name, "system_fingerprint": "fp_ollama"}
        if not wish.get("stream"):
            message = {"role": "assistant", "content": "".join(words)}
            choice = {"index": 0, "message": message, "finish_reason": reason}
            self.reply(200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        deltas = [({"role": "assistant", "content": word}, None) for word in words]
        deltas.append(({"role": "assistant", "content": ""}, reason))
        chunks: list[dict] = [
            {**head, "object": "chat.completion.chunk",
             "choices": [{"index": 0, "delta": delta, "finish_reason": end}]} for delta, end in deltas
        ]  # fmt: skip
        if (wish.get("stream_options") or {}).get("include_usage"):
            chunks.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def generate(self, wish: dict) -> None:
        """Load a model; a prompt is answered by canned words too."""
        Runner.load(wish.get("model", ""))
        words = " ".join(WORDS) if wish.get("prompt") else ""
        reason = "stop" if words else "load"
        self.reply(200, {"model": wish.get("model"), "response": words, "done": True, "done_reason": reason})

    def hand_on(self, wish: dict) -> None:
        request = urllib.request.Request(
            f"{Runner.url}/v1/chat/completions",
            data=json.dumps(wish).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request) as answer:
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
                self.send_header("Connection", "close")
                self.end_headers()
                shutil.copyfileobj(answer, self.wfile)
        except urllib.error.HTTPError as error:
            raise Refused(error.code, error.read().decode(errors="replace")) from error
        self.close_connection = True


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────────


def serve() -> None:
    told = {name: value for name, value in os.environ.items() if name.startswith(("OLLAMA_", "CUDA_VISIBLE", "HOME"))}
    record("start", argv=sys.argv[1:], environment=told, release=RELEASE)
    key = Path(home()) / ".ollama" / "id_ed25519"
    try:
        key.parent.mkdir(parents=True, exist_ok=True)
        if not key.exists():
            key.write_text("no key\n")
        (models_folder() / "blobs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"could not create directory mkdir {error.filename}: {(error.strerror or '').lower()}")
    host, port = address()
    ThreadingHTTPServer.allow_reuse_address = True
    ThreadingHTTPServer.daemon_threads = True
    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError:
        fail(f"listen tcp {host}:{port}: bind: address already in use")
        return
    log("server config")
    prune()
    if knob("CRASH") == "start":
        log("llama runner process has terminated: signal: illegal instruction (core dumped)", "ERROR")
        sys.exit(2)
    log(f"Listening on {host}:{port} (version {RELEASE})")
    log("inference compute id=cpu library=cpu")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(ended()))
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever(poll_interval=0.05)
    ended()


def ended() -> int:
    if Runner.process is not None:
        Runner.process.kill()
    return 0


def ask(path: str) -> dict | None:
    host, port = address()
    host = "127.0.0.1" if host in {"", "0.0.0.0"} else host
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
            return json.loads(answer.read())
    except (OSError, ValueError):
        return None


def client(path: str) -> list[dict]:
    document = ask(path)
    if document is None:
        fail("could not connect to ollama app, is it running?")
    return (document or {}).get("models") or []


def human(size: int) -> str:
    for unit, least in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size >= least:
            return f"{size / least:.1f} {unit}" if size < 10 * least else f"{size // least} {unit}"
    return f"{size} B"


def main(words: list[str]) -> None:
    word = words[0] if words else ""
    if word == "serve":
        serve()
    elif word in {"-v", "--version"}:
        told = ask("/api/version")
        if told is None:
            sys.stdout.write("Warning: could not connect to a running Ollama instance\n")
            sys.stdout.write(f"Warning: client version is {RELEASE}\n")
        else:
            sys.stdout.write(f"ollama version is {told['version']}\n")
            if told["version"] != RELEASE:
                sys.stdout.write(f"Warning: client version is {RELEASE}\n")
    elif word in {"list", "ls"}:
        models = client("/api/tags")
        sys.stdout.write("NAME\tID\tSIZE\tMODIFIED\n")
        for each in models:
            line = f"{each['name']}\t{each['digest'][:12]}\t{human(each['size'])}\t{each['modified_at']}\n"
            sys.stdout.write(line)
    elif word == "ps":
        models = client("/api/ps")
        sys.stdout.write("NAME\tID\tSIZE\tPROCESSOR\n")
        for each in models:
            part = "100% GPU" if each["size_vram"] else "100% CPU"
            sys.stdout.write(f"{each['name']}\t{each['digest'][:12]}\t{human(each['size'])}\t{part}\n")
    elif not word or word in {"-h", "--help", "help"}:
        sys.stdout.write("Large language model runner\n\nUsage:\n  ollama [flags]\n  ollama [command]\n")
    else:
        fail(f'unknown command "{word}" for "ollama"')


if __name__ == "__main__":
    main(sys.argv[1:])
