# Containers: what `make invoke` runs the function in.

# The template's default, arm64, needs an emulation elsewhere.
ARCHITECTURE = $(if $(filter arm64 aarch64,$(shell uname -m)),arm64,x86_64)

container-runtime: .tools/sam/ready
	@.tools/sam/bin/python make/container_runtime.py
