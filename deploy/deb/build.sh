#!/bin/sh
# Builds natterjack-edge_VERSION_ARCHITECTURE.deb: the edge, its units and examples of its files.
#
#   sh deploy/deb/build.sh [FOLDER]     the folder of the package; build/ by default
#
# PYTHON     the interpreter of the machines that get the package (/usr/bin/python3): build on their release
# PIP        the pip that installs the dependencies (python3 -m pip)
# COMPRESS   how dpkg-deb compresses (xz; `none` is quick)
set -eu
umask 022
unset PYTHONPATH PYTHONHOME PYTHONPYCACHEPREFIX
here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)
mkdir -p "${1:-build}"
out=$(cd "${1:-build}" && pwd)
python=$(readlink -f "${PYTHON:-/usr/bin/python3}")
pip=${PIP:-python3 -m pip}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
target=$root/opt/natterjack

# A virtual environment that works where it is not made: the interpreter is that of Debian.
release=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
next=$("$python" -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')
packages=$target/lib/python$release/site-packages
mkdir -p "$target/bin" "$packages"
ln -s "/usr/bin/python$release" "$target/bin/python3"
ln -s python3 "$target/bin/python"
printf 'home = /usr/bin\ninclude-system-site-packages = false\n' >"$target/pyvenv.cfg"
[ -x "/usr/bin/python$release" ] || { echo "$python is not Debian's: set PYTHON=/usr/bin/python3" >&2; exit 1; }

# The wheel is built from a copy, since a build leaves files in its tree.
mkdir "$work/source"
for part in pyproject.toml README.md LICENSE natterjack worker edge_capture gateway; do
	cp -R "$source/$part" "$work/source/"
done
$pip wheel --disable-pip-version-check --quiet --no-deps --wheel-dir "$work" "$work/source"
wheel=$(ls "$work"/natterjack-*.whl)
version=$(basename "$wheel" | cut -d- -f2)
$pip --python "$target/bin/python" install --disable-pip-version-check --quiet --no-compile \
	--no-warn-script-location "${wheel}[edge]"

# Only what an edge runs, without traces of this machine.
rm -r "$packages/worker" "$packages/gateway" "$packages"/natterjack-*.dist-info/direct_url.json
find "$packages" -type d \( -name tests -o -name __pycache__ \) -prune -exec rm -r {} +
find "$target/bin" -type f ! -name natterjack ! -name natterjack-edge -exec rm {} +
sed -i "s|$root||g" "$target/bin/natterjack" "$target/bin/natterjack-edge"
# Compiled here, since the edge may not write there, and would compile everything at each start.
"$python" -m compileall -q -j 0 --invalidation-mode unchecked-hash -s "$root" -p / "$packages" >/dev/null

install -d "$root/usr/bin" "$root/usr/lib/systemd/user" "$root/usr/lib/sysusers.d" "$root/usr/share/doc/natterjack-edge"
ln -s /opt/natterjack/bin/natterjack-edge "$root/usr/bin/natterjack-edge"
for unit in natterjack-edge natterjack-edge-run; do
	install -D -m 644 "$source/deploy/systemd/$unit.service" "$root/usr/lib/systemd/system/$unit.service"
	install -D -m 644 "$here/user.conf" "$root/usr/lib/systemd/system/$unit.service.d/user.conf"
	install -m 644 "$source/deploy/systemd/user/$unit.service" "$root/usr/lib/systemd/user/"
done
install -m 644 "$here/sysusers.conf" "$root/usr/lib/sysusers.d/natterjack-edge.conf"
install -m 644 "$source/LICENSE" "$root/usr/share/doc/natterjack-edge/copyright"
install -d "$root/etc/natterjack"
install -m 644 "$here/edge.toml" "$root/etc/natterjack/edge.toml"
install -m 600 "$here/edge.env" "$root/etc/natterjack/edge.env"

mkdir "$root/DEBIAN"
printf '/etc/natterjack/edge.toml\n/etc/natterjack/edge.env\n' >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do
	install -m 755 "$here/$script" "$root/DEBIAN/$script"
done
architecture=$(dpkg --print-architecture)
cat >"$root/DEBIAN/control" <<EOF
Package: natterjack-edge
Version: $version-1
Architecture: $architecture
Maintainer: natterjack maintainers <maintainers@natterjack.invalid>
Installed-Size: $(du -sk "$root" | cut -f1)
Depends: python3 (>= $release~), python3 (<< $next~), libportaudio2, systemd, passwd
Recommends: libasound2-plugins
Suggests: ffmpeg
Section: sound
Priority: optional
Description: captures audio and publishes it over NATS for live transcripts
 The edge of natterjack: microphones, files, pipes and streams become sessions,
 which workers elsewhere transcribe. Audio that is not stored yet waits in a
 spool on disk. Nothing is started until an administrator enables a unit.
EOF
package=$out/natterjack-edge_$version-1_$architecture.deb
dpkg-deb --root-owner-group -Z"${COMPRESS:-xz}" --build "$root" "$package" >/dev/null
echo "$package"
