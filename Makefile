# Two commands do all the set-up on a machine with Python 3.11: make demo, make test.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/ranker_lora

.PHONY: demo test lint bench clean

# torch and torchvision come as the registry's ordinary builds, together: they must match.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,demo]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m rar_train.fit recipe=ranker_lora out=$(RUN)
	$(BIN)/python -m eval.run --ckpt $(RUN)

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .

bench: $(VENV)/.installed
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf runs cache
