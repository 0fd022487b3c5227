"""The process of vLLM: requests enter by a socket, one JSON object a line; replies leave the same way.

`rkd.generation.vllm_process` starts it by its path in the environment of vLLM, and is the other end. So it imports
nothing but vLLM and the standard library. It ends when the other end does, with all that it has started.
"""

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any, TextIO

GIB = 1024**3


class Engine:
    """The engine and what can be asked of it; `do` of a request names the method, the rest are its arguments."""

    def open(self, model: str, kv_cache_gb: float, **options: Any) -> dict[str, str]:
        """Load a model folder; the options are those of `vllm.LLM`, None left out."""
        # One process: the seed of a sample decides it, and nothing is left behind.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        import vllm
        from vllm.platforms import current_platform

        given = {name: value for name, value in options.items() if value is not None}
        self.on_cpu = current_platform.is_cpu()
        if self.on_cpu:
            given.pop("gpu_memory_utilization", None)
            given["kv_cache_memory_bytes"] = int(kv_cache_gb * GIB)
            # A prompt that is read in two parts moves the generator of its seed back, which those of CPUs cannot.
            given["enable_chunked_prefill"] = False
        # Log-probabilities of what is drawn from: after the temperature.
        self.llm = vllm.LLM(model, trust_remote_code=False, logprobs_mode="processed_logprobs", **given)
        self.sampling_params = vllm.SamplingParams
        return {"version": vllm.__version__, "device": current_platform.device_type}

    def generate(
        self, prompts: list[list[int]], seeds: list[int], shared: dict[str, Any], *, with_logprobs: bool
    ) -> list[list[dict[str, Any]]]:
        """The samples of each prompt: its tokens, whether it has ended, and log-probabilities if asked for."""
        asked = [self.sampling_params(seed=seed, logprobs=0 if with_logprobs else None, **shared) for seed in seeds]
        outputs = self.llm.generate([{"prompt_token_ids": own} for own in prompts], asked, use_tqdm=False)
        return [[_sample(one, with_logprobs=with_logprobs) for one in output.outputs] for output in outputs]

    def load(self, folder: str) -> None:
        """Take the weights of a folder in place of the model's own; what is remembered of prompts is forgotten."""
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        if self.on_cpu:
            self.llm.apply_model(_pack_tied_head)
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM keeps states of the old weights: its cache of prefixes could not be emptied.")


def _pack_tied_head(model: Any) -> None:
    """Take the new embeddings into the output layer that shares them: on CPUs it has a packed copy of its own."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    layers = [layer for layer in model.modules() if isinstance(layer, VocabParallelEmbedding)]
    heads = [layer for layer in layers if isinstance(layer, ParallelLMHead)]
    if not model.config.tie_word_embeddings or not heads:
        return  # a layer that is both embeddings and head was loaded like any other
    (head,), shape = heads, heads[0].weight.shape
    embeddings = [layer for layer in layers if layer is not head and layer.weight.shape == shape]
    if len(embeddings) != 1:
        raise RuntimeError("the embeddings that the output layer shares are not found, so it would keep old weights.")
    head.tie_weights(embeddings[0])
    head.quant_method.process_weights_after_loading(head)


def _sample(output: Any, *, with_logprobs: bool) -> dict[str, Any]:
    tokens = list(output.token_ids)
    sample = {"tokens": tokens, "ended": output.finish_reason == "stop"}
    if with_logprobs:
        sample["logprobs"] = [of_token[token].logprob for token, of_token in zip(tokens, output.logprobs, strict=True)]
    return sample


def _read(lines: TextIO, requests: "queue.Queue[dict[str, Any]]", left_behind: Sequence[str]) -> None:
    """Pass on the requests; when the other end is gone, kill this process and its children, whatever they do."""
    try:
        for line in lines:
            requests.put(json.loads(line))
    finally:  # also if the other end was killed within a line
        for path in left_behind:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.unlink(path)
        os.killpg(os.getpgrp(), signal.SIGKILL)


def serve(connection: socket.socket, left_behind: Sequence[str] = ()) -> None:
    """Answer requests until the other end is gone; this process must lead a group of its own.

    A cluster tells all processes of a job that it will end. This one waits for the other end.

    Args:
        left_behind: files and folders of the other end, which are removed with this process.
    """
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    lines, engine = connection.makefile("rw", encoding="utf-8"), Engine()
    arguments = (connection.makefile("r", encoding="utf-8"), requests, left_behind)
    threading.Thread(target=_read, args=arguments, daemon=True).start()
    while True:
        request = requests.get()
        try:
            reply = {"result": getattr(engine, request.pop("do"))(**request)}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        lines.write(json.dumps(reply) + "\n")
        lines.flush()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
