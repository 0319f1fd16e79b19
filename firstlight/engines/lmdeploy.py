"""LMDeploy: `lmdeploy serve api_server`, its flags and its environment."""

from __future__ import annotations

from firstlight.engines.base import Engine, Serving, ServingRequest, clean_environment, ready_timeout
from firstlight.engines.in_python import InPython
from firstlight.process import Command


class Lmdeploy(InPython):
    """LMDeploy's own OpenAI-compatible server."""

    name = "lmdeploy"

    def serving(self, request: ServingRequest) -> Serving:
        """Return the command of `lmdeploy serve api_server`.

        Flags: `python -m lmdeploy serve api_server --help` of 0.7.2 and 0.18.0. It listens on every interface unless it
        is told otherwise.
        """
        launch = request.launch
        argv = [str(request.python), "-m", "lmdeploy", "serve", "api_server", str(request.model)]
        argv += ["--server-name", request.host, "--server-port", str(request.port), "--model-name", request.name]
        if launch.backend is not None:
            argv += ["--backend", launch.backend]
        if launch.dtype is not None:
            argv += ["--dtype", launch.dtype]
        if launch.tensor_parallel_size is not None and launch.tensor_parallel_size > 1:
            argv += ["--tp", str(launch.tensor_parallel_size)]
        argv += request.build.flags
        caches = request.cache_folder
        environment = clean_environment(request)
        environment |= {
            # The model is a local folder; an inherited value would ask a hub for it.
            "LMDEPLOY_USE_MODELSCOPE": None,
            "LMDEPLOY_USE_OPENMIND_HUB": None,
            # What its PyTorch back end compiles at run time; by default it goes to the user's own folder.
            "TRITON_CACHE_DIR": str(caches / "triton"),
            "TILELANG_CACHE_DIR": str(caches / "tilelang"),
        }
        return Serving(
            command=Command((*argv, *request.flags), environment),
            model_id=request.name,
            health_path="/health",
            ready_timeout=ready_timeout(request),
        )


ENGINE: Engine = Lmdeploy()
