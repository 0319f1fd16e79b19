"""vLLM: `vllm serve`, its flags and its environment."""

from __future__ import annotations

from firstlight.engines.base import Engine, Serving, ServingRequest, clean_environment, ready_timeout
from firstlight.engines.in_python import InPython
from firstlight.process import Command


class Vllm(InPython):
    """vLLM's own OpenAI-compatible server."""

    name = "vllm"

    def serving(self, request: ServingRequest) -> Serving:
        """Return the command of `vllm serve`.

        Run as a module, because the script in the environment holds an absolute interpreter path with a length limit.
        Flags: vLLM 0.32.0 `vllm serve --help`. Usage statistics are switched off; they go to stats.vllm.ai by default.
        """
        launch = request.launch
        argv = [str(request.python), "-m", "vllm.entrypoints.cli.main", "serve", str(request.model)]
        argv += ["--host", request.host, "--port", str(request.port), "--served-model-name", request.name]
        if launch.dtype is not None:
            argv += ["--dtype", launch.dtype]
        if launch.tensor_parallel_size is not None and launch.tensor_parallel_size > 1:
            argv += ["--tensor-parallel-size", str(launch.tensor_parallel_size)]
        argv += request.build.flags
        environment = clean_environment(request)
        environment |= {
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_USE_MODELSCOPE": None,  # the model is a local folder; an inherited value would ask for a download
            "VLLM_CACHE_ROOT": str(request.cache_folder / "vllm"),
        }
        return Serving(
            command=Command((*argv, *request.flags), environment),
            model_id=request.name,
            health_path="/health",
            ready_timeout=ready_timeout(request),
        )


ENGINE: Engine = Vllm()
