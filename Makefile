# Each target makes the environment first, if need be; PYTHON names the Python that it is made with.
.PHONY: help environment book slides lab test test-classroom bench assignments grade kit outputs requirements clean
PYTHON ?= python3
CLASS ?= 200
HUB ?= 30
THOROUGH ?= 1
PY = .venv/bin/python

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

environment:  ## make .venv with all packages (all others call it; instant once done)
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) is not on PATH: install Python 3.11 or newer" \
	  "(Debian, Ubuntu: apt install python3 python3-venv) or name yours (make PYTHON=python3.12)." >&2; exit 1; }
	@"$(PYTHON)" tools/environment.py

book: environment  ## build the book and open it
	$(PY) tools/book.py

slides: environment  ## make slides of every chapter from its notebook
	$(PY) tools/slides.py

lab: environment  ## open JupyterLab on the chapters
	$(PY) -m jupyterlab --notebook-dir=chapters $(if $(filter 0,$(shell id -u)),--allow-root)

test: export OMP_NUM_THREADS = 1
test: environment  ## build the book, then test the package, the chapters and the pages
	$(PY) tools/book.py --no-open
	$(PY) -m pytest tests -m "not classroom_at_scale" -n 2 --dist loadscope

test-classroom: export OMP_NUM_THREADS = 1
test-classroom: export TIGHTBOUND_CLASS = $(CLASS)
test-classroom: export TIGHTBOUND_HUB = $(HUB)
test-classroom: environment  ## mark a class of 200, put 30 of it on a hub, try every check on 100 instances
	$(PY) -m pytest tests -m classroom_at_scale
	$(if $(THOROUGH),TIGHTBOUND_THOROUGH=1 $(PY) -m pytest tests/test_checks.py -k "reference_passes or own_diagnosis" -n 2)

bench: environment  ## run the races against peers (RACES="svi vae": some; ACCEPT=1: keep the latest figures)
	$(PY) -m pip install --quiet --constraint requirements.txt --requirement benchmarks/requirements.txt
	$(PY) -m pip install --quiet --no-deps --requirement benchmarks/requirements-alone.txt
	$(PY) benchmarks/race.py $(if $(ACCEPT),accept) $(RACES)

assignments: environment  ## write the students' copies of the exercises (STUDENTS=class.csv: a version for each)
	$(PY) tools/classroom assignments $(if $(STUDENTS),--students "$(STUDENTS)") $(OPTIONS)

grade: environment  ## mark a folder of submissions: make grade SUBMISSIONS=folder (STUDENTS=class.csv: tell who is missing)
	$(PY) tools/classroom grade "$(or $(SUBMISSIONS),$(error say which: make grade SUBMISSIONS=folder))" \
	  $(if $(STUDENTS),--students "$(STUDENTS)") $(OPTIONS)

kit: environment  ## build the teacher's kit: the pages for teachers, and the exams' solutions
	$(PY) tools/kit.py

outputs: environment  ## run the chapters again and store their text outputs
	$(PY) tools/notebooks.py

requirements: environment  ## pin all packages anew: pyproject.toml -> requirements.txt
	@mkdir -p _build && cp requirements.txt _build/requirements.txt
	CUSTOM_COMPILE_COMMAND="make requirements" $(PY) -m piptools compile --quiet --extra dev --strip-extras \
	  --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --annotation-style=line \
	  --output-file=_build/requirements.txt $(if $(UPGRADE),--upgrade) pyproject.toml
	@# Which build of torch (CPU, CUDA) is each machine's own affair.
	sed -E '/^(cuda|nvidia|triton)/d; s/^(torch==[0-9.]+)[^ ]*/\1/' _build/requirements.txt > _build/pins.txt
	mv _build/pins.txt requirements.txt

clean:  ## remove all that was built, but not .venv
	rm -rf _build .pytest_cache .hypothesis
	find src tests tools chapters benchmarks -name __pycache__ -prune -exec rm -rf {} +
