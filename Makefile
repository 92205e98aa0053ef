# Two commands do all the set-up on a machine with Python 3.11: make demo, make test.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/ranker_lora
# Python compiles what it imports when it does, which is less than pip would.
PIP := --quiet --no-compile --constraint constraints.txt
# It must be able to keep that: where containers forbid it, each process would compile its libraries anew, for 15 seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint bench clean

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
