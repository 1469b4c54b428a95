# shellcheck shell=bash
# Shared by ./deploy/up and ./deploy/test: prepares a Debian or Ubuntu machine. Sourced, not executed.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
docker_socket=/var/run/docker.sock
dockerd_log=/var/log/memgate-dockerd.log
# The process id of dockerd if this script started it.
dockerd_pid=

say() { printf '==> %s\n' "$*" >&2; }

# fail WHAT FIX: prints an error with its fix, like memgate does, and exits.
fail() {
    printf 'error: %s: %s\n' "$1" "$2" >&2
    exit 1
}

# Runs a command as root, through sudo if necessary.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "this needs root ($*)" "run this script as root, or install sudo"
    fi
}

# ensure_packages PACKAGE...: installs missing packages.
ensure_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed \
            || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]}"
    as_root apt-get update -qq >&2 || say "apt-get update failed; trying with the existing package lists"
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 \
        || fail "can't install ${missing[*]}" "install them yourself, then retry"
}

require_debian() {
    command -v apt-get >/dev/null && command -v dpkg-query >/dev/null && return
    fail "this machine has no apt-get" \
        "use Debian or Ubuntu, or install Docker Engine, nftables, gcc and Rust yourself, build with \
\`cargo build --release\` and run \`target/release/memgate up\`"
}

# Not installed from the distribution, whose Rust is too old for this code.
require_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
    command -v cargo >/dev/null || fail "Rust is missing" "install Rust $wanted or newer, see https://rustup.rs"
    found=$(cargo --version | cut -d' ' -f2)
    printf '%s\n%s\n' "$wanted" "$found" | sort --version-sort --check=quiet \
        || fail "Rust $found is too old" "run \`rustup update\` (memgate needs $wanted or newer)"
}

docker_answers() {
    [ -S "$docker_socket" ] \
        && [ "$(as_root curl --silent --max-time 5 --unix-socket "$docker_socket" http://docker/_ping)" = OK ]
}

# Installs Docker Engine if it is missing (a client alone isn't enough), and starts it.
ensure_docker() {
    docker_answers && return
    PATH="$PATH:/usr/sbin:/sbin"
    command -v dockerd >/dev/null || ensure_packages docker.io
    docker_answers && return
    start_docker
    for _ in $(seq 150); do
        docker_answers && return
        sleep 0.2
    done
    fail "Docker Engine did not start" "see $dockerd_log, or \`journalctl -u docker\`"
}

start_docker() {
    say "starting Docker Engine"
    if [ -d /run/systemd/system ]; then
        as_root systemctl start docker || fail "systemd can't start Docker" "see \`journalctl -u docker\`"
        return
    fi
    # In its own session, so that Ctrl-C in this terminal doesn't stop it.
    # shellcheck disable=SC2016,SC2034 # expanded by the inner shell; read by ./deploy/test
    dockerd_pid=$(as_root sh -c 'setsid dockerd >>"$1" 2>&1 </dev/null & echo $!' sh "$dockerd_log")
}

# Blocking traffic between containers requires that bridged packets pass the firewall.
ensure_bridge_filter() {
    [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || as_root modprobe br_netfilter 2>/dev/null || true
}

# Installs everything that memgate needs to be built and to run.
prepare_machine() {
    require_debian
    ensure_packages ca-certificates curl gcc libc6-dev iptables nftables
    require_rust
    ensure_docker
    ensure_bridge_filter
}

# Installs cargo-deb, which makes the Debian package, into $tools.
ensure_cargo_deb() {
    local wanted=3.8.0
    # shellcheck disable=SC2154 # set by the caller
    cargo_deb="$tools/bin/cargo-deb"
    [ "$("$cargo_deb" --version 2>/dev/null)" = "cargo-deb $wanted" ] && return
    say "installing cargo-deb $wanted (once, takes some minutes)"
    # It compresses with the system's xz.
    cargo install --quiet --debug --locked cargo-deb --version "$wanted" --no-default-features --root "$tools" \
        --target-dir "$tools/build" || fail "can't install cargo-deb" "check that crates.io can be reached"
    rm -rf "$tools/build"
}
