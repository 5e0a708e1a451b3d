#!/bin/sh
# What the tests want from Debian: a sound device without hardware (pulseaudio) and PortAudio.
set -eu
wanted=""
command -v pulseaudio >/dev/null 2>&1 || wanted="$wanted pulseaudio"
command -v pactl >/dev/null 2>&1 || wanted="$wanted pulseaudio-utils"
ls /usr/lib/*/alsa-lib/libasound_module_pcm_pulse.so >/dev/null 2>&1 || wanted="$wanted libasound2-plugins"
ls /usr/lib/*/libportaudio.so.2 >/dev/null 2>&1 || wanted="$wanted libportaudio2"
[ -n "$wanted" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "installing Debian packages:$wanted"
	apt-get update -qq
	# shellcheck disable=SC2086  # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >/dev/null
else
	echo "the sound tests need these packages, and will fail without them:$wanted" >&2
fi
