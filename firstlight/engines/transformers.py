"""transformers: `transformers serve`, pinned to one local model."""

from __future__ import annotations

from firstlight.engines.base import Engine, Serving, ServingRequest, clean_environment, ready_timeout
from firstlight.engines.in_python import InPython
from firstlight.process import Command


class Transformers(InPython):
    """The server that comes with transformers 5."""

    name = "transformers"

    def serving(self, request: ServingRequest) -> Serving:
        """Return the command of `transformers serve`.

        A positional folder pins the server to it and loads it at once; requests must then carry the very same path
        (transformers 5.23.0 has no served-model-name).
        """
        launch = request.launch
        argv = [str(request.python), "-m", "transformers.cli.transformers", "serve", str(request.model)]
        argv += ["--host", request.host, "--port", str(request.port)]
        argv += ["--device", "cpu" if launch.device == "cpu" else "auto"]
        if launch.dtype is not None:
            argv += ["--dtype", launch.dtype]
        argv += request.build.flags
        return Serving(
            command=Command((*argv, *request.flags), clean_environment(request)),
            model_id=str(request.model),
            health_path="/health",
            ready_timeout=ready_timeout(request),
        )


ENGINE: Engine = Transformers()
