# One door for every task; CI uses the same one.
.PHONY: test lint setup bench image clean

# All checks and tests. Installs what the tests need (Debian packages, a Python
# environment, npm packages) when it is missing; starts and stops its servers.
test: lint setup
	cargo build --locked -p intellirouter-gateway -p intellirouter-backends --bins
	cargo test --locked --workspace

lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

setup:
	tests/setup

# Against HAProxy, nginx and Envoy; see bench/README.md.
bench:
	bench/install-peers
	bench/run

image:
	docker build -t intellirouter .

clean:
	cargo clean
