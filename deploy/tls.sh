#!/bin/sh
# Makes what NATS needs for TLS, in deploy/secrets/tls: a certificate authority (once, for ten years)
# and a certificate of the server (anew each time, for a year). It is a client's too: servers of a
# cluster come to one another with it.
#
#   deploy/tls.sh [--dir DIR] [NAME ...]     names and addresses by which others reach the server, such as
#                                            nats.nats.svc, or '*.nats-headless' for all of a cluster
#
# Clients of the server need ca.pem. ca-key.pem is needed for the next certificate only: keep it
# somewhere else if you can.
set -eu
umask 077

dir=$(dirname "$0")/secrets/tls
if [ "${1:-}" = --dir ]; then
	dir=${2:?--dir needs a directory}
	shift 2
fi
case "${1:-}" in -*)
	echo "usage: $0 [--dir DIR] [NAME ...]" >&2
	exit 2
	;;
esac
command -v openssl >/dev/null || {
	echo "$0 needs openssl" >&2
	exit 2
}

names=""
for name in nats localhost 127.0.0.1 "$@"; do
	case "$name" in
	*[!0-9A-Za-z.:*-]*)
		echo "$0: '$name' is neither a host name nor an address" >&2
		exit 2
		;;
	*:*) names="$names,IP:$name" ;;
	*[!0-9.]*) names="$names,DNS:$name" ;;
	*) names="$names,IP:$name" ;;
	esac
done

mkdir -p "$dir"
cd "$dir"
if [ ! -e ca-key.pem ]; then
	if [ -e ca.pem ]; then
		echo "$0: $dir has ca.pem without its ca-key.pem: bring the key, or remove ca.pem to begin" \
			"anew (then every client needs the new one)" >&2
		exit 1
	fi
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 3650 \
		-subj "/CN=natterjack" -addext "keyUsage=critical,keyCertSign,cRLSign" \
		-keyout ca-key.pem -out ca.pem 2>openssl.log || {
		cat openssl.log >&2
		rm -f ca-key.pem ca.pem
		exit 1
	}
fi

work=$(mktemp -d)
trap 'rm -rf "$work" openssl.log' EXIT
cat >"$work/extensions" <<-END
	basicConstraints = critical,CA:FALSE
	keyUsage = critical,digitalSignature
	extendedKeyUsage = serverAuth,clientAuth
	authorityKeyIdentifier = keyid
	subjectAltName = ${names#,}
END
{
	openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj "/CN=nats" \
		-keyout "$work/server-key.pem" -out "$work/request" &&
		openssl x509 -req -in "$work/request" -CA ca.pem -CAkey ca-key.pem -days 365 \
			-set_serial "0x$(openssl rand -hex 16)" -extfile "$work/extensions" -out "$work/server.pem"
} 2>openssl.log || {
	cat openssl.log >&2
	exit 1
}
# Into the files that are there: a container that has them mounted sees the new ones.
cat "$work/server-key.pem" >server-key.pem
cat "$work/server.pem" >server.pem
chmod 644 ca.pem server.pem
echo "in $dir: ca.pem; server.pem and server-key.pem for ${names#,}," \
	"$(openssl x509 -in server.pem -noout -enddate | sed 's/notAfter=/until /')"
