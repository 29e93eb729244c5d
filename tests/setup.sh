#!/usr/bin/env bash
# Installs what `make test` needs beside Rust, on Debian and Ubuntu as root; elsewhere says exactly what is missing.
# With --all: what every target of the Makefile needs (benchmarks too; `make deny` says itself how to get cargo-deny).
set -euo pipefail

declare -A packages=([redis-server]=redis-server [redis-cli]=redis-tools [nft]=nftables [ip]=iproute2 [cc]=gcc [openssl]=openssl)
case "${1:-}" in
    "") ;;
    --all)
        packages+=([redis-benchmark]=redis-tools [taskset]=util-linux)
        ;;
    *)
        echo "usage: tests/setup.sh [--all]" >&2
        exit 2
        ;;
esac

missing=()
for program in "${!packages[@]}"; do
    command -v "$program" >/dev/null 2>&1 || [ -x "/usr/sbin/$program" ] || missing+=("${packages[$program]}")
done
if ! command -v cargo >/dev/null 2>&1; then
    echo "cargo is missing: install Rust 1.95 or newer (https://rustup.rs)" >&2
    exit 1
fi
if [ ${#missing[@]} -gt 0 ]; then
    install="apt-get update && apt-get install -y ${missing[*]}"
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing: ${missing[*]}"
        apt-get update -qq
        # Debian would start a Redis service after the installation; the tests start their own.
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod +x "$policy"
            trap 'rm -f "$policy"' EXIT
        fi
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
        echo "the tests need: ${missing[*]}. On Debian or Ubuntu run as root:" >&2
        echo "    $install" >&2
        exit 1
    fi
fi
