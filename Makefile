# Short names for plain commands; CONTRIBUTING.md has both. `make test ARGS=cache::blob` passes words on.

.PHONY: check test real bench fmt all

check:
	.ci/check

test:
	.ci/test $(ARGS)

real:
	.ci/real $(ARGS)

all:
	.ci/run

bench:
	cargo bench $(ARGS)

fmt:
	cargo fmt --all
