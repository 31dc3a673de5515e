# A release: what is deployed, installed and looked at without a clone. The version is the library's.

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' layers/qwen_token/qwen_token/__init__.py)
RELEASE = build/release

##@ Releases

release: build setup .tools/audit/ready ## make what a release consists of, in build/release: archive, wheel, SBOM, checksums (TAG=v…)
	@test -z '$(TAG)' -o '$(TAG)' = 'v$(VERSION)' || { echo 'The version is $(VERSION), and its tag would be v$(VERSION).' >&2; exit 1; }
	rm -rf $(RELEASE) && mkdir -p $(RELEASE)
	$(PYTHON) make/release.py .aws-sam/build $(RELEASE)/qwen-token-refresh-$(VERSION).zip
	$(WHEEL) --out-dir $(RELEASE) layers/qwen_token
	$(MAKE) sbom SBOM=$(RELEASE)/sbom.cdx.json
	cd $(RELEASE) && rm -f .gitignore && sha256sum * > SHA256SUMS
