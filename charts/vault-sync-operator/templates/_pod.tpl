{{/*
What the operator's own pods and those of the hooks have in common: the same program, told the
same things, with the same files.
*/}}

{{/* One flag a line. */}}
{{- define "vault-sync-operator.flags" -}}
- {{ printf "--vault-addr=%s" .Values.vault.address | quote }}
- {{ printf "--vault-role=%s" .Values.vault.role | quote }}
- {{ printf "--vault-auth-path=%s" .Values.vault.authPath | quote }}
- --vault-token-file=/var/run/secrets/vault-sync-operator/token
{{- with .Values.clusterName }}
- --cluster-name={{ . }}
{{- end }}
{{- with .Values.watchNamespaces }}
- --watch-namespaces={{ join "," . }}
{{- end }}
- --kinds={{ include "vault-sync-operator.kinds" . }}
- --finalizers={{ include "vault-sync-operator.finalizers" . }}
- --namespace-isolation={{ .Values.namespaceIsolation | default "off" }}
{{- if dig "rules" list (.Values.pathPolicy | default dict) }}
- --path-policy=/etc/vault-sync-operator/files/path-policy.yaml
{{- end }}
- --deletion-policy={{ .Values.deletionPolicy | default "soft" }}
- --concurrency={{ .Values.concurrency | default 16 }}
- --max-documents-per-namespace={{ int (.Values.maxDocumentsPerNamespace | default 5000) }}
- --leader-elect={{ .Values.controllerManager.leaderElect }}
- --metrics-bind-address={{ .Values.controllerManager.metrics.bindAddress }}
- --enable-metrics-auth={{ .Values.controllerManager.metrics.enableAuth }}
- --health-probe-bind-address={{ .Values.controllerManager.healthProbe.bindAddress }}
- --shutdown-grace={{ div (mul .Values.terminationGracePeriodSeconds 3) 4 }}s
- --log-format={{ .Values.logFormat | default "json" }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{/* The chart's own variables. */}}
{{- define "vault-sync-operator.ownEnv" -}}
- name: POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: POD_NAMESPACE
  valueFrom:
    fieldRef: {fieldPath: metadata.namespace}
- name: POD_UID
  valueFrom:
    fieldRef: {fieldPath: metadata.uid}
- name: GOMAXPROCS
  {{- with dig "gomaxprocs" "" (.Values.goRuntime | default dict) }}
  value: {{ toString . | quote }}
  {{- else }}
  valueFrom:
    resourceFieldRef: {resource: limits.cpu}
  {{- end }}
- name: GOMEMLIMIT
  {{- with dig "gomemlimit" "" (.Values.goRuntime | default dict) }}
  value: {{ toString . | quote }}
  {{- else }}
  valueFrom:
    resourceFieldRef: {resource: limits.memory}
  {{- end }}
{{- with .Values.vault.namespace }}
- name: VAULT_NAMESPACE
  value: {{ . | quote }}
{{- end }}
{{- if .Values.vault.caSecret }}
- name: VAULT_CACERT
  value: /etc/vault-sync-operator/vault-ca/{{ (include "vault-sync-operator.secret" .Values.vault.caSecret | fromJson).key | default "ca.crt" }}
{{- else if .Values.vault.caBundle }}
- name: VAULT_CACERT
  value: /etc/vault-sync-operator/files/vault-ca.crt
{{- end }}
{{- with .Values.vault.clientCertSecret }}
{{- $secret := include "vault-sync-operator.secret" . | fromJson }}
- name: VAULT_CLIENT_CERT
  value: /etc/vault-sync-operator/vault-client/{{ $secret.certKey | default "tls.crt" }}
- name: VAULT_CLIENT_KEY
  value: /etc/vault-sync-operator/vault-client/{{ $secret.keyKey | default "tls.key" }}
{{- end }}
{{- end -}}

{{/*
With those of `env`. A variable that the chart sets too is refused: a flag wins over its variable, and nobody would
notice.
*/}}
{{- define "vault-sync-operator.env" -}}
{{- $value := dict
  "VAULT_ADDR" "vault.address" "VAULT_SYNC_VAULT_ROLE" "vault.role" "VAULT_SYNC_VAULT_AUTH_PATH" "vault.authPath"
  "VAULT_SYNC_CLUSTER_NAME" "clusterName" "VAULT_SYNC_WATCH_NAMESPACES" "watchNamespaces" "VAULT_SYNC_KINDS" "kinds and secretSources"
  "VAULT_SYNC_FINALIZERS" "finalizers" "VAULT_SYNC_NAMESPACE_ISOLATION" "namespaceIsolation" "VAULT_SYNC_PATH_POLICY" "pathPolicy"
  "VAULT_SYNC_DELETION_POLICY" "deletionPolicy" "VAULT_SYNC_CONCURRENCY" "concurrency"
  "VAULT_SYNC_MAX_DOCUMENTS_PER_NAMESPACE" "maxDocumentsPerNamespace" "VAULT_SYNC_LEADER_ELECT" "controllerManager.leaderElect"
  "VAULT_SYNC_METRICS_BIND_ADDRESS" "controllerManager.metrics.bindAddress" "VAULT_SYNC_ENABLE_METRICS_AUTH" "controllerManager.metrics.enableAuth"
  "VAULT_SYNC_HEALTH_PROBE_BIND_ADDRESS" "controllerManager.healthProbe.bindAddress" "VAULT_SYNC_SHUTDOWN_GRACE" "terminationGracePeriodSeconds"
  "VAULT_SYNC_LOG_FORMAT" "logFormat" "GOMAXPROCS" "goRuntime.gomaxprocs" "GOMEMLIMIT" "goRuntime.gomemlimit" "VAULT_NAMESPACE" "vault.namespace"
  "VAULT_CACERT" "vault.caSecret or vault.caBundle" "VAULT_CLIENT_CERT" "vault.clientCertSecret" "VAULT_CLIENT_KEY" "vault.clientCertSecret" -}}
{{- $own := dict -}}
{{- range include "vault-sync-operator.ownEnv" . | fromYamlArray -}}
{{- $_ := set $own .name (printf "the chart sets %s itself" .name) -}}
{{- end -}}
{{- range include "vault-sync-operator.flags" . | fromYamlArray -}}
{{- $flag := regexReplaceAll "^--?([^=]*).*$" . "${1}" -}}
{{- $variable := eq $flag "vault-addr" | ternary "VAULT_ADDR" (printf "VAULT_SYNC_%s" ($flag | upper | replace "-" "_")) -}}
{{- $_ := set $own $variable (printf "%s has no effect beside the flag --%s, which the chart sets" $variable $flag) -}}
{{- end -}}
{{- range .Values.env -}}
{{- $instead := hasPrefix "POD_" .name | ternary "leave it out" (printf "use %s instead" (get $value .name | default "extraArgs")) -}}
{{- with get $own .name -}}
{{- fail (printf "env: %s; %s" . $instead) -}}
{{- end -}}
{{- end -}}
{{ include "vault-sync-operator.ownEnv" . }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "vault-sync-operator.mounts" -}}
- name: vault-token
  mountPath: /var/run/secrets/vault-sync-operator
  readOnly: true
{{- if include "vault-sync-operator.files" . }}
- name: files
  mountPath: /etc/vault-sync-operator/files
  readOnly: true
{{- end }}
{{- if .Values.vault.caSecret }}
- name: vault-ca
  mountPath: /etc/vault-sync-operator/vault-ca
  readOnly: true
{{- end }}
{{- if .Values.vault.clientCertSecret }}
- name: vault-client
  mountPath: /etc/vault-sync-operator/vault-client
  readOnly: true
{{- end }}
{{- with .Values.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The token for Vault is short-lived, bound to the pod, and renewed by the kubelet. */}}
{{- define "vault-sync-operator.volumes" -}}
- name: vault-token
  projected:
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: {{ int64 (.Values.vault.tokenTTL | default 3600) }}
          {{- with .Values.vault.tokenAudience }}
          audience: {{ . | quote }}
          {{- end }}
{{- if include "vault-sync-operator.files" . }}
- name: files
  configMap:
    name: {{ include "vault-sync-operator.fullname" . }}-files
{{- end }}
{{- with .Values.vault.caSecret }}
- name: vault-ca
  secret:
    secretName: {{ (include "vault-sync-operator.secret" . | fromJson).name }}
{{- end }}
{{- with .Values.vault.clientCertSecret }}
- name: vault-client
  secret:
    secretName: {{ (include "vault-sync-operator.secret" . | fromJson).name }}
{{- end }}
{{- with .Values.volumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where and as what a pod runs. */}}
{{- define "vault-sync-operator.placement" -}}
automountServiceAccountToken: true
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ .name }}
  {{- end }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A hook's container: the operator's program, with another command. */}}
{{- define "vault-sync-operator.container" -}}
image: {{ include "vault-sync-operator.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  {{- include "vault-sync-operator.env" . | nindent 2 }}
volumeMounts:
  {{- include "vault-sync-operator.mounts" . | nindent 2 }}
{{- with .Values.controllerManager.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
