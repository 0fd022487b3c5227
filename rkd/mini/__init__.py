"""The generated world: problems, corpus and tokenizer of `scale=mini`, small enough to train on two CPU cores."""
