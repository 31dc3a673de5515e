# make          lists what there is
# make run      shows everything at work on this machine: no AWS account, no Docker
# make test     checks everything

STACK ?= qwen-token-refresh
EVENT ?= events/refresh.json
SECONDS ?= 60

.DEFAULT_GOAL = help
include make/tools.mk make/containers.mk make/release.mk make/pictures.mk

##@ Try it on this machine

run: setup ## deploy into an embedded AWS and show the keeper at work (KEEP=1, QWEN_TOKEN_FILE=…)
	@$(WITH_THE_LIBRARY) localcloud $(ARGS)

test: lint setup $(TOOLS_OF_TESTS) ## everything that CI checks for each change
	@# The smallest come last: all workers then end together.
	$(PYTEST) $(E2E) $(INTEGRATION) $(UNIT) -m 'not nightly' -n 5 --dist loadgroup --no-loadscope-reorder $(ARGS)

invoke: container-runtime build ## run the function here in Docker, on your stack's secret (EVENT=events/….json)
	@environ=$$($(CLI) environ $(OF_STACK)) && $(PYTHON) make/invoke.py "$$environ" env $(SAM) local invoke \
		RefreshFunction --event $(EVENT) --parameter-overrides Architecture=$(ARCHITECTURE) $(IN_REGION) $(ARGS)

##@ Your AWS account (STACK=name where it is not qwen-token-refresh; REGION=… where it is not the deployment's)

# The answers of a stack's first, guided deployment: this machine's own.
CONFIG = samconfig.$(STACK).toml
$(CONFIG):
	@echo 'The first deployment asks its questions, and keeps the answers in $@.'
	cp samconfig.toml $@
	$(SAM) deploy --guided --stack-name $(STACK) --config-file "$$PWD/$@" $(ARGS)

# The region that was answered there. Without such a file, it is what the AWS configuration says.
REGION = $(if $(wildcard $(CONFIG)),$(shell $(PYTHON) -c 'import sys, tomllib; \
	config = tomllib.load(open(sys.argv[1], "rb")).get("default", {}); \
	print(config.get("deploy", {}).get("parameters", {}).get("region", ""))' $(CONFIG)))
IN_REGION = $(addprefix --region ,$(REGION))
OF_STACK = --stack $(STACK) $(IN_REGION)

deploy: build ## build and deploy the stack; guided the first time (ARGS=--guided: asks again)
	$(if $(wildcard $(CONFIG)),$(SAM) deploy --config-file "$$PWD/$(CONFIG)" $(ARGS),@$(MAKE) -s $(CONFIG))

put-token: ## store a login, whatever kind: asks at a hidden prompt, or reads standard input (ARGS=--sign-in)
status: ## show the token, its login, their time left, trouble and alarms (ARGS=--check, ARGS=--fleet)
refresh: ## run the deployed function now (ARGS=--force, ARGS=--check, ARGS=--dry-run)
smoke: ## check it all: read the token, refresh it, use the new one (ARGS=--stdin: a token of yours)
remove-token: ## take a member out of the fleet; its secrets stay as they are (ARGS='--name pool/zoe')
sweep: ## start a sweep of the fleet now
redrive: ## put the fleet's dead letters back into its queue
# Each is a command of the library's command line.
put-token status refresh smoke remove-token sweep redrive: .venv/ready
	@$(CLI) $(@:-token=) $(OF_STACK) $(ARGS)

logs: .venv/ready .tools/sam/ready ## follow the function's log
	$(SAM) logs --stack-name $(STACK) --name RefreshFunction --tail $(IN_REGION)

destroy: .venv/ready .tools/sam/ready ## delete the stack and your answers; the secrets stay
	$(SAM) delete --stack-name $(STACK) $(IN_REGION) $(ARGS) && rm -f $(CONFIG)

##@ Develop

build: .venv/ready .tools/sam/ready ## build the functions and the layers
	$(SAM_ALONE) build >&2

format: .venv/ready ## put the code into its form, and mend what ruff can mend
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

lint: .venv/ready .tools/sam/ready .tools/checkov/ready ## ruff, mypy, cfn-lint, sam validate, and a look for tokens and keys
	@$(PYTHON) make/side_by_side.py '.venv/bin/mypy' '.venv/bin/mypy --python-version 3.11 layers/qwen_token/qwen_token' \
		'$(SAM_ALONE) validate --lint' '.tools/sam/bin/cfn-lint examples/*/*.yaml' '$(LOOK_FOR_SECRETS)' \
		'.venv/bin/ruff check .' '.venv/bin/ruff format --check .'

unit: .venv/ready ## tests of single modules, and of any input: they need nothing but .venv
	$(PYTEST) $(UNIT) -m 'not nightly' -n 2 $(subst --cov-append,,$(COVERAGE)) $(ARGS)

integration: setup $(TOOLS_OF_INTEGRATION) ## tests of the edges, on real servers, of the scanners, and a short simulation
	@# Four: they wait, for servers that are slow on purpose, as long as they calculate.
	$(PYTEST) $(INTEGRATION) -m 'not nightly' -n 4 --dist loadgroup $(COVERAGE) $(ARGS)

e2e: setup $(TOOLS_OF_E2E) ## tests of the deployed stack and the examples on the embedded AWS, and the proofs of trust
	$(PYTEST) $(E2E) -m 'not nightly' -n 2 --dist loadgroup $(ARGS)

nightly: setup $(TOOLS_OF_TESTS) .tools/aws-sdk/ready .tools/fuzz/ready .tools/cdk/ready ## what takes too long for each change: every byte and wait, a long simulation, a search for inputs
	$(PYTEST) tests -m nightly -n 4 --dist loadgroup $(ARGS)
	$(MAKE) simulate ARGS='--years 200'
	$(MAKE) coverage ARGS=--hypothesis-profile=nightly
	$(MAKE) fuzz SECONDS=120 ARGS=

coverage: COVERAGE = --cov --cov-append --cov-report=
coverage: unit integration ## the branches that unit and integration tests take: 90 % at least
	@.venv/bin/coverage report --fail-under=90

trust: setup ## proofs: every crash point, races, readers that never stop (ARGS=-rP shows the counts)
	$(PYTEST) tests/proofs/crash_points tests/proofs/test_races.py tests/proofs/test_readers.py $(ARGS)

open-webui: .venv/ready $(OPEN_WEBUI:%=.tools/open-webui-%/ready) ## sign in at real Open WebUI servers (installs 7 GB each: not for CI)
	$(PYTEST) tests/proofs/test_open_webui.py $(ARGS)

crash-points: setup ## try every fault at every call of a run, and write the table into docs/proofs.md
	@$(WITH_THE_KEEPER) tests.proofs.crash_points

simulate: setup ## years of a token's life, at random (ARGS='--years 500 --seed 1')
	@$(WITH_THE_KEEPER) tests.proofs.simulation $(ARGS)

fuzz: .tools/fuzz/ready ## look for tokens and replies that break a promise (SECONDS=60)
	@for target in text reply; do PYTHONPATH=layers/qwen_token .tools/fuzz/bin/python -m tests.proofs.fuzz \
		$$target --seconds $$(($(SECONDS) / 2)) $(ARGS) || exit 1; done

mutants: setup .tools/mutation/ready ## break the core in every known way: does a test notice? (ARGS=keeper)
	@$(PYTHON) -m tests.proofs.mutants $(ARGS)

bench: build setup .tools/lambda/ready bench-readers ## cold start, calls and size, against a bare boto3 handler
	@$(WITH_THE_LIBRARY) tests.bench $(ARGS)

bench-readers: setup ## what reading the token costs a service, against other caches
	@$(WITH_THE_KEEPER) tests.bench.readers

bench-fleet: setup ## 2,000 tokens and 500 sessions of a fleet, beside loops over all, and in trouble (100 minutes)
	@$(WITH_THE_KEEPER) tests.bench.fleet $(ARGS)

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Every target with a plain name is a command, not a file.
.PHONY: $(shell sed -n 's/^\([a-z][a-z0-9-]*\):.*/\1/p' $(MAKEFILE_LIST))
