"""`generation=vllm`: a checkpoint or a policy in training enters, a generator over the vLLM engine leaves.

vLLM runs in a process of its own (`rkd.generation.vllm_process`). It is asked with tokens and answers with tokens, so
prompts and texts are made here, as for every engine.
"""

import contextlib
import copy
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME

from rkd.config import ABOVE_0, AT_LEAST_1, check_ranges
from rkd.data.prompts import PromptTemplate
from rkd.generation.engines import Advance, ByTemperature, Drawn
from rkd.generation.local import LocalGenerator, end_ids, sample_indices, seed_of
from rkd.generation.vllm_process import VLLMProcess, has_vllm
from rkd.models.batches import ResponseBatch, decode, pad
from rkd.models.loading import ModelOptions, count_weights, existing_model, load_tokenizer
from rkd.models.lora import merge
from rkd.protocols import Sampling
from rkd.records import Checkpoint, Query

# Where weights are handed over, if there is room for so many times their size; in a container it may be small.
IN_MEMORY, NEEDED_IN_MEMORY = Path("/dev/shm"), 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class VLLMEngine:
    """The vLLM engine.

    Args:
        python: the interpreter of an environment with vLLM; None: this one.
        samples_policy: it samples the rollouts of a policy in training too, whose weights are handed over.
        tensor_parallel_size: GPUs that a model is spread over.
        gpu_memory_utilization: share of a GPU's memory that it takes.
        kv_cache_gb: memory of its cache on a CPU.
        max_model_len: tokens of prompt and response together; None: as the model's configuration says.
        enforce_eager: do not compile the model: it starts faster and samples more slowly.
    """

    batches_decide: ClassVar[bool] = False
    is_measured: ClassVar[bool] = False
    takes_calculator: ClassVar[bool] = False

    python: str | None = None
    samples_policy: bool = False
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    kv_cache_gb: float = 2.0
    max_model_len: int | None = None
    enforce_eager: bool = False

    def __post_init__(self) -> None:
        share = (lambda value: 0 < value <= 1, "in (0, 1]")
        ranges = {
            "tensor_parallel_size": AT_LEAST_1, "gpu_memory_utilization": share, "kv_cache_gb": ABOVE_0,
            "max_model_len": AT_LEAST_1,
        }  # fmt: skip
        check_ranges("generation", self, ranges)

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings that decide samples: not where vLLM lies, nor how much memory it takes."""
        return {"max_model_len": self.max_model_len}

    def check(self) -> None:
        """See `Engine`.

        Raises:
            ModuleNotFoundError: the environment has no vLLM.
            EngineError: there is no such environment.
        """
        if not has_vllm(self._python):
            where = "which this environment does not have" if self.python is None else f"which {self.python} lacks"
            raise ModuleNotFoundError(
                f"generation=vllm needs vLLM, {where}. Make an environment for it with `python -m venv vllm_env` and "
                "`vllm_env/bin/pip install -r requirements-vllm.txt`, and name it with "
                "`generation.python=vllm_env/bin/python`; or take generation=local."
            )

    def open(
        self, model: Checkpoint, prompt: PromptTemplate, name: str, advance: Advance, options: ModelOptions
    ) -> "VLLMGenerator":
        """See `Engine`."""
        folder = existing_model(model.folder)
        dtype = options.load(count_weights(folder), placed=True)["dtype"]
        process = self.started(folder, dtype, options.device_of_samples)
        tokenizer = load_tokenizer(folder)
        has_config = (folder / GENERATION_CONFIG_NAME).is_file()
        ends = end_ids(prompt, tokenizer, GenerationConfig.from_pretrained(folder) if has_config else None)
        return VLLMGenerator(name, tokenizer, prompt, advance, process, ends)

    @contextlib.contextmanager
    def over(self, policy: LocalGenerator) -> Iterator[LocalGenerator]:
        """See `Engine`: the policy through vLLM, if `samples_policy`."""
        if not self.samples_policy:
            yield policy
            return
        own = {one.name: getattr(policy, one.name) for one in fields(policy)}
        needed = NEEDED_IN_MEMORY * sum(weight.numel() * weight.itemsize for weight in policy.model.parameters())
        has_room = IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > needed
        with tempfile.TemporaryDirectory(prefix="rkd-vllm-", dir=IN_MEMORY if has_room else None) as folder:
            shown = VLLMPolicy(**own, engine=self, folder=Path(folder))
            try:
                yield shown
            finally:
                shown.close()

    def started(
        self, folder: Path, dtype: torch.dtype, device: torch.device, left_behind: Sequence[Path] = ()
    ) -> VLLMProcess:
        """A process that has loaded the model; it uses the GPU of the device, or several of its own choice.

        Args:
            left_behind: folders that it removes if this process is killed.
        """
        is_on_one_gpu = device.type == "cuda" and self.tensor_parallel_size == 1
        process = VLLMProcess(self._python, gpu=device.index if is_on_one_gpu else None, left_behind=left_behind)
        process.ask(
            "open",
            model=str(folder),
            kv_cache_gb=self.kv_cache_gb,
            dtype=str(dtype).removeprefix("torch."),
            tensor_parallel_size=self.tensor_parallel_size,
            gpu_memory_utilization=self.gpu_memory_utilization,
            max_model_len=self.max_model_len,
            enforce_eager=self.enforce_eager,
        )
        return process

    @property
    def _python(self) -> str:
        return sys.executable if self.python is None else str(Path(self.python).expanduser())


def _ask(
    process: VLLMProcess,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    ends: Sequence[int],
    *,
    stop: str = "",
    with_logprobs: bool = False,
) -> list[list[dict[str, Any]]]:
    """The samples of each prompt, as `vllm_worker.Engine.generate` gives them; `sampling` has one temperature."""
    temperature, count = sampling.temperatures[0], sampling.samples_per_query
    drawn = count if temperature else 1  # greedy samples are equal
    shared = {
        "n": drawn,
        "temperature": temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_tokens": sampling.max_response_tokens,
        "stop": [stop] if stop else None,
        "stop_token_ids": list(ends),
        "skip_special_tokens": False,
    }
    asked = {"prompts": prompts, "seeds": seeds, "shared": shared, "with_logprobs": with_logprobs}
    samples: list[list[dict[str, Any]]] = process.ask("generate", **asked)
    return [own * (count // drawn) for own in samples]


@dataclass(frozen=True)
class VLLMGenerator(ByTemperature):
    """A `TextGenerator` over vLLM; each query has a seed of its own, from which vLLM makes one for each sample.

    Args:
        process: where vLLM runs.
        ends: tokens that end a response.
    """

    process: VLLMProcess
    ends: Sequence[int]

    def draw(
        self, queries: Sequence[Query], prompts: Sequence[list[int]], sampling: Sampling, seed: int, first: int
    ) -> list[list[Drawn]]:
        """See `ByTemperature`."""
        seeds = [seed_of(seed, query.id, first) for query in queries]
        samples = _ask(self.process, prompts, seeds, sampling, self.ends, stop=self.prompt.stop)
        texts = iter(decode(self.tokenizer, [one["tokens"] for own in samples for one in own], self.ends))
        return [[(next(texts), one["ended"]) for one in own] for own in samples]


@dataclass(frozen=True, kw_only=True)
class VLLMPolicy(LocalGenerator):
    """A policy in training whose rollouts vLLM samples; its greedy answers are those of the loop.

    vLLM starts with the first rollout, and gets the policy's weights before each one.

    Args:
        engine: the options of vLLM.
        folder: where the weights are handed over.
        running: the process, once there is one.
    """

    engine: VLLMEngine
    folder: Path
    running: list[VLLMProcess] = field(default_factory=list)

    def sample(self, queries: Sequence[Query], sampling: Sampling, seed: int) -> ResponseBatch:
        """See `LocalGenerator`; the batch has the log-probabilities by which vLLM drew."""
        self._hand_over()
        prompts = self.prompt.encode(queries, self.tokenizer)
        ids = [query.id for query in queries]
        seeds = [seed_of(seed, query_id, index) for query_id, index in zip(ids, sample_indices(ids), strict=True)]
        drawn = _ask(self.running[0], prompts, seeds, sampling, self.eos_ids, with_logprobs=True)
        samples = [one for own in drawn for one in own]
        prompt_ids, prompt_mask = pad(prompts, left=True)
        response_ids, response_mask = pad([one["tokens"] for one in samples], left=False)
        logprobs = torch.zeros(response_ids.shape)
        for row, one in enumerate(samples):
            logprobs[row, : len(one["logprobs"])] = torch.tensor(one["logprobs"])
        batch = ResponseBatch(prompt_ids, prompt_mask, response_ids, response_mask, response_mask, logprobs)
        return batch.to(self.model.device)

    def close(self) -> None:
        """End the process."""
        for process in self.running:
            process.close()

    def _hand_over(self) -> None:
        """Give vLLM the weights of the policy, its adapters merged."""
        device = self.model.device
        mixed = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if mixed else self.model.dtype
        _write(self.model, self.folder, dtype)
        if self.running:
            self.running[0].ask("load", folder=str(self.folder))
        else:
            self.tokenizer.save_pretrained(self.folder)
            self.running.append(self.engine.started(self.folder, dtype, device, left_behind=[self.folder]))


def _write(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
    """Write the model as a plain one, in a format of its numbers."""
    adapted = any("lora_" in name for name, _ in model.named_parameters())
    plain = copy.deepcopy(model) if adapted else model
    merge(plain)
    state = {name: weight.detach().to(dtype) for name, weight in plain.state_dict().items()}
    plain.save_pretrained(folder, state_dict=state)
