#!/bin/sh
# What the tests want from Debian: a sound device without hardware (pulseaudio), PortAudio,
# Prometheus, npm, Chromium; and what makes, runs and checks containers and systemd's units.
set -eu
cd "$(dirname "$0")/.."
root=""
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 && root=yes

wanted=""
command -v pulseaudio >/dev/null 2>&1 || wanted="$wanted pulseaudio"
command -v pactl >/dev/null 2>&1 || wanted="$wanted pulseaudio-utils"
ls /usr/lib/*/alsa-lib/libasound_module_pcm_pulse.so >/dev/null 2>&1 || wanted="$wanted libasound2-plugins"
ls /usr/lib/*/libportaudio.so.2 >/dev/null 2>&1 || wanted="$wanted libportaudio2"
if [ -z "$wanted" ]; then
	:
elif [ -n "$root" ]; then
	echo "installing Debian packages:$wanted"
	apt-get update -qq
	# shellcheck disable=SC2086  # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >/dev/null
else
	echo "the sound tests need these packages, and will fail without them:$wanted" >&2
fi

# Without npm, neither the client for Node nor the AsyncAPI document is checked.
if ! command -v npm >/dev/null 2>&1; then
	if [ -n "$root" ]; then
		echo "installing Debian packages: npm"
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends npm >/dev/null
	else
		echo "the tests of clients/js are skipped without the package npm" >&2
	fi
fi

# Without Chromium the tests of the gateway's pages are skipped. Fonts, so that pictures have letters.
if ! command -v chromium-headless-shell >/dev/null 2>&1; then
	missing="the tests of the gateway's pages need the package chromium-headless-shell or chromium"
	if [ -n "$root" ]; then
		echo "installing Debian packages: chromium-headless-shell fonts-noto-core"
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium-headless-shell fonts-noto-core >/dev/null ||
			echo "$missing" >&2
	elif ! command -v chromium >/dev/null 2>&1; then
		echo "$missing" >&2
	fi
fi

# Without these the tests of images, compose and units are skipped. They need root anyway, and say so.
wanted=""
for tool in buildah podman runc mmdebstrap netavark aardvark-dns catatonit iptables systemd-analyze openssl; do
	[ -x "/usr/lib/podman/$tool" ] || command -v "$tool" >/dev/null 2>&1 || wanted="$wanted ${tool%-analyze}"
done
ls /usr/lib/*/security/pam_systemd.so >/dev/null 2>&1 || wanted="$wanted libpam-systemd" # a user's own systemd
if [ -n "$wanted" ] && [ -n "$root" ]; then
	echo "installing Debian packages:$wanted"
	apt-get update -qq
	# shellcheck disable=SC2086  # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >/dev/null ||
		echo "the tests of images, compose and units are skipped without these packages:$wanted" >&2
fi

# Prometheus is unpacked beside the environment's programs: installed, the package would start a
# server on this machine, now and at each boot. No root is needed for it.
bin="$PWD/.venv/bin"
has() { [ -x "$bin/$1" ] || command -v "$1" >/dev/null 2>&1; }
unpack_prometheus() (
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	cd "$work"
	# As the user who asks: apt's own cannot write here.
	apt-get download -qq -o APT::Sandbox::User=root prometheus 2>/dev/null || return 1
	dpkg -x prometheus_*.deb . && install -m 755 usr/bin/prometheus usr/bin/promtool "$bin"
)
if ! { has prometheus && has promtool; } && [ -d "$bin" ]; then
	echo "unpacking Debian's prometheus into .venv/bin"
	unpack_prometheus || { [ -n "$root" ] && apt-get update -qq && unpack_prometheus; } ||
		echo "the tests of alerts and dashboard need prometheus and promtool, and will fail without them" >&2
fi
