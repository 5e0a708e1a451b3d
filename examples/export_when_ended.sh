#!/bin/sh
# Writes the text of each conversation into DIR/TENANT/CONVERSATION.txt whenever one of its sessions
# ends. A start goes through all that is stored, so nothing is left out that ended meanwhile.
# Usage: sh export_when_ended.sh TENANT DIR
set -eu

natterjack tail --tenant "$1" --from-start --json | while IFS= read -r event; do
	case $event in
	*'"state":"closed"'* | *'"state":"failed"'*)
		conversation=$(printf '%s\n' "$event" | sed 's/.*"conversation":"\([^"]*\)".*/\1/')
		natterjack export "$1.$conversation" --output "$2" </dev/null
		;;
	esac
done
