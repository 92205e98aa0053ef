"""MLLM families: what differs between them, found in a table or in the model; imports data_prep alone."""
