{{/* Names, labels, and parts that several components share. */}}

{{- define "natterjack.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* Leaves room for the longest suffix and a pod's hash. A truncated name ends in a hash, so that it stays unique. */ -}}
{{- define "natterjack.fullname" -}}
{{- $name := .Values.fullnameOverride -}}
{{- if not $name -}}
{{- $chart := include "natterjack.name" . -}}
{{- $name = ternary .Release.Name (printf "%s-%s" .Release.Name $chart) (contains $chart .Release.Name) -}}
{{- end -}}
{{- if gt (len $name) 40 -}}
{{- printf "%s-%s" ($name | trunc 31 | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{- /* Selector of a component: dict "root" $ "component" "worker". Immutable, so it has nothing that an upgrade changes. */ -}}
{{- define "natterjack.selectorLabels" -}}
app.kubernetes.io/name: {{ include "natterjack.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component | quote }}
{{- end -}}

{{- /* All labels of a component; "more" (map) is optional. */ -}}
{{- define "natterjack.labels" -}}
{{- $own := include "natterjack.ownLabels" . | fromYaml -}}
{{- include "natterjack.strings" (merge $own (default dict .more) (default dict .root.Values.commonLabels)) | trim -}}
{{- end -}}

{{- define "natterjack.ownLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | quote }}
{{ include "natterjack.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
app.kubernetes.io/part-of: "natterjack"
{{- end -}}

{{- /* A map of strings. Keys are quoted too, because they may look like numbers or booleans. */ -}}
{{- define "natterjack.strings" -}}
{{- range $name, $value := . }}
{{ $name | quote }}: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- /* Image reference: dict "root" $ "image" .Values.image */ -}}
{{- define "natterjack.image" -}}
{{- $registry := default .root.Values.image.registry .image.registry -}}
{{- $name := .image.repository -}}
{{- if $registry }}{{ $name = printf "%s/%s" $registry $name }}{{ end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (coalesce .image.tag .root.Values.image.tag .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "natterjack.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "natterjack.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* Service account of the stream job, which runs before the account of the workers exists. */ -}}
{{- define "natterjack.streamsServiceAccountName" -}}
{{- if .Values.serviceAccount.create }}{{ include "natterjack.fullname" . }}-streams{{ else }}{{ default "default" .Values.serviceAccount.name }}{{ end -}}
{{- end -}}

{{- define "natterjack.imagePullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ .name | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* The name of the Secret with a component's NATS credentials: dict "root" $ "auth" ... */ -}}
{{- define "natterjack.natsSecret" -}}
{{- with coalesce .auth.existingSecret .root.Values.nats.auth.existingSecret }}{{ . }}{{ end -}}
{{- end -}}

{{- /* Settings of the NATS connection: dict "root" $ "auth" ... "at" (path of the auth value)
"kind" (of credentials, if not nats.auth.kind) */ -}}
{{- define "natterjack.natsSettings" -}}
{{- $nats := .root.Values.nats -}}
{{- if contains "@" $nats.url -}}
{{- fail "nats.url contains a user or a password, but values are not secret: put the credentials into a Secret and set nats.auth.existingSecret" -}}
{{- end -}}
NATS_URL: {{ $nats.url | quote }}
{{- if include "natterjack.natsSecret" . }}
NATS_{{ upper (coalesce .kind $nats.auth.kind) }}: "/etc/natterjack/nats/user/credentials"
{{- end }}
{{- if .auth.inboxPrefix }}
NATS_INBOX_PREFIX: {{ .auth.inboxPrefix | quote }}
{{- else if and (include "natterjack.natsSecret" .) (hasSuffix ".nk" .auth.key) }}
NATS_INBOX_PREFIX: {{ printf "_INBOX_%s" (trimSuffix ".nk" .auth.key) | quote }}
{{- else if and (include "natterjack.natsSecret" .) (eq $nats.auth.kind "nkey") }}
{{- fail (printf "%s.key is %s, from which no inbox prefix can be derived: name the key USER.nk, as `natterjack users add` names the file, or set %s.inboxPrefix" .at .auth.key .at) -}}
{{- end }}
{{- if $nats.tls.caSecret }}
NATS_CA: "/etc/natterjack/nats/ca/ca.crt"
{{- end }}
{{- if $nats.tls.certSecret }}
NATS_CERT: "/etc/natterjack/nats/cert/tls.crt"
NATS_KEY: "/etc/natterjack/nats/cert/tls.key"
{{- end }}
{{- end -}}

{{- define "natterjack.natsVolumeMounts" -}}
{{- if include "natterjack.natsSecret" . }}
- name: nats-user
  mountPath: /etc/natterjack/nats/user
  readOnly: true
{{- end }}
{{- if .root.Values.nats.tls.caSecret }}
- name: nats-ca
  mountPath: /etc/natterjack/nats/ca
  readOnly: true
{{- end }}
{{- if .root.Values.nats.tls.certSecret }}
- name: nats-cert
  mountPath: /etc/natterjack/nats/cert
  readOnly: true
{{- end }}
{{- end -}}

{{- /* Mounts only the credentials of the pod's own role. */ -}}
{{- define "natterjack.natsVolumes" -}}
{{- $tls := .root.Values.nats.tls -}}
{{- with include "natterjack.natsSecret" . }}
- name: nats-user
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
    items:
      - key: {{ $.auth.key | quote }}
        path: credentials
{{- end }}
{{- with $tls.caSecret }}
- name: nats-ca
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
    items:
      - key: {{ $tls.caKey | quote }}
        path: ca.crt
{{- end }}
{{- with $tls.certSecret }}
- name: nats-cert
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{- /* Settings of the streams: for the job that creates them, and for workers, which check them. */ -}}
{{- define "natterjack.streamSettings" -}}
{{- with .Values.streams -}}
WORKER_KINDS: {{ join "," .kinds | quote }}
NATTERJACK_STREAM_REPLICAS: {{ int64 .replicas | toString | quote }}
NATTERJACK_AUDIO_STORAGE: {{ .audioStorage | quote }}
NATTERJACK_AUDIO_MAX_AGE_SECONDS: {{ int64 .audioMaxAgeSeconds | toString | quote }}
NATTERJACK_AUDIO_MAX_BYTES: {{ int64 .audioMaxBytes | toString | quote }}
NATTERJACK_TRANSCRIPTS_MAX_AGE_SECONDS: {{ int64 .transcriptsMaxAgeSeconds | toString | quote }}
NATTERJACK_TTS_AUDIO_MAX_BYTES: {{ int64 .speechMaxBytes | toString | quote }}
NATTERJACK_LEASE_SECONDS: {{ int64 .leaseSeconds | toString | quote }}
{{- end }}
{{- end -}}

{{- define "natterjack.logSettings" -}}
NATTERJACK_LOG_LEVEL: {{ .Values.log.level | quote }}
NATTERJACK_LOG_FORMAT: {{ .Values.log.format | quote }}
{{- end -}}

{{- define "natterjack.worker.settings" -}}
{{- $worker := .Values.worker -}}
WORKER_PROVIDER: {{ $worker.provider | quote }}
WORKER_MAX_SESSIONS: {{ int64 $worker.maxSessions | toString | quote }}
WORKER_DRAIN_SECONDS: {{ int64 $worker.drain.finishSeconds | toString | quote }}
WORKER_HANDOVER_SECONDS: {{ int64 $worker.drain.handoverSeconds | toString | quote }}
WORKER_HTTP_HOST: {{ $worker.httpHost | quote }}
WORKER_HTTP_PORT: "9464"
{{- if include "natterjack.worker.keys" . }}
WORKER_SECRETS_DIR: "/etc/natterjack/keys"
{{- end }}
NATTERJACK_CREATE_STREAMS: {{ $worker.createStreams | toString | quote }}
{{ include "natterjack.natsSettings" (dict "root" . "auth" .Values.nats.auth "at" "nats.auth") }}
{{ include "natterjack.streamSettings" . }}
{{ include "natterjack.logSettings" . }}
{{- with .Values.proxy }}
{{- if .url }}
HTTPS_PROXY: {{ .url | quote }}
{{- end }}
{{- if .noProxy }}
NO_PROXY: {{ .noProxy | quote }}
{{- end }}
{{- end }}
{{- if .Values.caBundle.existingConfigMap }}
SSL_CERT_FILE: "/etc/natterjack/ca/ca.crt"
{{- end }}
{{- end -}}

{{- /* Fails if a provider has no key, since the worker would never start. */ -}}
{{- define "natterjack.worker.checkProvider" -}}
{{- $given := dict -}}
{{- range .Values.providers -}}
{{- if .enabled }}{{ $_ := set $given .variable true }}{{ end -}}
{{- end -}}
{{- range .Values.worker.extraEnv }}{{ $_ := set $given .name true }}{{ end -}}
{{- $elsewhere := or .Values.worker.extraEnvFrom (hasKey (default dict .Values.worker.settings) "WORKER_SECRETS_DIR") -}}
{{- $needs := dict
  "deepgram" (list "DEEPGRAM_API_KEY")
  "deepgram-flux" (list "DEEPGRAM_API_KEY")
  "deepgram-rest" (list "DEEPGRAM_API_KEY" "DEEPGRAM_REST_API_KEY")
  "speechmatics" (list "SPEECHMATICS_API_KEY" "SPEECHMATICS_TEMPORARY_KEY")
  "speechmatics-agent" (list "SPEECHMATICS_API_KEY" "SPEECHMATICS_TEMPORARY_KEY")
  "managed" (list "MANAGED_TOKEN") -}}
{{- range $name := splitList "," .Values.worker.provider -}}
{{- $variables := default list (get $needs (trim $name)) -}}
{{- $found := or $elsewhere (not $variables) -}}
{{- range $variables }}{{ if hasKey $given . }}{{ $found = true }}{{ end }}{{ end -}}
{{- if not $found -}}
{{- fail (printf "worker.provider lists %s, but workers have no key for it: set providers.%s.enabled and existingSecret, or set %s in worker.extraEnv with valueFrom" (trim $name) (trim $name | splitList "-" | first) (first $variables)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Sources of the volume with provider keys. Each file has the name of its variable. */ -}}
{{- define "natterjack.worker.keys" -}}
{{- $variables := dict -}}
{{- range $name, $provider := .Values.providers }}
{{- if $provider.enabled }}
{{- if hasKey $variables $provider.variable -}}
{{- fail (printf "providers.%s.variable and providers.%s.variable are both %s: disable one of them (providers that share an account share its key)" (get $variables $provider.variable) $name $provider.variable) -}}
{{- end -}}
{{- $_ := set $variables $provider.variable $name }}
- secret:
    name: {{ required (printf "providers.%s.existingSecret is empty: set it to the Secret that holds the key" $name) $provider.existingSecret | quote }}
    items:
      - key: {{ $provider.key | quote }}
        path: {{ $provider.variable | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "natterjack.edge.settings" -}}
{{ include "natterjack.natsSettings" (dict "root" . "auth" .Values.edge.auth "at" "edge.auth") }}
{{ include "natterjack.logSettings" . }}
EDGE_FINISH_SECONDS: {{ int64 .Values.edge.finishSeconds | toString | quote }}
{{- if .Values.edge.spool.enabled }}
EDGE_SPOOL: "/var/lib/natterjack"
{{- end }}
{{- end -}}

{{- define "natterjack.webhook.settings" -}}
{{- $webhook := .Values.webhook -}}
{{- include "natterjack.noSecret" (dict "at" "webhook" "name" "WEBHOOK_URL" "value" $webhook.url) -}}
WEBHOOK_URL: {{ required "webhook.url is empty: set it to the URL that events are sent to" $webhook.url | quote }}
WEBHOOK_SECRET_FILE: "/etc/natterjack/webhook/secret"
WEBHOOK_NAME: {{ $webhook.name | quote }}
WEBHOOK_KINDS: {{ join "," $webhook.kinds | quote }}
{{- with $webhook.tenant }}
WEBHOOK_TENANT: {{ . | quote }}
{{- end }}
WEBHOOK_PARALLEL: {{ int64 $webhook.parallel | toString | quote }}
WEBHOOK_TIMEOUT_SECONDS: {{ int64 $webhook.timeoutSeconds | toString | quote }}
WEBHOOK_ALLOW_PRIVATE: {{ $webhook.allowPrivate | toString | quote }}
WEBHOOK_HTTP_HOST: {{ .Values.worker.httpHost | quote }}
WEBHOOK_HTTP_PORT: "9465"
{{ include "natterjack.natsSettings" (dict "root" . "auth" $webhook.auth "at" "webhook.auth") }}
{{ include "natterjack.logSettings" . }}
{{- if .Values.caBundle.existingConfigMap }}
SSL_CERT_FILE: "/etc/natterjack/ca/ca.crt"
{{- end }}
{{- end -}}

{{- /* A registrar always has a credentials file: its broker has JWTs. */ -}}
{{- define "natterjack.registrar.settings" -}}
REGISTRAR_SIGNING_KEY_FILE: "/etc/natterjack/registrar/signing-key"
REGISTRAR_LIFETIME_HOURS: {{ int64 .Values.registrar.lifetimeHours | toString | quote }}
REGISTRAR_HTTP_HOST: {{ .Values.worker.httpHost | quote }}
REGISTRAR_HTTP_PORT: "9466"
{{ include "natterjack.natsSettings" (dict "root" . "auth" .Values.registrar.auth "at" "registrar.auth" "kind" "creds") }}
{{ include "natterjack.logSettings" . }}
{{- end -}}

{{- define "natterjack.gateway.settings" -}}
{{- $gateway := .Values.gateway -}}
GATEWAY_HTTP_HOST: {{ .Values.worker.httpHost | quote }}
GATEWAY_HTTP_PORT: "8080"
GATEWAY_EXPOSE: {{ $gateway.expose | quote }}
GATEWAY_KEYS_FILE: "/etc/natterjack/clients/keys"
{{- if $gateway.tokens.existingSecret }}
GATEWAY_TOKEN_SECRET_FILE: "/etc/natterjack/clients/token-secret"
{{- end }}
{{- with $gateway.provider }}
GATEWAY_PROVIDER: {{ . | quote }}
{{- end }}
{{- with $gateway.origins }}
GATEWAY_ORIGINS: {{ join "," . | quote }}
{{- end }}
GATEWAY_TRUSTED_PROXIES: {{ int64 $gateway.trustedProxies | toString | quote }}
GATEWAY_MAX_CONNECTIONS: {{ int64 $gateway.maxConnections | toString | quote }}
GATEWAY_DRAIN_SECONDS: {{ int64 $gateway.drain.finishSeconds | toString | quote }}
{{ include "natterjack.natsSettings" (dict "root" . "auth" $gateway.auth "at" "gateway.auth") }}
{{ include "natterjack.logSettings" . }}
{{- end -}}

{{- /*
All settings of a component, as a map:
dict "settings" (chart's, YAML) "more" (user's map) "at" (path of the user's map)
*/ -}}
{{- define "natterjack.allSettings" -}}
{{- $all := .settings | fromYaml -}}
{{- range $name, $value := .more }}
{{- include "natterjack.noSecret" (dict "at" $.at "name" $name "value" $value) -}}
{{- if or (hasKey $all $name) (has $name (list "WORKER_NAME" "GATEWAY_NAME")) -}}
{{- fail (printf "%s.%s: the chart sets %s itself; change the corresponding value instead (see values.yaml)" $.at $name $name) -}}
{{- end -}}
{{- $_ := set $all $name $value -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{- /*
Fails if a value looks like a secret, since everybody who can read the release can read its values. A path to a
file that holds a secret is allowed. dict "at" ... "name" (of a variable) "value" ...
*/ -}}
{{- define "natterjack.noSecret" -}}
{{- if regexMatch "://[^/?#\\s]*@" .value -}}
{{- fail (printf "%s: the URL in %s contains a user or a password, but values are not secret: put it into a Secret and reference it in extraEnv with valueFrom" .at .name) -}}
{{- end -}}
{{- if and (regexMatch "(KEY|TOKEN|PASSWORD|SECRET)$" .name) (not (hasPrefix "/" .value)) -}}
{{- fail (printf "%s: %s is a secret, but values are not secret: put it into a Secret and reference it under providers (or in extraEnv with valueFrom)" .at .name) -}}
{{- end -}}
{{- end -}}

{{- /*
Additional `env` entries. Fails on a duplicate, which the API server would reject.
dict "taken" (map) "env" (list) "at" (path of the list)
*/ -}}
{{- define "natterjack.extraEnv" -}}
{{- $taken := deepCopy .taken -}}
{{- range .env }}
{{- if and (hasKey . "value") (hasKey . "valueFrom") -}}
{{- fail (printf "%s: %s has both value and valueFrom; set only one of them" $.at .name) -}}
{{- end -}}
{{- if hasKey $taken .name -}}
{{- fail (printf "%s: %s is already set, by the chart or by an earlier entry" $.at .name) -}}
{{- end -}}
{{- $_ := set $taken .name "" }}
{{- if hasKey . "value" }}
{{- include "natterjack.noSecret" (dict "at" $.at "name" .name "value" .value) }}
- name: {{ .name | quote }}
  value: {{ .value | quote }}
{{- else }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Pod Security level "restricted". An ID that is null is left to the cluster (OpenShift assigns its own). */ -}}
{{- define "natterjack.podSecurityContext" -}}
runAsNonRoot: true
{{- range $id := list "runAsUser" "runAsGroup" "fsGroup" }}
{{- with get $.Values.podSecurityContext $id }}
{{ $id }}: {{ int64 . }}
{{- end }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "natterjack.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: ["ALL"]
{{- end -}}

{{- /* Best-effort spread over zones and hosts: dict "root" $ "component" ... "constraints" ... */ -}}
{{- define "natterjack.topologySpread" -}}
{{- if .constraints }}
{{- toYaml .constraints }}
{{- else -}}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "natterjack.selectorLabels" $ | nindent 6 }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Target number of sessions per worker: 70% of its slots by default. */ -}}
{{- define "natterjack.targetSessions" -}}
{{- $max := int64 .Values.worker.maxSessions -}}
{{- $target := int64 .Values.autoscaling.targetSessionsPerWorker -}}
{{- if not $target }}{{ $target = max 1 (div (mul $max 70) 100) }}{{ end -}}
{{- if gt $target $max -}}
{{- fail (printf "autoscaling.targetSessionsPerWorker is %d, which exceeds worker.maxSessions (%d): workers would be full before another one is added" $target $max) -}}
{{- end -}}
{{- if and (eq .Values.autoscaling.type "hpa") (ge (mul $target 11) (mul $max 10)) -}}
{{- fail (printf "autoscaling.targetSessionsPerWorker is %d and worker.maxSessions is %d: an HPA scales out only above 110%% of the target, which full workers do not reach; set the target below 90%% of worker.maxSessions" $target $max) -}}
{{- end -}}
{{- $target -}}
{{- end -}}

{{- /* A worker that hangs exits 15 s after both times; the rest is a margin for the kubelet. */ -}}
{{- define "natterjack.terminationGrace" -}}
{{- add (int64 .Values.worker.drain.finishSeconds) (int64 .Values.worker.drain.handoverSeconds) 30 -}}
{{- end -}}

{{- /* Ports of NATS, separated by commas: those of the value, or else those of the URL. */ -}}
{{- define "natterjack.natsPorts" -}}
{{- $ports := list -}}
{{- range .Values.networkPolicy.nats.ports }}{{ $ports = append $ports (int64 . | toString) }}{{ end -}}
{{- if not $ports -}}
{{- range $url := splitList "," .Values.nats.url -}}
{{- $usual := ternary "443" (ternary "80" "4222" (hasPrefix "ws:" $url)) (hasPrefix "wss:" $url) -}}
{{- $ports = append $ports (regexReplaceAll "^[a-z]+://|/.*$" $url "" | regexFind ":[0-9]+$" | trimPrefix ":" | default $usual) -}}
{{- end -}}
{{- end -}}
{{- join "," (uniq $ports) -}}
{{- end -}}

{{- /* Egress that every component needs: DNS and NATS. */ -}}
{{- define "natterjack.baseEgress" -}}
{{- /* DNS to any address, because a DNS cache on the node is not a pod. */ -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
- ports:
    {{- range splitList "," (include "natterjack.natsPorts" .) }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .Values.networkPolicy.nats.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
