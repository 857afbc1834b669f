{{/* The chart's name, or what replaces it. */}}
{{- define "vault-sync-operator.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* What every object's name begins with: the release's name, which need not say the chart's twice. */}}
{{- define "vault-sync-operator.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $long := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $long | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "vault-sync-operator.manager" -}}
{{- printf "%s-controller-manager" (include "vault-sync-operator.fullname" .) -}}
{{- end -}}

{{/*
(list FRONT END): a name of 63 characters at most, without dots. A front that is changed gets a hash, so that the
name stays unique.
*/}}
{{- define "vault-sync-operator.short" -}}
{{- $front := first . -}}
{{- $end := last . -}}
{{- if or (contains "." $front) (gt (add (len $front) (len $end)) 63) -}}
{{- $front = printf "%s-%s" ($front | replace "." "-" | trunc (int (sub 54 (len $end))) | trimAll "-") ($front | sha256sum | trunc 8) -}}
{{- end -}}
{{- printf "%s%s" $front $end -}}
{{- end -}}

{{/* A Service's name has 63 characters at most, begins with a letter and has no dots; a release's name may. */}}
{{- define "vault-sync-operator.metricsService" -}}
{{- $full := include "vault-sync-operator.fullname" . -}}
{{- $plain := $full | replace "." "-" -}}
{{- if regexMatch "^[0-9]" $plain -}}
{{- $plain = printf "m-%s" $plain -}}
{{- end -}}
{{- $cut := $plain | trunc 28 -}}
{{- /* A cut that has the whole of the release's name in it is unique. */}}
{{- if or (ne $plain $full) (and (ne $plain $cut) (not (hasPrefix (printf "%s-" .Release.Name) $cut))) -}}
{{- $cut = printf "%s-%s" ($plain | trunc 19 | trimAll "-") ($full | sha256sum | trunc 8) -}}
{{- end -}}
{{- printf "%s-controller-manager-metrics-service" ($cut | trimSuffix "-") -}}
{{- end -}}

{{/* A Job's name has 63 characters at most. */}}
{{- define "vault-sync-operator.releaseJob" -}}
{{- include "vault-sync-operator.short" (list (include "vault-sync-operator.fullname" .) "-release") -}}
{{- end -}}

{{/* A Pod's name is its hostname too, which has 63 characters at most. */}}
{{- define "vault-sync-operator.testPod" -}}
{{- include "vault-sync-operator.short" (list (include "vault-sync-operator.fullname" .) "-test") -}}
{{- end -}}

{{- define "vault-sync-operator.namespace" -}}
{{- and .Values.namespace.create .Values.namespace.name | default .Release.Namespace -}}
{{- end -}}

{{- define "vault-sync-operator.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "vault-sync-operator.manager" .) "default") -}}
{{- end -}}

{{/* The account of what runs before an uninstall. To log in to Vault it has to be the operator's. */}}
{{- define "vault-sync-operator.releaseAccount" -}}
{{- if dig "deleteDocuments" false (.Values.uninstall | default dict) -}}
{{- include "vault-sync-operator.serviceAccount" . -}}
{{- else -}}
{{- printf "%s-release" (include "vault-sync-operator.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "vault-sync-operator.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{/* What all pods of the release have in common. */}}
{{- define "vault-sync-operator.instanceLabels" -}}
app.kubernetes.io/name: {{ include "vault-sync-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* A Deployment's selector cannot change: neither may these. */}}
{{- define "vault-sync-operator.selectorLabels" -}}
{{ include "vault-sync-operator.instanceLabels" . }}
control-plane: controller-manager
{{- end -}}

{{- define "vault-sync-operator.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "vault-sync-operator.labels" -}}
{{ include "vault-sync-operator.selectorLabels" . }}
{{ include "vault-sync-operator.commonLabels" . }}
{{- end -}}

{{/* The labels of what is not the operator itself: no selector must find it. */}}
{{- define "vault-sync-operator.helperLabels" -}}
{{ include "vault-sync-operator.instanceLabels" . }}
{{ include "vault-sync-operator.commonLabels" . }}
{{- end -}}

{{/* The port of an address such as :8080 or [::1]:8080. */}}
{{- define "vault-sync-operator.port" -}}
{{- splitList ":" . | last -}}
{{- end -}}

{{/* How many pods; a value that is not there counts as not set, as after `helm upgrade --reuse-values`. */}}
{{- define "vault-sync-operator.replicas" -}}
{{- $elect := .Values.controllerManager.leaderElect -}}
{{- if kindIs "invalid" .Values.replicaCount -}}
{{- $elect | ternary 2 1 -}}
{{- else if and (not $elect) (gt (int .Values.replicaCount) 1) -}}
{{- fail (printf "replicaCount: %d pods would all write at once, since controllerManager.leaderElect is false; set that to true, or replicaCount to 1" (int .Values.replicaCount)) -}}
{{- else -}}
{{- .Values.replicaCount -}}
{{- end -}}
{{- end -}}

{{/* "true" or "false": rights in a namespace can go before the objects in it do, and nobody could take a finalizer off then. */}}
{{- define "vault-sync-operator.finalizers" -}}
{{- if kindIs "invalid" .Values.finalizers -}}
{{- empty .Values.watchNamespaces -}}
{{- else -}}
{{- .Values.finalizers -}}
{{- end -}}
{{- end -}}

{{/* All kinds that can be sources, with commas. */}}
{{- define "vault-sync-operator.kinds" -}}
{{- $kinds := kindIs "invalid" .Values.kinds | ternary (list "Deployment") .Values.kinds -}}
{{- if dig "secretSources" true (.Values | merge dict) -}}
{{- $kinds = append $kinds "Secret" -}}
{{- end -}}
{{- if not $kinds -}}
{{- fail "kinds is empty and secretSources is false: nothing could be a source; name a kind" -}}
{{- end -}}
{{- join "," $kinds -}}
{{- end -}}

{{/* Name and keys of a Secret that is given by its name or as an object, as JSON. */}}
{{- define "vault-sync-operator.secret" -}}
{{- kindIs "string" . | ternary (dict "name" .) . | default dict | toJson -}}
{{- end -}}

{{/* Files that are made of values: in the ConfigMap, if there are any. */}}
{{- define "vault-sync-operator.files" -}}
{{- if dig "rules" list (.Values.pathPolicy | default dict) -}}
path-policy.yaml: |
  {{- toYaml .Values.pathPolicy | nindent 2 }}
{{ end }}
{{- if and .Values.vault.caBundle (not .Values.vault.caSecret) -}}
vault-ca.crt: |
  {{- .Values.vault.caBundle | nindent 2 }}
{{- end }}
{{- end -}}
