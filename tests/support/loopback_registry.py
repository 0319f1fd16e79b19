"""A registry on 127.0.0.1 that speaks what `ollama pull` needs, with the faults of `loopback_hub`.

GET /v2/<namespace>/<model>/manifests/<tag>, which wants the Accept header of the protocol, and HEAD and GET
/v2/<namespace>/<model>/blobs/<digest>, which answers 307 with a signed address on another host, 127.0.0.2.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator

from support.loopback_hub import Faults, Handler, LoopbackHub, loopback_hub

ACCEPT = "application/vnd.docker.distribution.manifest.v2+json"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def publish(weights: bytes, *others: bytes) -> dict[str, bytes]:
    """Return the files of a model, digest → bytes, and its `manifest`, laid out as `ollama create` does."""
    config = json.dumps({"model_format": "gguf", "model_family": "llama", "file_type": "Q4_K_M"}).encode()
    kinds = ["model", "template", "params", "license"]
    layers = [
        {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest_of(data), "size": len(data)}
        for kind, data in zip(kinds, [weights, *others], strict=False)
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": ACCEPT,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": digest_of(config),
            "size": len(config),
        },
        "layers": layers,
    }
    blobs = {digest_of(data): data for data in (config, weights, *others)}
    # Spaces that no encoder of ours would write: the file must be the registry's, byte for byte.
    return {**blobs, "manifest": json.dumps(manifest, indent=3).encode()}


class RegistryHandler(Handler):
    """Answers for models named `<namespace>/<model>:<tag>`."""

    def huggingface(self, path, *, body):
        manifest = re.fullmatch(r"/v2/([^/]+/[^/]+)/manifests/([^/]+)", path)
        blob = re.fullmatch(r"/v2/([^/]+/[^/]+)/blobs/(sha256:[0-9a-f]{64})", path)
        if manifest:
            files = self.hub.models.get(f"{manifest[1]}:{manifest[2]}")
            if files is None or ACCEPT not in (self.headers["Accept"] or ""):
                error = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
                return self.json(404, error, body=body)
            if self.hub.faults.gated:
                return self.json(401, {"errors": [{"code": "UNAUTHORIZED", "message": "who are you"}]}, body=body)
            return self.send(200, files["manifest"], {"Content-Type": ACCEPT}, body=body)
        if blob:
            for name, files in self.hub.models.items():
                if name.startswith(f"{blob[1]}:") and blob[2] in files:
                    return self.send(307, b"", {"Location": self.hub.sign(blob[2])}, body=body)
        return self.json(404, {"errors": [{"code": "BLOB_UNKNOWN", "message": "blob unknown"}]}, body=body)


@contextlib.contextmanager
def loopback_registry(models: dict[str, dict[str, bytes]], faults: Faults | None = None) -> Iterator[LoopbackHub]:
    """Serve `models` (namespace/model:tag → `publish`) until the block ends."""
    with loopback_hub(models, faults, RegistryHandler) as registry:
        yield registry
