# The commands for development and CI: `just --list`. `tests/all` runs every recipe that tests something.
# tests/install installs what they need; tools that only one recipe needs are installed by it, into target/.

set shell := ["bash", "-euo", "pipefail", "-c"]
set ignore-comments := true

# Lists the recipes.
_default:
    @just --list --unsorted

# Runs the demonstration service until Ctrl-C, with the admin page on http://127.0.0.1:9464.
demo *args:
    cargo run {{ args }}

# Manual pages of all commands, in target/man.
man:
    cargo run --quiet --all-features -- man target/man

# Formatting, shellcheck, and clippy with each set of features.
check: fmt shellcheck clippy clippy-none clippy-stable

# Formatting.
fmt:
    cargo fmt --check

# Shell scripts.
shellcheck:
    grep -l --directories=skip '^#!/usr/bin/env bash' .ci/run tests/* tests/stack/* | xargs shellcheck

# All features.
clippy:
    cargo clippy --all-targets --all-features -- -D warnings

# No features.
clippy-none:
    cargo clippy --all-targets --no-default-features -- -D warnings

# Without `--cfg tokio_unstable`, as in a project that embeds headcount and sets no flags.
clippy-stable:
    RUSTFLAGS="" cargo clippy --target-dir target/stable --all-targets --all-features -- -D warnings

# The quick tests: unit tests and tests/it. Arguments as for `cargo test`.
test-fast *args:
    cargo test --all-features --lib --test it {{ args }}

# Everything that `cargo test` runs, with each set of features.
test: test-all test-none test-stable

# All features: unit, integration, process and documentation tests.
test-all:
    # No target is selected: the tests start the examples, which `--examples` would build as tests.
    cargo test --all-features

# No features.
test-none:
    cargo test --no-default-features

# Without `--cfg tokio_unstable`.
test-stable:
    RUSTFLAGS="" cargo test --target-dir target/stable --all-features

# Tests that need root, with sudo if necessary, or a build of their own: those that are marked as ignored, each with the reason.
test-root:
    cargo test --all-features --no-run
    root=(); [ "$(id -u)" = 0 ] || root=(sudo -E env "PATH=$PATH"); \
        "${root[@]}" cargo test --all-features --tests -- --ignored

# Services killed at random moments, and what their black boxes show of them.
kills rounds="1000":
    cargo test --all-features --no-run
    HEADCOUNT_KILLS={{ rounds }} cargo test --all-features --test process known_by

# The processes killed, too few threads and files, a full pipe, slow clients. `rounds`: of each combination of kills.
faults rounds="20":
    cargo build --all-features
    tests/faults/killed {{ rounds }}
    tests/faults/process1
    tests/faults/limits
    tests/faults/pipe
    tests/faults/clients

# Programs that hang, and innocent ones, on one processor, on a busy machine and under a quota. Arguments: names of `hangs list`.
pressure *names:
    cargo build --all-features --examples
    tests/faults/pressure {{ names }}

# Damaged input for the readers of requests, configurations, black boxes and programs. `seconds`: for each of them.
fuzz seconds="60":
    HEADCOUNT_FUZZ={{ seconds }} cargo test --all-features --lib --test it -- damaged makes_the_reader_panic

# What `headcount ps` and `tree` read of programs with many versions of tokio, built in many ways (docs/inspect.md).
inspect-matrix *args:
    cargo build --all-features
    tests/inspect/matrix target/debug/headcount {{ args }}

# Models of the lock-free code.
loom:
    RUSTFLAGS="--cfg headcount_loom --cfg tokio_unstable" \
        cargo test --target-dir target/loom --release --no-default-features --lib loom

# The number of tasks that `headcount ps` reads in many settings of a runtime, with other allocators and musl (docs/inspect.md).
inspect-settings *args:
    rustup target add x86_64-unknown-linux-musl
    cargo build --all-features
    tests/inspect/matrix target/debug/headcount --settings {{ args }}

# Looks at release builds of programs of others, which `cargo install` fetches (docs/inspect.md). Arguments: names of programs.
inspect-third-party *args:
    cargo build --all-features
    tests/inspect/third-party target/debug/headcount {{ args }}

# A process that spawns 50,000 tasks a second, looked at for so many seconds.
inspect-flood seconds="60":
    HEADCOUNT_FLOOD={{ seconds }} cargo test --all-features --lib -- --nocapture after_its_end_while_others_come_and_go

# The documentation, with warnings as errors.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features

# The benchmarks (benches/README.md). Arguments as for the benchmark.
bench *args:
    cargo bench --bench compare -- {{ args }}

# Looks at the tasks of a runtime, from inside and from outside (benches/README.md). Arguments: numbers of tasks.
bench-inspect *args:
    benches/inspect {{ args }}

# Runs each benchmark once, without checking figures.
bench-smoke:
    cargo test --bench compare

# The API of the admin server against its document, with requests that schemathesis generates.
schemathesis:
    [ -x target/schemathesis/bin/schemathesis ] || { \
        python3 -m venv target/schemathesis; \
        target/schemathesis/bin/pip install -q 'schemathesis==4.*'; }
    cargo build --all-features --example admin_scenario
    tests/schemathesis target/debug/examples/admin_scenario target/schemathesis/bin/schemathesis

# The page of the admin server in Chromium, with axe-core.
page:
    cargo build --all-features --example admin_scenario
    tests/page/check target/debug/examples/admin_scenario

# The tasks of a service in the real tokio-console, in a terminal.
console: (_install "tokio-console" "0.1.14")
    cargo build --all-features
    tests/tokio-console target/debug/headcount target/cargo/bin/tokio-console

# Compiles each combination of features.
features: (_install "cargo-hack" "0.6.46")
    target/cargo/bin/cargo-hack hack check --feature-powerset --exclude-features default

# Licences, duplicates and sources of dependencies, and advisories if their database can be fetched.
deny: (_install "cargo-deny" "0.20.2" "--no-default-features")
    target/cargo/bin/cargo-deny check -D unmatched-skip licenses bans sources
    if target/cargo/bin/cargo-deny fetch db 2>/dev/null; then {{ just_executable() }} --no-deps advisories; \
        else echo "skipped: advisories, because their database cannot be fetched"; fi

# Known vulnerabilities and yanked versions of dependencies. Needs their database, from GitHub.
advisories: (_install "cargo-deny" "0.20.2" "--no-default-features")
    target/cargo/bin/cargo-deny check advisories

# Fails if a dependency requires a newer Rust than Cargo.toml declares. Newer functions of std are found by clippy.
msrv:
    #!/usr/bin/env python3
    import json, subprocess
    said = subprocess.run(["cargo", "metadata", "--locked", "--all-features", "--format-version", "1"], stdout=subprocess.PIPE, check=True)
    packages = json.loads(said.stdout)["packages"]
    number = lambda version: [int(part) for part in version.split(".")[:2]]
    declared = next(one["rust_version"] for one in packages if one["source"] is None)
    newer = [one for one in packages if number(one["rust_version"] or "1.0") > number(declared)]
    for one in newer:
        print(f"{one['name']} {one['version']} requires Rust {one['rust_version']}, but Cargo.toml declares {declared}")
    if f"stable Rust {declared} or later" not in open("README.md").read():
        exit(f"README.md does not say 'stable Rust {declared} or later'")
    if newer:
        exit(1)
    print(f"all of {len(packages)} packages support Rust {declared}")

# Compiles everything with the minimum Rust, which rustup installs.
msrv-build:
    version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml); \
        rustup toolchain install "$version" --profile minimal; \
        cargo "+$version" check --all-targets --all-features --target-dir target/msrv

# The local stack: its programs, alert rules, dashboards, compose file, and scenarios with faulty services.
stack: tools rules dashboards compose scenarios

# Builds the collector, Prometheus, Alertmanager and Jaeger from Go modules.
tools:
    tests/tools

# Alert rules, runbooks, routes.
rules:
    tests/rules

# Dashboards against Grafana's types.
dashboards:
    tests/grafana-schema

# Compose file, images, collector, Kubernetes.
compose:
    cargo build --all-features
    tests/stack/check target/debug/headcount

# Faulty services under the real collector, Prometheus, Alertmanager and Jaeger: some ten minutes.
scenarios *args: scenario-programs
    tests/stack/scenarios --headcount "$PWD/target/scenarios/headcount" --service "$PWD/target/scenarios/stack_service" {{ args }}

# Builds the services of the scenarios. They are copies, which other builds do not replace.
scenario-programs:
    cargo build --all-features --bin headcount --example stack_service
    mkdir -p target/scenarios
    cp target/debug/headcount target/debug/examples/stack_service target/scenarios

# Installs a program from crates.io into target/cargo. An optimized build would take longer than all uses of the program.
_install name version *options:
    RUSTFLAGS="" CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --debug --locked \
        --root target/cargo --target-dir target/cargo/build {{ options }} {{ name }}@{{ version }}
    rm -rf target/cargo/build
