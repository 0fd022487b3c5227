"""Layers that the models of the stand-in do not have."""


class VocabParallelEmbedding:
    """Embeddings of vLLM."""


class ParallelLMHead(VocabParallelEmbedding):
    """The output layer of vLLM."""
