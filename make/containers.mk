# Containers: what `make invoke` runs the function in.

##@ Containers

containers: setup .tools/lambda/ready ## have make invoke run every event in a container; starts a daemon where none runs (root, Linux)
	CONTAINERS=start $(PYTEST) tests/e2e/test_local_invoke.py $(ARGS)

# The template's default, arm64, needs an emulation elsewhere.
ARCHITECTURE = $(if $(filter arm64 aarch64,$(shell uname -m)),arm64,x86_64)

container-runtime: .tools/sam/ready
	@.tools/sam/bin/python make/container_runtime.py
