#!/bin/sh
# Creates the TLS files of NATS in deploy/secrets/tls: a certificate authority, if there is none yet (valid for ten
# years), and a new server certificate (valid for one year). Servers of a cluster also use it as a client
# certificate for one another.
#
#   deploy/tls.sh [--dir DIR] [NAME ...]     host names and addresses of the server, such as nats.nats.svc, or
#                                            '*.nats-headless' for all servers of a cluster
#
# Clients need ca.pem. ca-key.pem is needed only to create further certificates: keep it somewhere else if you
# can.
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
		echo "$0: $dir has ca.pem but not its ca-key.pem: restore the key, or remove ca.pem to" \
			"create a new authority (every client then needs the new ca.pem)" >&2
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
# Overwrite the existing files in place, so that containers that have them mounted see the change.
cat "$work/server-key.pem" >server-key.pem
cat "$work/server.pem" >server.pem
chmod 644 ca.pem server.pem
echo "created server.pem and server-key.pem in $dir for ${names#,}," \
	"$(openssl x509 -in server.pem -noout -enddate | sed 's/notAfter=/valid until /'); clients need $dir/ca.pem"
