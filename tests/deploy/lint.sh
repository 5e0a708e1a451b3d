#!/bin/sh
# Checks the deployment's files without a cluster: the chart, its rendered manifests, the Dockerfile, alert rules,
# YAML and scripts. `make lint` runs it. The script stops at the first finding.
set -eu
cd "$(dirname "$0")/../.."
PATH="$PWD/.venv/bin:$PATH"
chart=helm/natterjack

say() { printf '%s\n' "lint: $*" >&2; }

rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
for values in "$chart"/ci/*-values.yaml; do
	helm lint --strict --quiet "$chart" -f "$values"
	helm template r "$chart" -n speech -f "$values" >"$rendered/$(basename "$values")"
done
pytest -q -p no:cacheprovider tests/deploy/test_chart.py -k test_manifests_are_valid
.venv-checkov/bin/checkov -d "$rendered" --config-file tests/deploy/checkov.yaml

check-jsonschema --quiet --check-metaschema "$chart/values.schema.json" tests/deploy/schemas/*.json
if [ -f deploy/Dockerfile ]; then
	hadolint deploy/Dockerfile
fi
if command -v promtool >/dev/null; then
	promtool check rules deploy/prometheus/recording.yml deploy/prometheus/alerts.yml >/dev/null
else
	say "rules are not checked because promtool is missing (install it with make system-packages)"
fi
git ls-files '*.yml' '*.yaml' |
	grep -v -e '^helm/natterjack/templates/' -e '^\(tests/emulators\|natterjack/emulators/speechmatics\)/specs/' |
	xargs yamllint --strict -c tests/deploy/yamllint.yaml
git ls-files '*.sh' .ci/run deploy/deb/postinst deploy/deb/prerm deploy/deb/postrm | xargs shellcheck
